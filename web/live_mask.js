// What a node that makes a mask of a word is told of it in each step.
import { say } from './say.js'

/**
 * @typedef {import('./heatmap.js').Maps & { since: number, covers: number[] }} LiveMaps
 *   the step from which the mask holds, 0 while it gathers, and the part of each picture that it covers
 */

/**
 * @param {LiveMaps} maps
 * @param {number} picture
 * @returns {string} the step, since when the mask holds, and how much it covers
 */
export function stateOf({ step, since, covers, shown }, picture) {
  const share = `${(100 * covers[shown[picture] - 1]).toFixed(1)} %`
  if (!since) return say('step $1: gathering; the mask would cover $2', step ?? 0, share)
  return say('step $1: the mask of step $2 holds and covers $3', step ?? 0, since, share)
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
