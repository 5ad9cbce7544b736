// Blocks taken into an address or out of it, with all that the change does not touch left as it was typed.
import { matches, meant, numbers, parse, runs, selected, write } from './address.js'

/**
 * @typedef {import('./address.js').Block} Block
 * @typedef {import('./address.js').Term} Term
 */

/**
 * Take one block into an address or out of it.
 * @param {string} text
 * @param {Block} block
 * @param {boolean} wanted
 * @param {Block[]} blocks all blocks of the model
 * @returns {string} empty when no block is left: no address says that
 */
export function changed(text, block, wanted, blocks) {
  const { terms, kinds } = readable(text)
  const told = terms.flatMap((one) => (meant(one, blocks).some((part) => matches(part, block, 0)) ? meant(one, blocks) : [one]))
  let included = told.filter((one) => !one.exclude)
  let excluded = told.filter((one) => one.exclude && one.type !== null)
  const everything = told.length > 0 && (!included.length || included.some((one) => one.type === null))
  if (everything || wanted) excluded = resized(excluded, block, everything && !wanted, blocks, true)
  if (!everything) included = resized(included, block, wanted, blocks, false)
  if (!everything && !included.length) return ''
  const parts = [...sorted(included, blocks), ...sorted(excluded, blocks)]
  const result = [parts.join(', ') || 'all', ...kinds].join(' ')
  return selected(result, blocks.filter((one) => one.depth > 0)).size ? result : ''
}

/**
 * Take into an address what it leaves out, and leave out what it takes.
 * @param {string} text
 * @param {Block[]} blocks
 * @returns {string} empty when no block is left
 */
export function inverted(text, blocks) {
  const before = readable(text).terms.length ? selected(text, blocks) : new Set()
  return write(new Set(blocks.filter((block) => !before.has(block.name)).map((block) => block.name)), blocks, text)
}

/**
 * @param {string} text
 * @returns {{ terms: Term[], kinds: string[] }} nothing of what cannot be read; words for a kind alone mean all blocks
 */
function readable(text) {
  try {
    const { terms, kinds } = parse(text)
    return { terms: terms.length ? terms : parse('all').terms, kinds }
  } catch {
    return { terms: [], kinds: [] }
  }
}

/**
 * Let the terms of a block's type take it, or not.
 * @param {Term[]} terms
 * @param {Block} block
 * @param {boolean} taken
 * @param {Block[]} blocks
 * @param {boolean} exclude
 * @returns {Term[]}
 */
function resized(terms, block, taken, blocks, exclude) {
  const possible = numbers(blocks.filter((one) => one.depth > 0), block.type)
  const end = possible[possible.length - 1]
  const ours = terms.filter((one) => one.type === block.type && one.index === null && one.first <= end)
  const rest = terms.filter((one) => !ours.includes(one) && (one.type !== block.type || one.first !== block.number))
  // what a range says beyond the blocks of this model stays said
  const beyond = ours.filter((one) => one.last > end && one.last < Infinity).flatMap((one) => [end + 1, one.last])
  const domain = [...new Set([...possible, ...beyond])].sort((a, b) => a - b)
  const covered = domain.filter((number) => ours.some((one) => one.first <= number && number <= one.last) && number !== block.number)
  const words = runs(block.type, domain, taken ? [...covered, block.number] : covered)
  return [...rest, ...words.flatMap((word) => parse(exclude ? `!${word}` : word).terms)]
}

/**
 * @param {Term[]} terms
 * @param {Block[]} blocks
 * @returns {string[]} in the order of the model; what it does not have comes last
 */
function sorted(terms, blocks) {
  const types = [null, ...new Set(blocks.map((block) => block.type))]
  const place = (/** @type {Term} */ one) => (types.includes(one.type) ? types.indexOf(one.type) : types.length)
  return [...terms].sort((a, b) => place(a) - place(b) || a.first - b.first).map((one) => one.word)
}
