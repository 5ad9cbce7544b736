import assert from 'node:assert/strict'
import { test } from 'node:test'
import { cut, level, stateOf } from '../../web/live_mask.js'

const small = { labels: ['circle'], pictures: 2, height: 2, width: 2, low: [[0, 0.5]], high: [[1, 1]], maps: btoa(String.fromCharCode(0, 51, 204, 255, 0, 51, 204, 255)) }
const maps = { ...small, step: 3, steps: 8, limit: 0.6, since: 0, covers: [0.25, 0.5, 0.031], shown: [1, 3] }
const now = { word: 'circle', threshold: 0.6, stopped: false }

test('what a node says is the step, since when its mask holds, and how much of the shown picture it covers', () => {
  assert.equal(stateOf(maps, 0, now), 'step 3: gathering; the mask would cover 25.0 %')
  assert.equal(stateOf({ ...maps, since: 2 }, 1, now), 'step 3: the mask of step 2 holds and covers 3.1 %')
})

test('the line lies at the threshold of the map, whose bytes go from its own least to its own highest value', () => {
  assert.equal(level({ low: [[0]], high: [[1]] }, 0, 0, 0.6), 153)
  assert.ok(Math.abs(level({ low: [[0, 0.2]], high: [[1, 1.2]] }, 0, 1, 0.7) - 127.5) < 1e-9)
  assert.equal(level({ low: [[0.8]], high: [[1]] }, 0, 0, 0.6), 0, 'all of it lies in the mask')
  assert.equal(level({ low: [[0]], high: [[0.5]] }, 0, 0, 0.6), 255)
  assert.equal(level({ low: [[0]], high: [[1]] }, 0, 0, 0), 0, 'the map itself is the mask')
  assert.equal(level({ low: [[0]], high: [[0]] }, 0, 0, 0.6), 0)
})

test('with another threshold it says what the drawn map would cover', () => {
  const told = (threshold, picture = 0) => stateOf({ ...maps, since: 2 }, picture, { ...now, threshold })
  assert.equal(told(0.1), 'step 3: the mask of step 2 holds and covers 25.0 %; with this threshold it would cover 75.0 %')
  assert.match(told(0.85), /would cover 25.0 %$/)
  assert.match(told(0.4, 1), /would cover 100.0 %$/, 'the second map goes from 0.5 to 1')
  assert.match(told(0), /would cover 50.0 %$/, 'the map itself is the mask')
})

test('a mask of another word, and one of a run that was stopped, say so', () => {
  assert.equal(stateOf(maps, 0, { ...now, word: 'square' }), 'Of the word circle, before the change: step 3: gathering; the mask would cover 25.0 %')
  assert.equal(stateOf(maps, 0, { ...now, stopped: true }), 'step 3: gathering; the mask would cover 25.0 %; the run stopped at step 3 of 8')
  assert.equal(stateOf({ ...maps, step: 8 }, 0, { ...now, stopped: true, word: ' circle, ' }), 'step 8: gathering; the mask would cover 25.0 %')
  assert.equal(stateOf(maps, 0, { ...now, word: '' }), 'step 3: gathering; the mask would cover 25.0 %', 'it comes by a link that nobody can read')
})

test('the copied and the darkened mask end at the drawn line', () => {
  assert.ok(Math.abs(cut({ low: [[0.2]], high: [[1]] }, 0, 0, 0.6) - level({ low: [[0.2]], high: [[1]] }, 0, 0, 0.6) / 255) < 1e-12)
  assert.equal(cut({ low: [[0.7]], high: [[1]] }, 0, 0, 0.6), -1)
  assert.equal(cut({ low: [[0]], high: [[0.5]] }, 0, 0, 0.6), 2)
  assert.equal(cut({ low: [[0]], high: [[1]] }, 0, 0, 0), 0)
})
