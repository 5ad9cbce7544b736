import assert from 'node:assert/strict'
import { test } from 'node:test'
import { level, stateOf } from '../../web/live_mask.js'

const maps = { step: 3, since: 0, covers: [0.25, 0.5, 0.031], shown: [1, 3] }

test('what a node says is the step, since when its mask holds, and how much of the shown picture it covers', () => {
  assert.equal(stateOf(maps, 0), 'step 3: gathering; the mask would cover 25.0 %')
  assert.equal(stateOf({ ...maps, since: 2 }, 1), 'step 3: the mask of step 2 holds and covers 3.1 %')
})

test('the line lies at the threshold of the map, whose bytes go from its own least to its own highest value', () => {
  assert.equal(level({ low: [[0]], high: [[1]] }, 0, 0, 0.6), 153)
  assert.ok(Math.abs(level({ low: [[0, 0.2]], high: [[1, 1.2]] }, 0, 1, 0.7) - 127.5) < 1e-9)
  assert.equal(level({ low: [[0.8]], high: [[1]] }, 0, 0, 0.6), 0, 'all of it lies in the mask')
  assert.equal(level({ low: [[0]], high: [[0.5]] }, 0, 0, 0.6), 255)
  assert.equal(level({ low: [[0]], high: [[1]] }, 0, 0, 0), 0, 'the map itself is the mask')
  assert.equal(level({ low: [[0]], high: [[0]] }, 0, 0, 0.6), 0)
})
