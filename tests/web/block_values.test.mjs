import assert from 'node:assert/strict'
import { test } from 'node:test'
import { heated, lines, meaning, measures } from '../../web/block_values.js'

const row = (name, calls, share, change = null, entropy = null) => ({ name, calls, seconds: share, share, patches: {}, change, measured: 2, entropy, map: null })
const rows = [row('input:1', 4, 0.25, 0, 1), row('middle', 8, 0.5, 0.2, 3), row('output:1', 0, 0.25, null, 2)]

test('a map is coloured by what is known, and by nothing before a run', () => {
  assert.deepEqual(measures([]), [])
  assert.deepEqual(measures([row('middle', 1, 1)]), ['choice', 'calls', 'time'])
  assert.deepEqual(measures(rows), ['choice', 'calls', 'time', 'change', 'entropy'])
  assert.equal(new Set(measures(rows).map(meaning)).size, 5)
})

test('the scale goes from nothing to the most, of entropy from the least', () => {
  assert.deepEqual(heated(rows, 'calls'), { least: 0, most: 8, heat: new Map([['input:1', 0.5], ['middle', 1], ['output:1', 0]]) })
  assert.deepEqual(heated(rows, 'change'), { least: 0, most: 0.2, heat: new Map([['input:1', 0], ['middle', 1]]) })
  assert.deepEqual(heated(rows, 'entropy'), { least: 1, most: 3, heat: new Map([['input:1', 0], ['middle', 1], ['output:1', 0.5]]) })
  assert.equal(heated(rows, 'choice').heat.size, 0)
  assert.deepEqual([...heated([row('middle', 0, 0)], 'calls').heat], [['middle', 0]]) // no run of anything
})

test('the numbers of a block are told, and those that nobody measured are not', () => {
  assert.deepEqual(lines({ ...rows[1], patches: { '1. zero': 3 } }), [
    'middle: 8 calls, 50 % of the time (500 ms)',
    'change 20 % in 2 measured calls',
    'entropy 3.00 nats',
    '1. zero x3'
  ])
  assert.equal(lines(row('middle', 1, 1)).length, 1)
})
