import assert from 'node:assert/strict'
import { test } from 'node:test'
import { selected } from '../../web/address.js'
import { layoutOf } from '../../web/models.js'
import { changed, inverted } from '../../web/picking.js'

const sdxl = layoutOf('SDXL').blocks
const flux = layoutOf('Flux').blocks
const set = (text, name, wanted, blocks) => changed(text, blocks.find((block) => block.name === name), wanted, blocks)

for (const [text, name, wanted, blocks, result] of [
  ['input:4-8, !middle', 'output:1', true, sdxl, 'input:4-8, output:1, !middle'],
  ['output:1.1, middle', 'input:4', true, sdxl, 'input:4, middle, output:1.1'],
  ['output:1.1', 'output:1', true, sdxl, 'output:1'],
  ['output:1.1, output:2', 'output:1', false, sdxl, 'output:2'],
  ['single:10-19, double:3', 'double:3', false, flux, 'single:10-19'],
  ['single:10-19, i4', 'middle', true, sdxl, 'i4, middle, single:10-19'],
  ['single:10-19', 'single:12', false, flux, 'single:10-11, single:13-19'],
  ['single:10-99', 'single:12', false, flux, 'single:10-11, single:13-99'],
  ['all', 'middle', false, sdxl, 'all, !middle'],
  ['all, !middle', 'middle', true, sdxl, 'all'],
  ['!middle', 'middle', true, sdxl, 'all'],
  ['!middle, !output', 'output:1', true, sdxl, '!middle, !output:0, !output:2-5'],
  ['self', 'single:3', false, flux, 'all, !single:3 self'],
  ['single', 'single:37', false, flux, 'single:0-36'],
  ['single:0-36 self', 'single:37', true, flux, 'single self'],
  ['input:4-5, !input:5', 'input:5', true, sdxl, 'input:4-5'],
  ['input, !input:5', 'input:7', false, sdxl, 'input:4-5, input:8, !input:5'],
  ['middle', 'single:30', true, flux, 'single:30, middle'],
  ['middle', 'single:6', false, flux, 'single:5, single:7-12'],
  ['all, !output:1.1', 'output:1', true, sdxl, 'all'],
  ['not an address', 'middle', true, sdxl, 'middle']
])
  test(`${wanted ? '+' : '-'} ${name} makes of '${text}' '${result}'`, () => assert.equal(set(text, name, wanted, blocks), result))

test('no block is no address', () => {
  assert.equal(set('middle', 'middle', false, sdxl), '')
  assert.equal(set('middle, !input', 'middle', false, sdxl), '')
  assert.equal(set('all, !input, !output', 'middle', false, sdxl), '')
  assert.equal(inverted('all', flux), '')
})

test('what is taken in or out changes no other block, for every block and many addresses', () => {
  const texts = ['all', 'middle', 'input', 'output:2-', '!input:4', 'output:1.1, middle', 'all, !middle, !output:0.1', 'input, !i4 self', 'double, single:3-']
  for (const blocks of [sdxl, flux]) {
    const possible = blocks.filter((block) => block.depth)
    for (const text of texts)
      for (const block of possible)
        for (const wanted of [true, false]) {
          const before = selected(text, possible)
          const result = changed(text, block, wanted, blocks)
          const after = result ? selected(result, possible) : new Set()
          wanted ? before.add(block.name) : before.delete(block.name)
          assert.deepEqual([...after].sort(), [...before].sort(), `${text} ${wanted} ${block.name}: ${result}`)
        }
  }
})

test('an address is turned round', () => {
  assert.equal(inverted('double self', flux), 'single self')
  assert.equal(inverted('!middle', sdxl), 'middle')
  assert.equal(inverted('not an address', flux), 'all')
})
