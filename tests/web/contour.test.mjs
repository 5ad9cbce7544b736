import assert from 'node:assert/strict'
import { test } from 'node:test'
import { contour } from '../../web/contour.js'

test('nothing is around a map that is all above or all below', () => {
  assert.deepEqual(contour([9, 9, 9, 9], 2, 2, 5), [])
  assert.deepEqual(contour([1, 1, 1, 1], 2, 2, 5), [])
})

test('an edge lies where the values pass the level', () => {
  assert.deepEqual(contour([0, 100, 0, 100], 2, 2, 25), [[0.375, 0.25, 0.375, 0.75]])
  assert.deepEqual(contour([0, 0, 100, 100], 2, 2, 75), [[0.25, 0.625, 0.75, 0.625]])
})

test('the line around a hill is closed, and all of its points are at the level', () => {
  const [size, level] = [21, 90]
  const hill = (x, y) => 255 * Math.exp(-((x - 10) ** 2 + (y - 10) ** 2) / 30)
  const values = [...Array(size * size).keys()].map((i) => hill(i % size, Math.floor(i / size)))
  const lines = contour(values, size, size, level)
  const ends = new Map()
  for (const [x, y, x2, y2] of lines) for (const end of [[x, y], [x2, y2]]) {
    const name = end.map((value) => value.toFixed(6)).join()
    ends.set(name, (ends.get(name) ?? 0) + 1)
    assert.ok(Math.abs(hill(end[0] * size - 0.5, end[1] * size - 0.5) - level) < 4)
  }
  assert.ok(lines.length > 16 && [...ends.values()].every((count) => count === 2))
})
