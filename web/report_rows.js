// The rows of a report in groups and in order, and the blocks that they tell of.

/**
 * @typedef {{ block: string, attention: string, heads: string, function: string, calls: number, steps: string, time: string, patches: string, note: string }} Row
 * @typedef {{ step: number, function: string, calls: number, fallbacks: number, seconds: number }} Step
 * @typedef {keyof Row} Column
 */

/** @param {Row} row @returns {number} the part of the time that its calls took, 0 to 1 */
export const share = (row) => (parseFloat(row.time) || 0) / 100

/**
 * @param {Row[]} rows
 * @returns {Map<string, Row[]>} the rows of each type of block, in their order
 */
export function grouped(rows) {
  /** @type {Map<string, Row[]>} */
  const found = new Map()
  for (const row of rows) {
    const type = row.block.split(':')[0]
    found.set(type, [...(found.get(type) ?? []), row])
  }
  return found
}

/**
 * Sort by a column, numbers from the largest, texts from a; rows that are alike stay in the order of the model.
 * @param {Row[]} rows
 * @param {Column} column
 * @returns {Row[]}
 */
export function ordered(rows, column) {
  if (column === 'block') return [...rows]
  if (column === 'calls') return [...rows].sort((a, b) => b.calls - a.calls)
  if (column === 'time') return [...rows].sort((a, b) => share(b) - share(a))
  return [...rows].sort((a, b) => (a[column] < b[column] ? -1 : Number(a[column] > b[column])))
}

/**
 * @param {Row[]} rows
 * @returns {import('./block_layout.js').MapBlock[]} the blocks of the rows, once each
 */
export function blocksOf(rows) {
  /** @type {Map<string, import('./block_layout.js').MapBlock>} */
  const found = new Map()
  for (const { block, heads } of rows) {
    const [type, rest = '0'] = block.split(':')
    const [number, deep = '0'] = rest.split('.')
    const name = block.replace(/\.\d+$/, '')
    const depth = Math.max(found.get(name)?.depth ?? 0, Number(deep) + 1)
    const [count, dim] = heads.split(' x ').map(Number)
    if (block !== '-') found.set(name, { name, type, number: Number(number), depth, heads: count || 0, dim_head: dim || 0, factor: 1, grid: null })
  }
  return [...found.values()]
}

/**
 * @param {import('./block_layout.js').MapBlock[]} blocks of a UNet with some left out, or of another model
 * @returns {import('./block_layout.js').MapBlock[]} those of a UNet numbered anew, so that nothing is left empty
 */
export function closed(blocks) {
  const of = (/** @type {string} */ type) => blocks.filter((block) => block.type === type)
  return of('input').length ? blocks.map((block) => ({ ...block, number: of(block.type).indexOf(block) })) : blocks
}

/**
 * @param {Row[]} rows
 * @param {string} block
 * @returns {Row[]} those of a block, of all its transformers
 */
export const rowsOf = (rows, block) => rows.filter((row) => row.block.replace(/\.\d+$/, '') === block)

/**
 * @param {string} patches
 * @returns {number} how often they acted
 */
const uses = (patches) => [...patches.matchAll(/ x(\d+)(?=, |$)/g)].reduce((sum, [, count]) => sum + Number(count), 0)

// What the map is coloured by: a number for the rows of a block.
/** @type {Record<string, (rows: Row[]) => number>} */
export const MEASURES = {
  time: (rows) => rows.reduce((sum, row) => sum + share(row), 0),
  calls: (rows) => rows.reduce((sum, row) => sum + row.calls, 0),
  patches: (rows) => rows.reduce((sum, row) => sum + uses(row.patches), 0)
}
