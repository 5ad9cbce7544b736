// What is wrong with an address for a model whose blocks are known, as the nodes would say when they run.
import { matches, meant, parse, selected, written } from './address.js'
import { strength } from './curve.js'
import { wrongPoint } from './points.js'

/**
 * @typedef {import('./address.js').Block} Block
 * @typedef {{ blocks: Block[], kinds: string[] }} Known the blocks of a model, and its kinds of attention
 * @typedef {{ column: number, length: number, reason: string }} Fault
 */

/**
 * Find the first fault of an address.
 * @param {string} text
 * @param {Known | null} model
 * @returns {Fault | null}
 */
export function fault(text, model) {
  try {
    const { terms, kinds, kind } = parse(text)
    if (!model?.blocks.length) return null
    const { blocks } = model
    if (kind !== null && !model.kinds.includes(kind)) return at(text, kinds[0], wrongKind(model, kind))
    const known = (/** @type {import('./address.js').Term} */ one) =>
      blocks.some((block) => [...Array(Math.max(1, block.depth)).keys()].some((i) => meant(one, blocks).some((part) => matches(part, block, i))))
    const unknown = terms.find((one) => !known(one))
    if (unknown) return at(text, unknown.word, `this model has no block '${unknown.word.replace('!', '')}'; it has ${described(blocks)}`, unknown.column)
    return selected(text, blocks).size ? null : { column: 0, length: text.length, reason: `every block is excluded; it has ${described(blocks)}` }
  } catch (error) {
    const { column, length, message } = /** @type {import('./address.js').AddressError} */ (error)
    return { column, length, reason: message }
  }
}

/**
 * @param {string} text
 * @param {string} word
 * @param {string} reason
 * @param {number} column
 */
function at(text, word, reason, column = text.toLowerCase().indexOf(word)) {
  return { column, length: word.length, reason }
}

/**
 * @param {Known} model
 * @param {string} kind
 */
function wrongKind({ kinds }, kind) {
  const why = kinds.length ? 'has one attention of text and picture, which counts as self' : 'does not tell self from cross'
  return `this model ${why}; leave '${kind}' out`
}

/**
 * Name the blocks with attention by ranges, and where one holds several transformers, which.
 * @param {Block[]} blocks
 * @returns {string}
 */
export function described(blocks) {
  /** @type {Block[][]} */
  const rows = []
  for (const block of blocks.filter((one) => one.depth > 0)) {
    const row = rows[rows.length - 1] ?? []
    const last = row[row.length - 1]
    const follows = last && last.type === block.type && last.depth === block.depth && last.number + 1 === block.number
    if (follows) row.push(block)
    else rows.push([block])
  }
  return rows.map(name).join(', ')
}

/** @param {Block[]} row */
function name(row) {
  const { type, number: first, depth } = row[0]
  const range = written({ type, first, last: row[row.length - 1].number, index: null, exclude: false })
  return depth > 1 ? `${range} (.0-.${depth - 1})` : range
}

/**
 * Find the fault of a curve.
 * @param {string} text
 * @returns {Fault | null}
 */
export function curveFault(text) {
  try {
    strength(text)
    return null
  } catch (error) {
    const reason = /** @type {Error} */ (error).message
    const hint = reason.startsWith('cannot read') ? "; write constant, linear, cosine, or points such as '0:0, 0.5:1, 1:0'" : ''
    return { column: 0, length: text.length, reason: reason + hint }
  }
}

/**
 * Find the first part of some points that is none.
 * @param {string} text
 * @returns {Fault | null}
 */
export function pointsFault(text) {
  const part = wrongPoint(text)
  return part === null ? null : at(text, part, `'${part}' is no point; write x and y from 0 to 1, such as 0.3 0.5`, text.indexOf(part))
}
