import assert from 'node:assert/strict'
import { test } from 'node:test'
import { curveFault, described, fault, pointsFault } from '../../web/faults.js'
import { layoutOf } from '../../web/models.js'
import { read } from '../../web/rules.js'

const [sd, sdxl, flux, wan] = ['SD1.5', 'SDXL', 'Flux', 'Wan 14B'].map(layoutOf)

for (const [text, model] of [
  ['all', flux], ['middle', flux], ['output:3.0', sd], ['input:0', sd], ['cross', wan], ['single:10-99', flux], ['self', flux],
  ['output:4.1', sdxl], ['output:99', null], ['!middle', sdxl]
])
  test(`'${text}' has no fault`, () => assert.equal(fault(text, model), null))

for (const [text, model, column, reason] of [
  ['middle, output:99', sd, 8, "this model has no block 'output:99'; it has input:1-2, input:4-5, input:7-8, middle, output:3-11"],
  ['output:99', flux, 0, "this model has no block 'output:99'; it has double:0-18, single:0-37"],
  ['output:3.2', sdxl, 0, "no block 'output:3.2'"],
  ['middle.1', flux, 0, "no block 'middle.1'"],
  ['double self !block:3', wan, 12, "no block 'block:3'"],
  ['single cross', flux, 7, "one attention of text and picture, which counts as self; leave 'cross' out"],
  ['input:4, inputt', null, 9, "cannot read 'inputt'"],
  ['double, !all', wan, 0, 'every block is excluded'],
  ['', null, 0, 'the address is empty']
])
  test(`'${text}' is wrong at ${column}`, () => {
    const found = fault(text, model)
    assert.equal(found.column, column)
    assert.ok(found.reason.includes(reason), found.reason)
  })

test('blocks are described by ranges, with their transformers', () => {
  assert.equal(described(sdxl.blocks), 'input:4-5 (.0-.1), input:7-8 (.0-.9), middle (.0-.9), output:0-2 (.0-.9), output:3-5 (.0-.1)')
})

test('rules are held against the model too', () => {
  assert.deepEqual(read('single -> split\nmiddle -> auto', [], flux).faults, [])
  const { rules, faults: [wrong] } = read('single -> split\n output:4 0-50% -> auto', [], flux)
  assert.equal(rules.length, 1)
  assert.deepEqual([wrong.line, wrong.column], [2, 2])
  assert.match(wrong.reason, /no block 'output:4'; it has double:0-18/)
})

test('curves and points are read as they are typed', () => {
  for (const text of ['constant', ' Linear', '0:0, 0.5:1, 1:0']) assert.equal(curveFault(text), null)
  assert.equal(curveFault('lineer').reason, "cannot read 'lineer'; write constant, linear, cosine, or points such as '0:0, 0.5:1, 1:0'")
  assert.equal(curveFault('0.5:1, 0.2:0').reason, 'positions must rise, 0.5 is followed by 0.2')
  for (const text of ['', '0.3 0.5', '0.3 0.5, ;0 1\n']) assert.equal(pointsFault(text), null)
  const { column, length, reason } = pointsFault('0.3 0.5, 0.7')
  assert.deepEqual([column, length, reason], [9, 3, "'0.7' is no point; write x and y from 0 to 1, such as 0.3 0.5"])
  assert.match(pointsFault('0.3 1.5').reason, /'0.3 1.5' is no point/)
})
