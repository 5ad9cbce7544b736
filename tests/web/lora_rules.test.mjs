import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { presets } from '../../web/lora_presets.js'
import { partly, read, strengths } from '../../web/lora_rules.js'

const { right, wrong } = JSON.parse(readFileSync(new URL('../data/lora_rules.json', import.meta.url), 'utf8'))
const block = (type, number, depth = 1) => ({ type, number, depth, name: type === 'middle' ? type : `${type}:${number}` })
const SMALL = [block('input', 0, 0), block('input', 1, 2), block('middle', 0), block('output', 0)]
const over = (text, blocks = SMALL) =>
  Object.fromEntries([...strengths(read(text).rules, blocks)].map(([name, some]) => [name, some.map(({ from, to, value }) => [from, to, value])]))

for (const [text, rules] of right)
  test(`${JSON.stringify(text)} is read as the node reads it`, () => {
    const found = read(text)
    assert.deepEqual(found.faults, [])
    assert.deepEqual(found.rules.map(({ address, window, strength }) => [address, window, strength]), rules)
  })

for (const [text, line, column] of wrong)
  test(`${JSON.stringify(text)} is refused where the node refuses it`, () => {
    const { faults: [fault] } = read(text)
    assert.deepEqual([fault?.line, fault?.column], [line, column])
  })

test('a block that the model lacks is told', () => {
  const { rules, faults: [fault] } = read('middle -> 1; input:9 -> 1', { blocks: SMALL, kinds: ['self', 'cross'] })
  assert.equal(rules.length, 1)
  assert.match(fault.reason, /no block 'input:9'/)
})

test('the first rule that takes a block then gives its strength, and 0 where none does', () => {
  assert.deepEqual(over('input -> 0.3; middle 0-40% -> 2; * 20-100% -> 1'), {
    'input:0': [[0, 100, 0.3]],
    'input:1': [[0, 100, 0.3]],
    middle: [[0, 40, 2], [40, 100, 1]],
    'output:0': [[0, 20, 0], [20, 100, 1]]
  })
})

test('a rule for a part of a block is none for the whole of it', () => {
  const text = 'input:1.1 -> 5; cross -> 6; * -> 1'
  assert.deepEqual(over(text)['input:1'], [[0, 100, 1]])
  assert.deepEqual(partly(read(text).rules, SMALL[1]).map(({ strength }) => strength), [5, 6])
  assert.deepEqual(partly(read(text).rules, SMALL[0]), [])
})

test('input, middle and output of a transformer are its parts', () => {
  const blocks = Array.from({ length: 8 }, (_, i) => block('double', i))
  assert.deepEqual(over('middle -> 2; input -> 1', blocks)['double:2'], [[0, 100, 1]])
  assert.deepEqual(over('middle -> 2; input -> 1', blocks)['double:3'], [[0, 100, 2]])
  assert.deepEqual(over('middle -> 2; input -> 1', blocks)['double:7'], [[0, 100, 0]])
})

const numbers = (type, some) => some.map((number) => block(type, number))
const MODELS = {
  none: [],
  sd1: [block('input', 0, 0), ...numbers('input', [1, 2, 4, 5, 7, 8]), block('middle', 0), ...numbers('output', [3, 4, 5, 6, 7, 8, 9, 10, 11])],
  sdxl: [...numbers('input', [4, 5, 7, 8]), block('middle', 0), ...numbers('output', [0, 1, 2, 3, 4, 5])],
  flux: [...numbers('double', [0, 1]), ...numbers('single', [0, 1])]
}

test('every ready-made rule fits its model', () => {
  for (const [name, blocks] of Object.entries(MODELS)) {
    const made = presets(blocks)
    assert.equal(new Set(made.map((preset) => preset.name)).size, made.length)
    for (const { text } of made) assert.deepEqual(read(text, blocks.length ? { blocks, kinds: ['self', 'cross'] } : null).faults, [], `${name}: ${text}`)
  }
  const names = (model) => presets(MODELS[model]).map(({ name }) => name)
  assert.ok(names('sd1').includes('OUTS') && names('sdxl').includes('style') && names('flux').includes('single'))
  assert.ok(!names('none').includes('single') && names('none').includes('late'))
})
