import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bytes, colour, isPoint, labelsOf, layerOf, ranked, rescaled, span } from '../../web/heatmap.js'

// Two words and a point, two pictures of 2x3.
const values = [...Array(36).keys()].map((i) => (i * 7) % 256)
const maps = {
  labels: ['cat', 'dog', '0.5 0.5'], words: 2, pictures: 2, height: 2, width: 3, images: [], others: null, frames: 1, shown: [1, 2],
  low: [[0, 0], [0.1, 0.1], [0, 0]], high: [[1, 0.5], [0.3, 0.3], [9, 9]],
  maps: Buffer.from(values).toString('base64')
}

test('each map is cut out of the bytes of all', () => {
  assert.deepEqual([...bytes(maps, 0, 0)], values.slice(0, 6))
  assert.deepEqual([...bytes(maps, 1, 1)], values.slice(18, 24))
  assert.deepEqual([...bytes(maps, 2, 1)], values.slice(30, 36))
})

test('words and points are ranked by their true values', () => {
  const found = ranked(maps, 1, 0.99, 0.99)
  assert.deepEqual(found.map(({ label }) => label), ['0.5 0.5', 'dog', 'cat'])
  const byte = values[23] / 255
  assert.ok(Math.abs(found[1].value - (0.1 + 0.2 * byte)) < 1e-12)
  assert.ok(Math.abs(found[2].value - (0.5 * values[11]) / 255) < 1e-12)
  assert.deepEqual(ranked(maps, 0, 0, 0).map(({ index }) => index), [2, 1, 0])
  assert.equal(ranked(maps, 0, 1, 1).length, 3) // the edge belongs to the picture
})

test('colours go from dark blue to yellow and get lighter', () => {
  assert.deepEqual(colour(0), [0, 33, 77])
  assert.deepEqual(colour(255), [255, 235, 69])
  const light = [...Array(256).keys()].map((i) => { const [r, g, b] = colour(i); return 0.2126 * r + 0.7152 * g + 0.0722 * b })
  for (let i = 1; i < 256; i++) assert.ok(light[i] > light[i - 1] - 0.6)
  assert.ok(light[255] > light[128] && light[128] > light[0])
})

test('one scale of all words shows the weaker one weaker', () => {
  assert.deepEqual(span(maps, 1, 0, false), [0.1, 0.3])
  assert.deepEqual(span(maps, 1, 0, true), [0, 1]) // the point has its own
  assert.deepEqual(span(maps, 2, 0, true), [0, 9])
  assert.deepEqual(rescaled(maps, 1, 0, [0.1, 0.3]), [...bytes(maps, 1, 0)])
  const common = rescaled(maps, 1, 0, [0, 1])
  bytes(maps, 1, 0).forEach((value, i) => assert.ok(Math.abs(common[i] - 255 * (0.1 + (0.2 * value) / 255)) <= 0.5))
})

test('other words of the prompt have maps of their own size, and are words', () => {
  const others = { labels: ['a', 'on'], pictures: 2, height: 1, width: 1, low: [[0.2, 0.2], [0, 0]], high: [[0.2, 0.2], [2, 2]], maps: Buffer.from([0, 0, 255, 128]).toString('base64') }
  const all = { ...maps, others }
  assert.deepEqual(labelsOf(all), ['cat', 'dog', '0.5 0.5', 'a', 'on'])
  assert.deepEqual([0, 2, 3].map((label) => isPoint(all, label)), [false, true, false])
  assert.deepEqual(layerOf(all, 4), { layer: others, index: 1 })
  assert.deepEqual(span(all, 3, 0, false), [0.2, 0.2])
  assert.deepEqual(span(all, 0, 0, true), [0, 2])
  assert.deepEqual(rescaled(all, 4, 0, [0, 2]), [255])
  assert.deepEqual(ranked(all, 0, 0, 0).map(({ label }) => label), ['0.5 0.5', 'on', 'a', 'dog', 'cat'])
})
