// The line around what lies above a level of a map: marching squares over the middles of its pixels.

/** @typedef {[number, number, number, number]} Segment from x, y to x, y; 0 to 1 over the map */

// Which edges of a square of four pixels a line joins, by which of the pixels are above: top left 8, top right 4, bottom right 2, bottom left 1.
const [TOP, RIGHT, BOTTOM, LEFT] = [0, 1, 2, 3]
const LINES = [
  [], [[LEFT, BOTTOM]], [[BOTTOM, RIGHT]], [[LEFT, RIGHT]], [[TOP, RIGHT]], [[LEFT, TOP], [BOTTOM, RIGHT]], [[TOP, BOTTOM]], [[LEFT, TOP]],
  [[LEFT, TOP]], [[TOP, BOTTOM]], [[LEFT, BOTTOM], [TOP, RIGHT]], [[TOP, RIGHT]], [[LEFT, RIGHT]], [[BOTTOM, RIGHT]], [[LEFT, BOTTOM]], []
]

/**
 * Draw the line around all that is at a level or above it; on the edge of the map it stays open.
 * @param {ArrayLike<number>} values row by row
 * @param {number} width
 * @param {number} height
 * @param {number} level
 * @returns {Segment[]}
 */
export function contour(values, width, height, level) {
  /** @type {Segment[]} */
  const found = []
  for (let row = 0; row < height - 1; row++) {
    for (let column = 0; column < width - 1; column++) {
      const first = row * width + column
      const [a, b, c, d] = [first, first + 1, first + width + 1, first + width].map((i) => values[i])
      const which = [a, b, c, d].reduce((sum, value) => 2 * sum + (value >= level ? 1 : 0), 0)
      const at = (/** @type {number} */ value, /** @type {number} */ axis) => (axis % 2 ? (row + 0.5 + value) / height : (column + 0.5 + value) / width)
      for (const ends of LINES[which]) found.push(/** @type {Segment} */ (ends.flatMap((edge) => crossing(edge, [a, b, c, d], level)).map(at)))
    }
  }
  return found
}

/**
 * @param {number} edge
 * @param {number[]} corners
 * @param {number} level
 * @returns {[number, number]} where the level lies on an edge of a square
 */
function crossing(edge, [a, b, c, d], level) {
  const part = (/** @type {number} */ from, /** @type {number} */ to) => (level - from) / (to - from)
  if (edge === TOP) return [part(a, b), 0]
  if (edge === RIGHT) return [1, part(b, c)]
  if (edge === BOTTOM) return [part(d, c), 1]
  return [0, part(a, d)]
}
