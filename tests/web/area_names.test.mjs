import assert from 'node:assert/strict'
import { test } from 'node:test'
import { takenAt } from '../../web/area_masks.js'
import { namesOf } from '../../web/area_names.js'
import { inOrder } from '../../web/areas_picture.js'
import { read } from '../../web/areas.js'

const named = (text) => namesOf(read(text).areas)

test('an area is called by its first words, apart from its frames', () => {
  assert.deepEqual(named('left -> a red circle, small\nright frames 8- -> x\ntop frames 0-50% -> \nall -> new frames 2'), ['a red circle', 'x \u00b7 8-', 'area 3 \u00b7 0-50%', 'new frames 2'])
})

test('areas that begin the same are called by where they differ', () => {
  assert.deepEqual(named('top frames 50%- -> a red car drives, dark storm clouds, rain\nbottom frames 50%- -> a red car drives, heavy rain\nleft -> a blue car'), [
    '\u2026 dark storm clouds \u00b7 50%-',
    '\u2026 heavy rain \u00b7 50%-',
    'a blue car'
  ])
  assert.deepEqual(named('left -> the same words here\nright -> the same words here'), ['the same words', 'the same words'])
})

test('the mouse takes the area on top, or the one that was chosen by its button where it lies', () => {
  const { areas } = read('left frames 0-50% -> a\nleft frames 50%- -> b\nright -> c')
  const at = (place, first) => takenAt(areas, [100, 100], place, first)
  assert.deepEqual([at([0.2, 0.5], -1), at([0.2, 0.5], 0), at([0.2, 0.5], 2), at([0.8, 0.5], 0)], [1, 0, 1, 2])
  assert.equal(takenAt([], [100, 100], [0.5, 0.5], 0), undefined)
})

test('a chosen area of some frames is drawn over the others, which may never be there with it', () => {
  const { areas } = read('left frames 0-50% -> a\nleft frames 50%- -> b\nright -> c')
  assert.deepEqual(inOrder(areas, 0), [1, 2, 0])
  assert.deepEqual(inOrder(areas, 1), [0, 2, 1])
  assert.deepEqual(inOrder(areas, 2), [0, 1, 2])
})
