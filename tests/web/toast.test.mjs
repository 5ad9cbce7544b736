import assert from 'node:assert/strict'
import { test } from 'node:test'
import { tellError } from '../../web/toast.js'

test('a frontend with messages as objects gets the same one back', () => {
  const [added, removed] = [[], []]
  const away = tellError({ add: (one) => added.push(one), remove: (one) => removed.push(one) }, 'Heads', 'cannot read', 8)
  assert.deepEqual(added, [{ severity: 'error', summary: 'Heads', detail: 'cannot read', life: 8000 }])
  away()
  assert.equal(removed[0], added[0])
})

test('a frontend with numbers of messages gets the number back', () => {
  let shown = []
  const error = (title, { description, duration }) => shown.push([title, description, duration])
  const away = tellError({ add: assert.fail, error, dismiss: (number) => shown.splice(number - 1, 1) }, 'Heads', 'cannot read', 8)
  assert.deepEqual(shown, [['Heads', 'cannot read', 8000]])
  away()
  assert.deepEqual(shown, [])
})

test('a frontend that lacks any of it is left alone', () => {
  for (const toast of [undefined, {}, { add: () => {} }, { error: () => 1 }]) assert.doesNotThrow(tellError(toast, 'Heads', 'cannot read', 8))
})
