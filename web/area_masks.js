// Where areas hold, painted as the nodes paint it.
import { erases, isBrush } from './areas.js'

/**
 * @typedef {import('./areas.js').Box} Box
 * @typedef {import('./areas.js').Brush} Brush
 * @typedef {[number, number]} Pair
 */

/**
 * @param {Pair} place
 * @param {Pair} from
 * @param {Pair} to
 * @returns {number} how far a place is from a line
 */
export function distance([x, y], [fromX, fromY], [toX, toY]) {
  const [alongX, alongY] = [toX - fromX, toY - fromY]
  const part = Math.min(1, Math.max(0, ((x - fromX) * alongX + (y - fromY) * alongY) / Math.max(alongX ** 2 + alongY ** 2, 1e-9)))
  return Math.hypot(x - fromX - part * alongX, y - fromY - part * alongY)
}

/**
 * @param {Brush} brush
 * @param {Pair} size width and height of the picture in pixels
 * @returns {(place: Pair) => number} how far a place is inside of its edge, in pixels
 */
function depth(brush, [width, height]) {
  const points = brush.points.map(([x, y]) => /** @type {Pair} */ ([x * width, y * height]))
  const reach = 0.5 * brush.width * Math.max(width, height)
  return (place) => reach - points.reduce((least, point, i) => Math.min(least, distance(place, points[Math.max(0, i - 1)], point)), Infinity)
}

/**
 * @param {(Box | Brush)[]} shapes of an area
 * @param {Pair} size width and height of the picture in pixels
 * @param {Pair} place in parts of it
 * @returns {boolean} whether the area holds a place
 */
export function holds(shapes, size, [x, y]) {
  const within = (/** @type {Box | Brush} */ shape) =>
    isBrush(shape) ? depth(shape, size)([x * size[0], y * size[1]]) >= 0 : x >= shape.x && x <= shape.x + shape.width && y >= shape.y && y <= shape.y + shape.height
  return shapes.reduce((held, shape) => (within(shape) ? !erases(shape) : held), false)
}

/**
 * @param {(Box | Brush)[]} shapes of an area
 * @param {Pair} size width and height
 * @param {number} soft how soft the edges are, as a part of the longer side
 * @returns {Float32Array} 0 to 1 for each pixel, row by row
 */
export function paint(shapes, [width, height], soft) {
  const mask = new Float32Array(width * height)
  for (const shape of shapes) {
    const at = painter(shape, [width, height])
    for (let i = 0; i < mask.length; i++) {
      const value = at(i % width, Math.floor(i / width))
      mask[i] = erases(shape) ? Math.min(mask[i], 1 - value) : Math.max(mask[i], value)
    }
  }
  return blurred(mask, [width, height], soft * Math.max(width, height))
}

/**
 * @param {Box | Brush} shape
 * @param {Pair} size
 * @returns {(x: number, y: number) => number} how much of a pixel it covers
 */
function painter(shape, [width, height]) {
  const covered = (/** @type {number} */ at, /** @type {number} */ start, /** @type {number} */ end) => Math.max(0, Math.min(at + 1, end) - Math.max(at, start))
  if (!isBrush(shape)) return (x, y) => covered(x, shape.x * width, (shape.x + shape.width) * width) * covered(y, shape.y * height, (shape.y + shape.height) * height)
  const deep = depth(shape, [width, height])
  return (x, y) => Math.min(1, Math.max(0, deep([x + 0.5, y + 0.5]) + 0.5))
}

/**
 * @param {Float32Array} mask
 * @param {Pair} size
 * @param {number} wide about how many pixels a ramp has; what lies beyond the edge is as the edge
 */
function blurred(mask, [width, height], wide) {
  if (wide <= 0) return mask
  const sigma = wide / 2.5
  const reach = Math.max(1, Math.ceil(2 * sigma))
  const weights = Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-0.5 * ((i - reach) / sigma) ** 2))
  const total = weights.reduce((sum, one) => sum + one, 0)
  const along = (/** @type {Float32Array} */ from, /** @type {(i: number, shift: number) => number} */ at) =>
    from.map((_, i) => weights.reduce((sum, weight, j) => sum + weight * from[at(i, j - reach)], 0) / total)
  const inside = (/** @type {number} */ place, /** @type {number} */ length) => Math.min(length - 1, Math.max(0, place))
  const across = along(mask, (i, shift) => i - (i % width) + inside((i % width) + shift, width))
  return along(across, (i, shift) => (i % width) + width * inside(Math.floor(i / width) + shift, height))
}

/**
 * Lay areas over each other as the sampler does, the last on top.
 * @param {Float32Array[]} masks
 * @returns {Float32Array[]} the share that each has of each pixel
 */
export function shares(masks) {
  const left = new Float32Array(masks[0]?.length ?? 0).fill(1)
  return [...masks].reverse().map((mask) => mask.map((value, i) => {
    const share = value * left[i]
    left[i] -= share
    return share
  })).reverse()
}

/**
 * Leave points out of a drawn line where it hardly bends (Ramer, 1972; Douglas and Peucker, 1973).
 * @param {Pair[]} points
 * @param {number} most how far the line may be from one that is left out
 * @returns {Pair[]}
 */
export function thinned(points, most) {
  if (points.length < 3) return points
  const last = points[points.length - 1]
  const away = points.map((point) => distance(point, points[0], last))
  const worst = away.indexOf(Math.max(...away))
  if (away[worst] <= most) return [points[0], last]
  return [...thinned(points.slice(0, worst + 1), most), ...thinned(points.slice(worst), most).slice(1)]
}

/**
 * Find the area that the mouse takes at a place.
 * @param {import('./areas.js').Drawn[]} areas
 * @param {[number, number]} size
 * @param {[number, number]} place
 * @param {number} first which is taken before those that lie on it; -1: none
 * @returns {number | undefined}
 */
export function takenAt(areas, size, place, first) {
  const order = [first, ...[...areas.keys()].reverse()].filter((index) => areas[index])
  return order.find((index) => holds(areas[index].shapes, size, place))
}
