// What a node that makes a mask of a word is told of it in each step.
import { bytes } from './heatmap.js'
import { say } from './say.js'

/**
 * @typedef {import('./heatmap.js').Maps & { since: number, covers: number[], steps: number, limit: number }} LiveMaps
 *   the step from which the mask holds, 0 while it gathers, the part of each picture that it covers, how many steps the run has, and what lies in the mask
 * @typedef {{ word: string, threshold: number, stopped: boolean }} Now the word and the threshold that the node has, empty where nobody knows the word, and whether the run ended early
 */

const percent = (/** @type {number} */ part) => `${(100 * part).toFixed(1)} %`

/**
 * @param {LiveMaps} maps
 * @param {number} picture
 * @param {Now} now
 * @returns {string} the step, since when the mask holds, how much it covers or would, and whether it is of another word or of a run that was stopped
 */
export function stateOf(maps, picture, { word, threshold, stopped }) {
  const { labels, step = 0, steps, since, covers, shown, limit } = maps
  const share = percent(covers[shown[picture] - 1])
  const told = [since ? say('step $1: the mask of step $2 holds and covers $3', step, since, share) : say('step $1: gathering; the mask would cover $2', step, share)]
  if (Math.abs(threshold - limit) > 1e-6) told.push(say('with this threshold it would cover $1', percent(drawnShare(maps, picture, threshold))))
  if (stopped && step < steps) told.push(say('the run stopped at step $1 of $2', step, steps))
  const state = told.join('; ')
  return word && plain(word) !== plain(labels[0]) ? `${say('Of the word $1, before the change:', labels[0])} ${state}` : state
}

const plain = (/** @type {string} */ word) => word.replace(/^[ ,\n]+|[ ,\n]+$/g, '')

/**
 * @param {import('./heatmap.js').Layer} maps
 * @param {number} picture
 * @param {number} threshold 0 to 1
 * @returns {number} the part of a picture that the first label's map covers above a threshold
 */
function drawnShare(maps, picture, threshold) {
  const map = bytes(maps, 0, picture)
  const part = cut(maps, 0, picture, threshold)
  const { low, high } = maps
  const value = (/** @type {number} */ byte) => (part ? Number(byte >= 255 * part) : low[0][picture] + ((high[0][picture] - low[0][picture]) * byte) / 255)
  return map.reduce((sum, byte) => sum + value(byte), 0) / map.length
}

/**
 * Return the part of a map's bytes from which on a place lies in the mask.
 * @param {import('./heatmap.js').Layer} maps
 * @param {number} label
 * @param {number} picture
 * @param {number} threshold 0 to 1
 * @returns {number} 0 where the map itself is the mask; below 0 where all of it lies in the mask, 2 where nothing does
 */
export function cut(maps, label, picture, threshold) {
  const [least, highest] = [maps.low[label][picture], maps.high[label][picture]]
  if (!threshold) return 0
  if (least > threshold) return -1
  return highest <= threshold ? 2 : (threshold - least) / (highest - least)
}

/**
 * Return the byte of a map from which on a place lies in the mask; the bytes of each map go from its least to its highest value.
 * @param {import('./heatmap.js').Layer} maps
 * @param {number} label
 * @param {number} picture
 * @param {number} threshold 0 to 1
 * @returns {number} 0 where the map itself is the mask
 */
export function level({ low, high }, label, picture, threshold) {
  const [least, highest] = [low[label][picture], high[label][picture]]
  if (!threshold || highest <= least) return 0
  return Math.max(0, Math.min(255, (255 * (threshold - least)) / (highest - least)))
}
