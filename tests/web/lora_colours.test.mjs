import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PLATE, drawn } from '../../web/lora_colours.js'

const ENDS = { least: 0, most: 1 }
const numbers = (text) => text.match(/[\d.]+/g).map(Number)
const light = (colour) => colour.map((value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4).reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0)
const contrast = (one, other) => (Math.max(light(one), light(other)) + 0.05) / (Math.min(light(one), light(other)) + 0.05)
const letters = (look) => look.block.color === '#fff' ? [255, 255, 255] : [0, 0, 0]

test('the name of a block whose strength stays can be read on each colour', () => {
  for (let value = 0; value <= 1; value += 0.01) {
    const look = drawn([{ from: 0, to: 100, value }], ENDS)
    assert.ok(contrast(numbers(look.block.background), letters(look)) >= 3, value)
  }
})

test('the name of a block whose strength changes can be read from end to end', () => {
  const look = drawn([{ from: 0, to: 50, value: 0 }, { from: 50, to: 100, value: 1 }], ENDS)
  assert.equal(look.name, PLATE)
  const shade = 1 - numbers(PLATE.background)[3] / 100
  for (const [, ...colour] of look.block.background.matchAll(/rgb\((\d+) (\d+) (\d+)\)/g))
    assert.ok(contrast(colour.map((value) => shade * value), letters(look)) >= 7, colour.join(' '))
})
