import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { SHAPED, added, moved, points, snapped, strength, write } from '../../web/curve.js'

const { cases, wrong } = JSON.parse(readFileSync(new URL('../data/curves.json', import.meta.url), 'utf8'))
const PLACES = [0, 0.25, 0.5, 0.75, 1]

for (const [text, values] of cases)
  test(`'${text}' is what the nodes read`, () => {
    const curve = strength(text)
    PLACES.forEach((x, i) => assert.ok(Math.abs(curve(x) - values[i]) < 1e-9, `${x}: ${curve(x)}`))
  })

for (const text of wrong) test(`'${text}' is refused`, () => assert.throws(() => strength(text)))

test('points are written as they are read', () => {
  for (const text of ['0:0, 0.5:1, 1:0', '0.3:0.25']) assert.equal(write(points(text)), text)
  assert.equal(write(points('linear')), '0:1, 1:0')
  assert.equal(write(points('cosine')), '0:1, 0.25:0.85, 0.5:0.5, 0.75:0.15, 1:0')
})

test('a moved point stays between its neighbours and in the plot', () => {
  const some = points('0:0, 0.5:1, 1:0')
  assert.deepEqual(moved(some, 1, [2, -1])[1], [0.99, 0])
  assert.deepEqual(moved(some, 0, [0.7, 0.5])[0], [0.49, 0.5])
  assert.equal(write(moved(some, 2, [0.8, 2])), '0:0, 0.5:1, 0.8:1')
  strength(write(moved(some, 1, [0, 0.123])))
})

test('a new point finds its place, and none is added upon another', () => {
  const some = points('0:0, 1:0')
  assert.equal(write(added(some, [0.5, 1])), '0:0, 0.5:1, 1:0')
  assert.equal(added(some, [0.001, 1]), some)
})

test('points lie on the marks of both axes unless they are free', () => {
  assert.deepEqual(snapped([0.234, 0.77], false), [0.25, 0.75])
  assert.deepEqual(snapped([0.234, 0.77], true), [0.234, 0.77])
})

test('the shapes to begin with are curves', () => {
  for (const text of Object.values(SHAPED)) assert.ok(points(text).length >= 2, text)
  assert.equal(strength(SHAPED.late)(0.25), 0)
  assert.equal(strength(SHAPED.early)(0.75), 0)
})
