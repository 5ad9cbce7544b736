// What is on a model, as an inspector lists it: in groups by owner or slot, and in order.
import { say } from './say.js'

/**
 * @typedef {{ slot: string, block: string, owner: string, schedule: string, calls: number | null, seconds: number | null, trouble: string, beside: string }} Row
 *   `trouble` why it may do nothing, `beside` what it stands in the place of or keeps from being called
 * @typedef {'slot' | 'block' | 'owner' | 'schedule' | 'calls' | 'seconds' | 'trouble'} Column
 */

/**
 * @param {Row[]} rows
 * @param {'owner' | 'slot'} by
 * @returns {Map<string, Row[]>} in the order in which they first come
 */
export function grouped(rows, by) {
  /** @type {Map<string, Row[]>} */
  const found = new Map()
  for (const row of rows) found.set(row[by], [...(found.get(row[by]) ?? []), row])
  return found
}

/**
 * Tell a group in a line: how many places, and how many of them are in trouble.
 * @param {string} name
 * @param {Row[]} rows
 */
export function told(name, rows) {
  const wrong = rows.filter(({ trouble }) => trouble).length
  const places = rows.length === 1 ? say('1 place') : say('$1 places', rows.length)
  return `${name}: ${places}${wrong ? `, \u26a0 ${say('$1 without effect or at risk', wrong)}` : ''}`
}

/**
 * Sort by a column: numbers from the largest, troubles first, texts from a; rows that are alike keep their order.
 * @param {Row[]} rows
 * @param {Column} by
 */
export function ordered(rows, by) {
  if (by === 'trouble') return [...rows].sort((a, b) => Number(Boolean(b.trouble)) - Number(Boolean(a.trouble)))
  if (by === 'calls' || by === 'seconds') return [...rows].sort((a, b) => (b[by] ?? -1) - (a[by] ?? -1))
  return [...rows].sort((a, b) => a[by].localeCompare(b[by], 'en', { numeric: true }))
}

/** @param {Row} row @param {Column} column @returns {string} */
export function written(row, column) {
  if (column === 'calls') return row.calls === null ? '-' : String(row.calls)
  if (column === 'seconds') return row.seconds === null ? '-' : `${(1000 * row.seconds).toPrecision(3)} ms`
  if (column === 'trouble') return row.trouble ? `\u26a0 ${row.trouble}` : row.calls ? `\u2713 ${say('ran')}` : '\u2713'
  return row[column]
}
