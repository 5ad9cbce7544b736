// Parts of a video such as `0-50%`, `0-12`, `25-` or `0-10, 40- fade 8`, refused as the nodes refuse them.
import { say } from './say.js'

const NUMBER = '\\d{1,7}(?:\\.\\d{1,4})?'
const RANGE = new RegExp(`^(${NUMBER})(%?)(?:\\s*(-)\\s*(?:(${NUMBER})(%?))?)?$`)
const FADE = new RegExp(`^(.*?)\\s+fade\\s+${NUMBER}\\s*$`, 's')

/**
 * @param {string} text
 * @returns {string} what is wrong with it; empty: nothing
 */
export function wrongFrames(text) {
  const ranges = FADE.exec(text)?.[1] ?? text
  return ranges.split(',').map((part) => wrongRange(part.trim())).find(Boolean) ?? ''
}

/** @param {string} text */
function wrongRange(text) {
  const [, first, percent, dash, last, lastPercent] = RANGE.exec(text) ?? []
  if (!first) return say('"$1" cannot be read as frames; write 0-50%, 0-12, 25- or several with commas, and perhaps fade 8 behind them', text)
  if (percent && (!dash || (last && !lastPercent))) return say('"$1" has a percent sign on one end; write both, such as 0-50%', text)
  const parts = Boolean(percent || lastPercent)
  const ends = [first, dash ? last : first].filter(Boolean).map(Number)
  if (parts && Math.max(...ends) > 100) return say('"$1" goes beyond 100%; write parts of the video from 0% to 100%', text)
  if (!parts && ends.some((end) => end % 1)) return say('"$1" is no number of a frame; write whole numbers, or parts such as 0-50%', text)
  const [start, end = parts ? 100 : Infinity] = ends
  return start < end + (parts ? 0 : 1) ? '' : say('"$1" holds no frame; write the first before the last, such as 0-12', text)
}

/**
 * Find the fault of the frames of a region; without any it holds in the whole video.
 * @param {string} text
 * @returns {import('./faults.js').Fault | null}
 */
export function framesFault(text) {
  const reason = text.trim() ? wrongFrames(text) : ''
  return reason ? { column: 0, length: text.length, reason } : null
}
