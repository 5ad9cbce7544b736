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
    assert.equal(found.fault, null)
    assert.deepEqual(found.rules.map(({ address, window, backend }) => [address, window, backend]), rules)
  })

for (const [text, line, column] of wrong)
  test(`${JSON.stringify(text)} is refused where the nodes refuse it`, () => {
    const { fault } = read(text, BACKENDS)
    assert.deepEqual([fault?.line, fault?.column], [line, column])
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
