import assert from 'node:assert/strict'
import { test } from 'node:test'
import { recipe, sameIn } from '../../web/same_run.js'

const node = (class_type, inputs) => ({ class_type, inputs })
const first = { 1: node('Load', { name: 'a' }), 2: node('Draw', { model: ['1', 0], seed: 3 }), 3: node('Compare', { images: ['2', 0], strengths: '0' }), 4: node('Save', { images: ['2', 0] }) }
const renamed = { 7: node('Compare', { strengths: '0', images: ['5:9', 0] }), '5:9': node('Draw', { seed: 3, model: ['8', 0] }), 8: node('Load', { name: 'a' }) }
const changed = (id, inputs) => ({ ...first, [id]: node(first[id].class_type, { ...first[id].inputs, ...inputs }) })
const run = (id, prompt) => ({ prompt: [0, id, prompt], outputs: {} })

test('the same nodes have the same recipe, whatever their ids, order and what stands beside them', () => {
  assert.equal(recipe(first, '3'), recipe(renamed, '7'))
})

test('another widget, output or node before it is another recipe', () => {
  const others = [changed(1, { name: 'b' }), changed(3, { strengths: '1' }), changed(3, { images: ['2', 1] }), changed(3, { images: ['1', 0] })]
  for (const other of others) assert.notEqual(recipe(other, '3'), recipe(first, '3'))
})

test('a node that leads to itself by two ways is read once', () => {
  const ladder = { 0: node('Load', {}) }
  for (let i = 1; i < 60; i++) ladder[i] = node('Join', { a: [String(i - 1), 0], b: [String(i - 1), 0] })
  assert.equal(JSON.parse(recipe(ladder, '59')).length, 60)
})

test('runs of other workflows are found by what they did', () => {
  const runs = [run('now', renamed), run('other', changed(2, { seed: 4 })), run('before', first)]
  assert.deepEqual(sameIn(runs, 'now', '7').map(([{ prompt }, id]) => [prompt[1], id]), [['now', '7'], ['before', '3']])
  assert.deepEqual(sameIn(runs, 'gone', '7'), [])
  assert.deepEqual(sameIn(runs, 'before', '9'), [])
})
