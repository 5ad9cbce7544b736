import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { read } from '../../web/areas.js'
import { framesFault } from '../../web/frames.js'

const { right, wrong } = JSON.parse(readFileSync(new URL('../data/areas.json', import.meta.url))).frames

test('frames are refused where the nodes refuse them, alone and behind an area', () => {
  for (const text of ['', ' ', ...right]) assert.equal(framesFault(text), null, text)
  for (const text of right) assert.equal(read(`left frames ${text} -> a`).fault, '', text)
  for (const text of wrong) {
    const { reason, length } = framesFault(text) ?? {}
    assert.equal(length, text.length, text)
    assert.equal(read(`left frames ${text} -> a`).fault, `line 1: ${reason}`)
  }
})

test('what is wrong with frames is told', () => {
  const told = { '50-0': /holds no frame/, '0-150%': /beyond 100%/, '1.5-3': /whole numbers/, '50%': /percent sign/, abc: /cannot be read/ }
  for (const [text, reason] of Object.entries(told)) assert.match(framesFault(text).reason, reason)
})
