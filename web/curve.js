// Curves of strength over the window of a patch, read and written as the nodes do: a name, or points such as `0:0, 0.5:1`.

/** @typedef {[number, number]} Point position and strength, from 0 to 1 */

export const NAMES = ['constant', 'linear', 'cosine']
// Curves by points that people draw most, by name
export const SHAPED = { rise: '0:0, 1:1', hill: '0:0, 0.5:1, 1:0', late: '0:0, 0.5:0, 0.55:1', early: '0:1, 0.45:1, 0.5:0' }
const MARK = 0.05 // of both axes
const SHAPES = /** @type {Record<string, (position: number) => number>} */ ({
  constant: () => 1,
  linear: (position) => 1 - position,
  cosine: (position) => 0.5 * (1 + Math.cos(Math.PI * position))
})
const CORNERS = /** @type {Record<string, number[]>} */ ({ constant: [0, 1], linear: [0, 1], cosine: [0, 0.25, 0.5, 0.75, 1] })
const NUMBER = /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i

/**
 * Return the strength as a function of the position.
 * @param {string} text
 * @returns {(position: number) => number}
 * @throws {Error} naming the part that cannot be read
 */
export function strength(text) {
  const name = text.trim().toLowerCase()
  if (name in SHAPES) return SHAPES[name]
  const points = read(text)
  return (position) => {
    const next = points.findIndex(([x]) => position <= x)
    if (next < 0) return points[points.length - 1][1]
    if (next === 0) return points[0][1]
    const [[x0, y0], [x1, y1]] = points.slice(next - 1, next + 1)
    return y0 + ((y1 - y0) * (position - x0)) / (x1 - x0)
  }
}

/**
 * Return the points of a curve; those that draw it where it is a name.
 * @param {string} text
 * @returns {Point[]}
 * @throws {Error} naming the part that cannot be read
 */
export function points(text) {
  const name = text.trim().toLowerCase()
  return name in SHAPES ? CORNERS[name].map((x) => [x, rounded(SHAPES[name](x))]) : read(text)
}

/**
 * @param {string} text
 * @returns {Point[]}
 */
function read(text) {
  const found = text.split(',').map((part) => {
    const [position, strength, ...more] = part.split(':')
    if (more.length || !NUMBER.test(position) || !NUMBER.test(strength ?? '')) throw new Error(`cannot read '${part.trim()}'`)
    return /** @type {Point} */ ([Number(position), Number(strength)])
  })
  for (const [i, [x, y]] of found.entries()) {
    if (x < 0 || x > 1 || y < 0 || y > 1) throw new Error(`point ${x}:${y} is out of range; both go from 0 to 1`)
    if (i && x <= found[i - 1][0]) throw new Error(`positions must rise, ${found[i - 1][0]} is followed by ${x}`)
  }
  return found
}

/**
 * Write points as text.
 * @param {Point[]} some
 */
export function write(some) {
  return some.map(([x, y]) => `${rounded(x)}:${rounded(y)}`).join(', ')
}

/**
 * Move one point; it stays between its neighbours.
 * @param {Point[]} some
 * @param {number} index
 * @param {Point} to
 * @returns {Point[]}
 */
export function moved(some, index, [x, y]) {
  const low = index ? some[index - 1][0] + 0.01 : 0
  const high = index < some.length - 1 ? some[index + 1][0] - 0.01 : 1
  const place = /** @type {Point} */ ([Math.max(low, Math.min(high, x)), Math.max(0, Math.min(1, y))])
  return some.map((point, i) => (i === index ? place : point))
}

/**
 * Add a point where none is near.
 * @param {Point[]} some
 * @param {Point} point
 * @returns {Point[]}
 */
export function added(some, [x, y]) {
  if (some.some(([other]) => Math.abs(other - x) < 0.01)) return some
  return [...some, /** @type {Point} */ ([x, y])].sort(([a], [b]) => a - b)
}

/**
 * Put a point on the marks of both axes.
 * @param {Point} point
 * @param {boolean} free leaves it where it is
 * @returns {Point}
 */
export function snapped(point, free) {
  return free ? point : /** @type {Point} */ (point.map((value) => rounded(Math.round(value / MARK) * MARK)))
}

/** @param {number} value */
function rounded(value) {
  return Math.round(value * 100) / 100
}
