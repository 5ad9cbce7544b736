import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { complete, read } from '../../web/rules.js'

const { right, wrong } = JSON.parse(readFileSync(new URL('../data/rules.json', import.meta.url), 'utf8'))
const BACKENDS = ['auto', 'basic', 'split', 'pytorch', 'flash', 'sage', 'sage3']
const words = (text) => complete(text, BACKENDS).map(({ word }) => word)

for (const [text, rules] of right)
  test(`${JSON.stringify(text)} is read as the nodes read it`, () => {
    const found = read(text, BACKENDS)
    assert.deepEqual(found.faults, [])
    assert.deepEqual(found.rules.map(({ address, window, backend }) => [address, window, backend]), rules)
  })

for (const [text, line, column] of wrong)
  test(`${JSON.stringify(text)} is refused where the nodes refuse it`, () => {
    const { faults: [fault] } = read(text, BACKENDS)
    assert.deepEqual([fault?.line, fault?.column], [line, column])
  })

test('rules behind a wrong one are read, each with its number, and a mistyped kind is told which there are', () => {
  const { rules, faults } = read('input:4 -> auto; output !sefl -> auto\ncross -> basic; foo -> auto', BACKENDS)
  assert.deepEqual(rules.map(({ number, address }) => [number, address]), [[1, 'input:4'], [3, 'cross']])
  assert.deepEqual(faults.map(({ number, line, column }) => [number, line, column]), [[2, 1, 25], [4, 2, 17]])
  assert.match(faults[0].reason, /'!sefl'.*self or cross/)
})

test('functions are suggested behind the arrow, blocks before it', () => {
  assert.deepEqual(words('* -> sa'), ['sage', 'sage3'])
  assert.deepEqual(words('* -> '), BACKENDS)
  assert.deepEqual(words('* -> sage'), ['sage3'])
  assert.deepEqual(words('* -> auto\nin'), ['input'])
  assert.deepEqual(words('input:4 se'), ['self'])
  assert.ok(words('self ').includes('->') && !words('self ').includes('self'))
  assert.ok(!words('').includes('->'))
  assert.deepEqual(words('# in'), [])
  assert.deepEqual(complete('all, !mid', BACKENDS), [{ word: 'middle', typed: 3 }])
})
