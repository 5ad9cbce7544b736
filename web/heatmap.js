// Maps of attention as the nodes send them: bytes between the least and highest value of each map.

/**
 * @typedef {{ labels: string[], words: number, pictures: number, height: number, width: number, low: number[][], high: number[][], maps: string, images: string[], step?: number }} Maps
 */

// From dark blue over grey to yellow: the lightness rises evenly, and the colour-blind can read it.
const COLOURS = [[0, 33, 77], [64, 77, 107], [125, 122, 120], [189, 173, 105], [255, 235, 69]]

/**
 * Return the bytes of one map, row by row.
 * @param {Maps} maps
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
  const alike = [...maps.labels.keys()].filter((other) => other < maps.words === label < maps.words)
  const labels = common ? alike : [label]
  return [Math.min(...labels.map((i) => maps.low[i][picture])), Math.max(...labels.map((i) => maps.high[i][picture]))]
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
  const [low, high] = [maps.low[label][picture], maps.high[label][picture]]
  const wide = Math.max(highest - least, Number.MIN_VALUE)
  return [...bytes(maps, label, picture)].map((value) => Math.max(0, Math.min(255, Math.round((255 * (low + ((high - low) * value) / 255 - least)) / wide))))
}

/**
 * Rank the words, then the points, by the attention that a place gives them.
 * @param {Maps} maps
 * @param {number} picture
 * @param {number} x 0 at the left to 1
 * @param {number} y 0 at the top to 1
 * @returns {{ index: number, label: string, value: number }[]}
 */
export function ranked(maps, picture, x, y) {
  const column = Math.min(maps.width - 1, Math.floor(x * maps.width))
  const row = Math.min(maps.height - 1, Math.floor(y * maps.height))
  const values = maps.labels.map((label, index) => {
    const [low, high] = [maps.low[index][picture], maps.high[index][picture]]
    return { index, label, value: low + ((high - low) * bytes(maps, index, picture)[row * maps.width + column]) / 255 }
  })
  const rank = (/** @type {typeof values} */ some) => some.sort((a, b) => b.value - a.value)
  return [...rank(values.slice(0, maps.words)), ...rank(values.slice(maps.words))]
}
