import assert from 'node:assert/strict'
import { test } from 'node:test'
import { takers } from '../../web/others.js'

const block = (type, number, depth) => ({ type, number, depth, heads: 8, dim_head: 40, factor: 1, grid: null, name: type === 'middle' ? type : `${type}:${number}` })
const blocks = [block('input', 0, 0), block('input', 1, 2), block('middle', 0, 1), block('output', 0, 0)]
const of = (...others) => Object.fromEntries([...takers(others, blocks)].filter(([, some]) => some.length))
const node = (addresses, whole = false) => ({ title: 'a node', addresses, whole })

test('each node marks its blocks, pale where it takes a part', () => {
  assert.deepEqual(of(node(['middle, input:1.1']), node(['all'])), {
    'input:1': [{ index: 0, whole: false }, { index: 1, whole: true }],
    middle: [{ index: 0, whole: true }, { index: 1, whole: true }]
  })
})

test('blocks without attention are marked by nodes for whole blocks only', () => {
  assert.deepEqual(Object.keys(of(node(['all'], true))), ['input:0', 'input:1', 'middle', 'output:0'])
})

test('rules are marked by all their addresses, and one that cannot be read by none', () => {
  assert.deepEqual(Object.keys(of(node(['input', 'middle self']))), ['input:1', 'middle'])
  assert.deepEqual(of(node(['inputs', ''])), {})
})
