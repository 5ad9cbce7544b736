import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { coverage, parse, selected, write } from '../../web/address.js'

const shared = JSON.parse(readFileSync(new URL('../data/addresses.json', import.meta.url), 'utf8'))
const { cases, wrong } = shared
const named = (rows) => rows.map(([type, number, depth]) => ({ type, number, depth, name: type === 'middle' ? type : `${type}:${number}` }))
const blocks = named(shared.blocks)
const possible = blocks.filter((block) => block.depth).map((block) => block.name)

for (const [text, names] of cases)
  test(`${text} selects what the nodes select`, () => assert.deepEqual([...selected(text, blocks)], names))

for (const [text, names] of shared['transformer cases'])
  test(`${text} selects of a transformer what the nodes select`, () => assert.deepEqual([...selected(text, named(shared.transformer))], names))

for (const text of wrong) test(`'${text}' is refused`, () => assert.throws(() => parse(text)))

test('a written address selects the same blocks, for every set of them', () => {
  for (let bits = 1; bits < 1 << possible.length; bits++) {
    const names = new Set(possible.filter((_, i) => bits & (1 << i)))
    const text = write(names, blocks, 'all self')
    assert.ok(text.endsWith(' self'))
    const found = [...selected(text, blocks)].filter((name) => possible.includes(name))
    assert.deepEqual(new Set(found), names, text)
  }
})

test('it is short', () => {
  assert.equal(write(new Set(possible), blocks), 'all')
  assert.equal(write(new Set(['input:1', 'input:2', 'middle', 'single:0', 'single:1']), blocks), 'input:1-2, middle, single')
  assert.equal(write(new Set(['input:2', 'input:4']), blocks, 'input:1 !cross'), 'input:2-4 !cross')
  assert.equal(write(new Set(), blocks, 'all'), '')
})

test('a block of which some transformers are selected is told from a whole one', () => {
  const { whole, part } = coverage('output:0.1, input:1', blocks)
  assert.deepEqual([[...whole], [...part]], [['input:1'], ['output:0']])
  assert.deepEqual([...coverage('output, !output:0.1', blocks).part], ['output:0'])
})

test('an error says where the wrong part stands', () => {
  for (const [text, column, length] of [['input:4, inputt:5', 9, 8], ['self cross', 5, 5], ['', 0, 0]])
    assert.throws(() => parse(text), (error) => error.column === column && error.length === length)
})
