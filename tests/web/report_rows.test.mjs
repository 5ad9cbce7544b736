import assert from 'node:assert/strict'
import { test } from 'node:test'
import { blocksOf, closed, grouped, MEASURES, ordered, rowsOf, share } from '../../web/report_rows.js'

const row = (block, attention, calls, time, patches = '') => ({ block, attention, heads: '4 x 16', function: 'pytorch', calls, steps: '1-4', time, patches, note: '' })
const rows = [
  row('input:3', 'self', 4, '10 %', 'zero attn1.out on all x4'),
  row('input:3.1', 'self', 4, '-'),
  row('middle', 'self', 8, '30 %', 'zero attn1.out on all x4, prompt-to-prompt on middle 0-80%, self-attention to 100% x2'),
  row('middle', 'cross', 2, '60 %')
]

test('rows stand together by the type of their block', () => {
  assert.deepEqual([...grouped(rows)].map(([type, some]) => [type, some.length]), [['input', 2], ['middle', 2]])
})

test('numbers are sorted from the largest, texts from a, and the block keeps the order of the model', () => {
  assert.deepEqual(ordered(rows, 'calls').map(({ calls }) => calls), [8, 4, 4, 2])
  assert.deepEqual(ordered(rows, 'time').map(share), [0.6, 0.3, 0.1, 0])
  assert.deepEqual(ordered(rows, 'attention').map(({ attention }) => attention), ['cross', 'self', 'self', 'self'])
  assert.deepEqual(ordered(rows, 'block'), rows)
  assert.equal(rows[0].block, 'input:3') // what was given stays
})

test('blocks are found once each, with their transformers', () => {
  assert.deepEqual(blocksOf([...rows, row('-', '-', 1, '-')]).map(({ name, type, number, depth, heads }) => [name, type, number, depth, heads]), [
    ['input:3', 'input', 3, 2, 4],
    ['middle', 'middle', 0, 1, 4]
  ])
  assert.equal(rowsOf(rows, 'input:3').length, 2)
})

test('a UNet whose other blocks have no attention is drawn without gaps', () => {
  assert.deepEqual(closed(blocksOf([row('input:3', 'self', 1, '-'), row('input:5', 'self', 1, '-'), row('middle', 'self', 1, '-')])).map(({ name, number }) => [name, number]), [
    ['input:3', 0],
    ['input:5', 1],
    ['middle', 0]
  ])
  assert.deepEqual(closed(blocksOf([row('double:2', 'joint', 1, '-')])).map(({ number }) => number), [2])
})

test('a block is as hot as all its rows', () => {
  const middle = rowsOf(rows, 'middle')
  assert.ok(Math.abs(MEASURES.time(middle) - 0.9) < 1e-12)
  assert.equal(MEASURES.calls(middle), 10)
  assert.equal(MEASURES.patches(middle), 6)
  assert.equal(MEASURES.patches(rowsOf(rows, 'input:3')), 4)
})
