// The points of a picture that a capture asks for, as its text: added and taken back one by one.

/** @typedef {[number, number]} Place x from the left and y from the top, 0 to 1 */

const PARTS = /[,;\n]/

/**
 * @param {string} part
 * @returns {Place | null}
 */
function place(part) {
  const numbers = part.trim().split(/\s+/).map(Number)
  return numbers.length === 2 && numbers.every(Number.isFinite) ? /** @type {Place} */ (numbers) : null
}

/**
 * Read the points of a text; what is no point is left out.
 * @param {string} text
 * @returns {Place[]}
 */
export function pointsOf(text) {
  return text.split(PARTS).map(place).filter((point) => point !== null)
}

/**
 * @param {string} text
 * @returns {string | null} the first part that is no point of a picture
 */
export function wrongPoint(text) {
  const parts = text.split(PARTS).map((part) => part.trim()).filter(Boolean)
  return parts.find((part) => !place(part)?.every((value) => value >= 0 && value <= 1)) ?? null
}

/**
 * Take back the point that lies near a place, or add one there; the rest of the text stays.
 * @param {string} text
 * @param {Place} at
 * @param {(point: Place) => boolean} near
 * @returns {{ text: string, point: Place, added: boolean }}
 */
export function toggled(text, at, near) {
  const parts = text.split(PARTS)
  const index = parts.findIndex((part) => {
    const point = place(part)
    return point !== null && near(point)
  })
  if (index >= 0) {
    const left = parts.filter((part, i) => i !== index && part.trim()).map((part) => part.trim())
    return { text: left.join(', '), point: /** @type {Place} */ (place(parts[index])), added: false }
  }
  const point = /** @type {Place} */ (at.map((value) => Math.round(value * 1000) / 1000))
  return { text: [text.trim().replace(/[,;]$/, ''), point.join(' ')].filter(Boolean).join(', '), point, added: true }
}
