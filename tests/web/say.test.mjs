import assert from 'node:assert/strict'
import { test } from 'node:test'
import { say, speak } from '../../web/say.js'

test('a text is in the language of the page, and English where that lacks it', () => {
  assert.equal(say('frame $1 of $2', 3, 7), 'frame 3 of 7')
  speak({ fr: { patchbay: { 'frame $1 of $2': 'de $2 images la $1' } }, ja: {} }, 'fr')
  assert.equal(say('frame $1 of $2', 3, 7), 'de 7 images la 3')
  assert.equal(say('at $1 $2', 'a $2', 1), 'at a $2 1')
  speak({ fr: { patchbay: {} }, ja: {} }, 'ja')
  assert.equal(say('frame $1 of $2', 3, 7), 'frame 3 of 7')
  speak({}, 'zh')
  assert.equal(say('copy mask'), 'copy mask')
})
