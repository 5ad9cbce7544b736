import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { holds, paint, shares, thinned } from '../../web/area_masks.js'
import { added, changed, moved, read, resized } from '../../web/areas.js'
import { speak } from '../../web/say.js'

const { cases, timed, wrong, painted } = JSON.parse(readFileSync(new URL('../data/areas.json', import.meta.url)))
const plain = (shape) => ('points' in shape ? shape : [shape.x, shape.y, shape.width, shape.height])

test('texts are read as the nodes read them', () => {
  for (const [text, wanted] of cases) {
    const { areas, fault } = read(text)
    assert.equal(fault, '', text)
    assert.deepEqual(areas.map(({ prompt, shapes }) => [prompt, shapes.map(plain)]), wanted, text)
  }
})

test('frames of a video are read, and stay with an area that is changed', () => {
  for (const [text, wanted] of timed) {
    const { areas, fault } = read(text)
    assert.equal(fault, '', text)
    assert.deepEqual(areas.map(({ prompt, shapes, frames }) => [prompt, shapes.map(plain), frames]), wanted, text)
  }
  const text = 'left frames 0-50% fade 2 -> a\n1:1 frames 8- -> b | c'
  assert.equal(changed(text, 0, moved(read(text).areas[0], 0.1, 0)), '0.1 0 0.5 1 frames 0-50% fade 2 -> a\n1:1 frames 8- -> b | c')
  assert.equal(changed(text, 2, null), 'left frames 0-50% fade 2 -> a\nleft frames 8- -> b')
})

test('wrong texts are told with their line', () => {
  for (const text of wrong) assert.match(read(`# one\n${text}`).fault, /^line 2: /, text)
  assert.deepEqual(read('left -> a\nwrong').areas.map(({ prompt }) => prompt), ['a']) // what stands before is shown
})

test('a change writes its own line only, and one of several prompts as a line each', () => {
  const text = '# mine\n1:1 -> a | b\n0.1 0.1 0.2 0.2 -> c'
  const moved = changed(text, 1, { shapes: [{ x: 0.6, y: 0, width: 0.4, height: 1 }], prompt: 'b' })
  assert.equal(moved, '# mine\nleft -> a\n0.6 0 0.4 1 -> b\n0.1 0.1 0.2 0.2 -> c')
  assert.equal(changed(text, 2, null), '# mine\n1:1 -> a | b')
  assert.equal(changed(text, 0, null), '# mine\nright -> b\n0.1 0.1 0.2 0.2 -> c')
})

test('an area is added at the end, and numbers are short', () => {
  const box = { x: 1 / 3, y: 0.25, width: 0.123456, height: 0.5 }
  assert.equal(added('left -> a\n\n', { shapes: [box], prompt: '' }), 'left -> a\n0.333 0.25 0.123 0.5 -> ')
  assert.equal(added('', { shapes: [{ width: 0.1, points: [[0.12345, 0.5]] }], prompt: 'x' }), 'brush 0.1: 0.123 0.5 -> x')
})

test('what was written is read again', () => {
  for (const [text] of cases.filter(([, wanted]) => wanted.length)) {
    const { areas } = read(text)
    const again = areas.reduce((all, area) => added(all, area), '')
    assert.deepEqual(read(again).areas.map(({ prompt }) => prompt), areas.map(({ prompt }) => prompt))
  }
})

test('an area moves as a whole inside of the picture, and a box is resized by its corners', () => {
  const box = { x: 0.5, y: 0, width: 0.4, height: 0.5 }
  const area = { shapes: [box, { width: 0.1, points: [[0.1, 0.2]] }], prompt: 'a', line: 0 }
  const near = (one, other) => Object.keys(other).every((key) => Math.abs(one[key] - other[key]) < 1e-9)
  const [there, line] = moved(area, 0.25, 0.5).shapes
  assert.ok(near(there, { x: 0.6, y: 0.5, width: 0.4, height: 0.5 }) && near(line.points[0], [0.2, 0.7])) // as a whole
  const to = (corner, place) => resized({ ...area, shapes: [box] }, corner, place).shapes[0]
  assert.ok(near(to([1, 1], [0.7, 1.5]), { x: 0.5, y: 0, width: 0.2, height: 1 }))
  assert.ok(near(to([0, 1], [0.1, 0.25]), { x: 0.1, y: 0, width: 0.8, height: 0.25 }))
  assert.ok(near(to([0, 0], [0.89, 0.5]), { x: 0.88, y: 0.48, width: 0.02, height: 0.02 })) // never nothing
})

test('a place is in a box, near a line, and not where it was erased', () => {
  const square = [100, 100]
  const half = { x: 0, y: 0, width: 0.5, height: 1 }
  const line = { width: 0.2, points: [[0.1, 0.5], [0.9, 0.5]] }
  assert.ok(holds([half], square, [0.4, 0.9]) && !holds([half], square, [0.6, 0.9]))
  assert.ok(holds([line], square, [0.5, 0.59]) && !holds([line], square, [0.5, 0.61])) // between its points
  assert.ok(holds([line], [200, 100], [0.5, 0.69]) && !holds([line], [200, 100], [0.5, 0.71])) // as wide as a part of the longer side
  assert.ok(!holds([half, { ...line, erases: true }], square, [0.3, 0.5]) && holds([half, { ...line, erases: true }, line], square, [0.3, 0.5]))
})

test('masks are those that the nodes paint', () => {
  for (const [text, size, soft, wanted] of painted) {
    const mask = paint(read(text).areas[0].shapes, size, soft)
    assert.equal(mask.length, wanted.length)
    for (const [i, value] of wanted.entries()) assert.ok(Math.abs(mask[i] - value) < 2e-4, `${text}: ${mask[i]} is not ${value} at ${i}`)
  }
})

test('the last area is on top', () => {
  const held = shares([[1, 1, 0.5], [0, 0.25, 0.5]].map((values) => Float32Array.from(values)))
  assert.deepEqual(held.map((one) => [...one]), [[1, 0.75, 0.25], [0, 0.25, 0.5]])
})

test('a straight stroke has two points, and a bent one keeps its bends', () => {
  const straight = [...Array(20).keys()].map((i) => [i / 20, i / 40])
  assert.deepEqual(thinned(straight, 0.003), [straight[0], straight[19]])
  const corner = [...straight, ...straight.map(([x], i) => [0.95, 0.475 + i / 20])]
  assert.deepEqual(thinned(corner, 0.003).length, 3)
  assert.deepEqual(thinned([[0.5, 0.5]], 0.003), [[0.5, 0.5]])
})

test('faults are told in the language of the page, with a place that is none told apart from a time', () => {
  assert.match(read('left 0-50% -> a').fault, /after the word frames/)
  assert.match(read('left, top -> a').fault, /join several by \+/)
  const { patchbay } = JSON.parse(readFileSync(new URL('../../locales/fr/main.json', import.meta.url)))
  speak({ fr: { patchbay } }, 'fr')
  for (const text of wrong) assert.match(read(text).fault, /^ligne 1 : .*(écrivez|derrière|joignez|mettez|contient|dépasse)/, text)
  speak({}, 'en')
})
