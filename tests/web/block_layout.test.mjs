import assert from 'node:assert/strict'
import { test } from 'node:test'
import { about, label, place } from '../../web/block_layout.js'

const block = (type, number, factor, depth = 1) => ({
  type, number, depth, factor, heads: 8, dim_head: 40, grid: null, name: type === 'middle' ? type : `${type}:${number}`
})
const unet = [
  ...[1, 1, 2, 2, 4].map((factor, i) => block('input', i, factor)),
  block('middle', 0, 4),
  ...[4, 4, 2, 2, 1].map((factor, i) => block('output', i, factor))
]
const overlap = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height

function check({ cells, width, height }, count) {
  assert.equal(cells.length, count)
  for (const cell of cells) {
    assert.ok(cell.x >= 0 && cell.y >= 0 && cell.x + cell.width <= width && cell.y + cell.height <= height)
    for (const other of cells) assert.ok(other === cell || !overlap(cell, other), `${cell.label} on ${other.label}`)
  }
}

test('a UNet goes down on the left and up on the right, and no cell covers another', () => {
  const layout = place(unet)
  check(layout, 11)
  const at = Object.fromEntries(layout.cells.map((cell) => [cell.block.name, cell]))
  assert.ok(at['input:0'].y < at['input:4'].y && at['output:0'].y > at['output:4'].y)
  assert.ok(at['input:4'].x > at['input:0'].x && at['output:0'].x < at['output:4'].x)
  assert.ok(layout.width <= 378) // what the node of the example has
  assert.ok(place([...unet, block('output', 5, 8)]).width <= 398) // what a new node has
  assert.ok(at.middle.y > at['output:0'].y && at['input:0'].x < at['output:0'].x)
})

test('a transformer has a field of numbers for each type', () => {
  const blocks = [...Array(19).keys()].map((i) => block('double', i, 0))
  const layout = place([...blocks, ...[...Array(38).keys()].map((i) => block('single', i, 0))])
  check(layout, 57)
  assert.deepEqual(layout.titles.map((title) => title.text), ['double  8x40', 'single  8x40'])
})

test('what a label says in numbers is said in words', () => {
  assert.equal(about({ ...block('input', 4, 2, 10), grid: [32, 64] }), 'input:4: 8 heads of 40 channels, 32 x 64 tokens, 10 deep')
  assert.equal(about(block('middle', 0, 4)), 'middle: 8 heads of 40 channels')
})

test('labels say heads, tokens and depth where they are known', () => {
  assert.equal(label({ ...block('input', 4, 2, 10), grid: [32, 64] }), 'input:4  8x40  32x64  10 deep')
  assert.equal(label(block('input', 4, 2)), 'input:4  8x40  1/2')
  assert.equal(label(block('input', 0, 1, 0)), 'input:0')
})
