// Maps of attention as the nodes send them: bytes between the least and highest value of each map.

/**
 * @typedef {{ labels: string[], pictures: number, height: number, width: number, low: number[][], high: number[][], maps: string }} Layer maps of some labels, all of one size
 * @typedef {Layer & { words: number, others: Layer | null, frames: number, shown: number[], images: string[], step?: number }} Maps
 *   of words, then of points; the small ones of the prompt's other words; how many frames a video has, and the numbers of the pictures that are here
 * @typedef {{ layer: Layer, index: number }} Place where the map of a label is
 */

// From dark blue over grey to yellow: the lightness rises evenly, and the colour-blind can read it.
const COLOURS = [[0, 33, 77], [64, 77, 107], [125, 122, 120], [189, 173, 105], [255, 235, 69]]

/**
 * Return all labels: words, points, then the prompt's other words.
 * @param {Maps} maps
 * @returns {string[]}
 */
export function labelsOf(maps) {
  return [...maps.labels, ...(maps.others?.labels ?? [])]
}

/**
 * Return where the map of a label of `labelsOf` is.
 * @param {Maps} maps
 * @param {number} label
 * @returns {Place}
 */
export function layerOf(maps, label) {
  const count = maps.labels.length
  return label < count || !maps.others ? { layer: maps, index: label } : { layer: maps.others, index: label - count }
}

/**
 * @param {Maps} maps
 * @param {number} label
 * @returns {boolean} whether it is of a point
 */
export function isPoint(maps, label) {
  return label >= maps.words && label < maps.labels.length
}

/**
 * Return the bytes of one map, row by row.
 * @param {Layer} maps
 * @param {number} label
 * @param {number} picture
 * @returns {Uint8Array}
 */
export function bytes(maps, label, picture) {
  const size = maps.height * maps.width
  const start = (label * maps.pictures + picture) * size
  return Uint8Array.from(atob(maps.maps), (letter) => letter.charCodeAt(0)).subarray(start, start + size)
}

/**
 * Colour a byte.
 * @param {number} value 0 to 255
 * @returns {number[]} red, green and blue
 */
export function colour(value) {
  const place = (value / 255) * (COLOURS.length - 1)
  const low = Math.min(Math.floor(place), COLOURS.length - 2)
  return COLOURS[low].map((start, i) => Math.round(start + (place - low) * (COLOURS[low + 1][i] - start)))
}

/**
 * Return how a cell looks by its place on the scale, with letters that can be read.
 * @param {number} heat 0 to 1
 * @returns {{ background: string, color: string }}
 */
export function painted(heat) {
  const [red, green, blue] = colour(255 * heat)
  const dark = 0.3 * red + 0.6 * green + 0.1 * blue < 130
  return { background: `rgb(${red} ${green} ${blue})`, color: dark ? '#fff' : '#000' }
}

/**
 * Return the least and the highest value that are coloured: of one map, or of those of all words, or of all points.
 * @param {Maps} maps
 * @param {number} label
 * @param {number} picture
 * @param {boolean} common
 * @returns {[number, number]}
 */
export function span(maps, label, picture, common) {
  const alike = [...labelsOf(maps).keys()].filter((other) => isPoint(maps, other) === isPoint(maps, label))
  const places = (common ? alike : [label]).map((one) => layerOf(maps, one))
  const of = (/** @type {'low' | 'high'} */ end) => places.map(({ layer, index }) => layer[end][index][picture])
  return [Math.min(...of('low')), Math.max(...of('high'))]
}

/**
 * Return the bytes of one map from the least to the highest of a range.
 * @param {Maps} maps
 * @param {number} label
 * @param {number} picture
 * @param {[number, number]} range
 * @returns {number[]}
 */
export function rescaled(maps, label, picture, [least, highest]) {
  const { layer, index } = layerOf(maps, label)
  const [low, high] = [layer.low[index][picture], layer.high[index][picture]]
  const wide = Math.max(highest - least, Number.MIN_VALUE)
  return [...bytes(layer, index, picture)].map((value) => Math.max(0, Math.min(255, Math.round((255 * (low + ((high - low) * value) / 255 - least)) / wide))))
}

/**
 * Rank the words and the points by the attention that a place gives them.
 * @param {Maps} maps
 * @param {number} picture
 * @param {number} x 0 at the left to 1
 * @param {number} y 0 at the top to 1
 * @returns {{ index: number, label: string, value: number }[]}
 */
export function ranked(maps, picture, x, y) {
  return labelsOf(maps).map((label, number) => {
    const { layer, index } = layerOf(maps, number)
    const column = Math.min(layer.width - 1, Math.floor(x * layer.width))
    const row = Math.min(layer.height - 1, Math.floor(y * layer.height))
    const [low, high] = [layer.low[index][picture], layer.high[index][picture]]
    return { index: number, label, value: low + ((high - low) * bytes(layer, index, picture)[row * layer.width + column]) / 255 }
  }).sort((a, b) => b.value - a.value)
}
