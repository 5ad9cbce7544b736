import assert from 'node:assert/strict'
import { test } from 'node:test'
import { pointsOf, toggled } from '../../web/points.js'

const near = (at) => ([x, y]) => Math.hypot(x - at[0], y - at[1]) < 0.02
const toggle = (text, at) => toggled(text, at, near(at))

test('points are read as the node reads them', () => {
  assert.deepEqual(pointsOf('0.3 0.5, 0.7 .5;1 0\n 0.1  0.2'), [[0.3, 0.5], [0.7, 0.5], [1, 0], [0.1, 0.2]])
  assert.deepEqual(pointsOf(' '), [])
  assert.deepEqual(pointsOf('0.3, cat dog, 0.1 0.2 0.3, 0.5 0.5'), [[0.5, 0.5]])
})

test('a click adds a point, one near it takes it back', () => {
  assert.deepEqual(toggle('', [0.5, 0.25]), { text: '0.5 0.25', point: [0.5, 0.25], added: true })
  assert.deepEqual(toggle('0.1 0.2, ', [1 / 3, 1]), { text: '0.1 0.2, 0.333 1', point: [0.333, 1], added: true })
  assert.deepEqual(toggle('0.1 0.2; 0.5 0.5, 0.9 0.9', [0.51, 0.5]), { text: '0.1 0.2, 0.9 0.9', point: [0.5, 0.5], added: false })
  assert.equal(toggle('0.5 0.5', [0.49, 0.5]).text, '')
})

test('what is no point stays as it was typed', () => {
  assert.equal(toggle('cat, 0.5 0.5', [0.5, 0.5]).text, 'cat')
  assert.equal(toggle('cat', [0.5, 0.5]).text, 'cat, 0.5 0.5')
})
