import assert from 'node:assert/strict'
import { test } from 'node:test'
import { grouped, ordered, told, written } from '../../web/inspector_rows.js'

const row = (slot, block, owner, calls, trouble = '') => ({ slot, block, owner, schedule: '-', calls, seconds: null, trouble, beside: '' })
const rows = [
  row('attn1', 'output:10', '1. zero attn1.out on output', 8),
  row('attn2.forward', 'input:3', 'pack.fn', null, 'patch 2 replaces this attention, so it is not called'),
  row('attn1', 'output:2', '1. zero attn1.out on output', 8),
  row('attn1', 'middle', 'pack.fn', 12)
]

test('rows stand together by owner or by slot, in the order in which they come', () => {
  assert.deepEqual([...grouped(rows, 'owner')].map(([name, some]) => [name, some.length]), [['1. zero attn1.out on output', 2], ['pack.fn', 2]])
  assert.deepEqual([...grouped(rows, 'slot')].map(([name, some]) => [name, some.length]), [['attn1', 3], ['attn2.forward', 1]])
})

test('a group tells its places and how many are in trouble', () => {
  assert.equal(told('pack.fn', grouped(rows, 'owner').get('pack.fn')), 'pack.fn: 2 places, \u26a0 1 without effect or at risk')
  assert.equal(told('x', [rows[0]]), 'x: 1 place')
})

test('blocks are sorted by their numbers, calls from the largest, troubles first', () => {
  assert.deepEqual(ordered(rows, 'block').map(({ block }) => block), ['input:3', 'middle', 'output:2', 'output:10'])
  assert.deepEqual(ordered(rows, 'calls').map(({ calls }) => calls), [12, 8, 8, null])
  assert.deepEqual(ordered(rows, 'trouble').map(({ block }) => block), ['input:3', 'output:10', 'output:2', 'middle'])
  assert.equal(rows[0].block, 'output:10') // what was given stays
})

test('what nobody counted is a dash, and the state says whether it ran', () => {
  assert.deepEqual(['calls', 'seconds', 'trouble', 'slot'].map((column) => written(rows[0], column)), ['8', '-', '\u2713 ran', 'attn1'])
  assert.equal(written(rows[1], 'calls'), '-')
  assert.equal(written(rows[1], 'trouble'), '\u26a0 patch 2 replaces this attention, so it is not called')
  assert.equal(written({ ...rows[0], seconds: 0.01234 }, 'seconds'), '12.3 ms')
})
