// Block addresses such as `input:4-8, !input:5 self`, read and written as the nodes do.

/**
 * @typedef {{ type: string, number: number, depth: number, name: string }} Block
 * @typedef {{ type: string | null, first: number, last: number, index: number | null, exclude: boolean }} Range
 * @typedef {Range & { word: string, column: number }} Term as it was typed, and where
 */

const TYPES = ['input', 'middle', 'output', 'double', 'single', 'block']
const UNET = ['input', 'middle', 'output']
/** @type {Record<string, string>} */
const NARROWING = { self: 'self', cross: 'cross', '!self': 'cross', '!cross': 'self' }
const TERM = /^(!?)(?:(all|\*)|([a-z]+)(?::?(\d+)(?:(-)(\d*))?)?(?:\.(\d+))?)$/

/** A part of an address that is wrong: its column, from 0, and how long it is. */
export class AddressError extends Error {
  /**
   * @param {string} reason
   * @param {number} column
   * @param {number} length
   */
  constructor(reason, column, length) {
    super(reason)
    this.column = column
    this.length = length
  }
}

/**
 * Split an address into its terms and the words for a kind of attention.
 * @param {string} text
 * @returns {{ terms: Term[], kinds: string[], kind: string | null }}
 * @throws {AddressError} at the part that cannot be read
 */
export function parse(text) {
  /** @type {Term[]} */
  const terms = []
  const kinds = []
  let kind = null
  for (const { 0: typed, index } of text.matchAll(/[^\s,]+/g)) {
    const word = typed.toLowerCase()
    if (!Object.hasOwn(NARROWING, word)) terms.push(term(word, index))
    else if (kind !== null && kind !== NARROWING[word])
      throw new AddressError("'self' and 'cross' exclude each other; leave both out for all attention", index, word.length)
    else {
      kind = NARROWING[word]
      kinds.push(word)
    }
  }
  if (!terms.length && kind === null) throw new AddressError("the address is empty; write 'all' for every block", 0, 0)
  return { terms, kinds, kind }
}

/**
 * @param {string} word
 * @param {number} column
 * @returns {Term}
 */
function term(word, column) {
  const [match, exclude, all, name, first, dash, last, index] = TERM.exec(word) ?? []
  const type = TYPES.find((known) => known === name || known[0] === name) ?? null
  const wrong = match === undefined || (!all && type === null)
  const backwards = first && last && Number(last) < Number(first)
  const inner = index !== undefined && (dash || (type !== 'middle' && first === undefined))
  const middle = type === 'middle' && (dash || Number(first ?? 0) > 0)
  if (wrong || backwards || inner || middle)
    throw new AddressError(`cannot read '${word}'; write input:4, output:3-5, middle, double:0-18 or all, and self or cross for a kind of attention`, column, word.length)
  const from = first === undefined ? 0 : Number(first)
  const open = first === undefined ? type !== 'middle' : Boolean(dash) && !last
  const to = open ? Infinity : last ? Number(last) : from
  return { type, first: from, last: to, index: index === undefined ? null : Number(index), exclude: exclude === '!', word, column }
}

/**
 * Tell what a term is on a model: where it has no blocks of a UNet's types, `middle` is the eighth of its blocks that
 * runs in the middle, `input` those before and `output` those behind.
 * @param {Term} one
 * @param {Block[]} blocks
 * @returns {Term[]}
 */
export function meant(one, blocks) {
  const whole = one.index === null && one.first === 0 && one.last === (one.type === 'middle' ? 0 : Infinity)
  if (!blocks.length || !whole || !UNET.includes(one.type ?? '') || blocks.some((block) => UNET.includes(block.type))) return [one]
  const eighth = Math.ceil(blocks.length / 8)
  const start = Math.floor((blocks.length - eighth) / 2)
  const [from, to] = one.type === 'input' ? [0, start] : one.type === 'middle' ? [start, start + eighth] : [start + eighth]
  const part = blocks.slice(from, to)
  return [...new Set(part.map((block) => block.type))].map((type) => {
    const numbers = part.filter((block) => block.type === type).map((block) => block.number)
    const range = { ...one, type, first: numbers[0], last: numbers[numbers.length - 1] }
    return { ...range, word: written(range) }
  })
}

/**
 * Tell of which blocks an address selects all, and of which a part.
 * @param {string} text
 * @param {Block[]} blocks
 * @returns {{ whole: Set<string>, part: Set<string> }} their names
 * @throws {AddressError} when the address cannot be read
 */
export function coverage(text, blocks) {
  const terms = parse(text).terms.flatMap((one) => meant(one, blocks))
  const included = terms.filter((one) => !one.exclude)
  const excluded = terms.filter((one) => one.exclude)
  const [whole, part] = [new Set(), new Set()]
  for (const block of blocks) {
    const inner = [...Array(Math.max(1, block.depth)).keys()]
    const taken = inner.filter(
      (i) => (!included.length || included.some((one) => matches(one, block, i))) && !excluded.some((one) => matches(one, block, i))
    )
    if (taken.length) (taken.length === inner.length ? whole : part).add(block.name)
  }
  return { whole, part }
}

/**
 * Tell which blocks an address selects, at least in part.
 * @param {string} text
 * @param {Block[]} blocks
 * @returns {Set<string>} their names
 * @throws {AddressError} when the address cannot be read
 */
export function selected(text, blocks) {
  const { whole, part } = coverage(text, blocks)
  return new Set(blocks.map((block) => block.name).filter((name) => whole.has(name) || part.has(name)))
}

/**
 * @param {Range} one
 * @param {Block} block
 * @param {number} inner
 */
export function matches(one, block, inner) {
  if (one.type === null) return true
  const inside = one.type === block.type && one.first <= block.number && block.number <= one.last
  return inside && (one.index === null || one.index === inner)
}

/**
 * Write a term.
 * @param {Range} one
 * @returns {string}
 */
export function written({ type, first, last, index, exclude }) {
  const open = last === Infinity ? (first === 0 ? '' : `:${first}-`) : type === 'middle' ? '' : `:${first}` + (last > first ? `-${last}` : '')
  return (exclude ? '!' : '') + (type === null ? 'all' : type + open + (index === null ? '' : `.${index}`))
}

/**
 * Write the shortest address of some blocks; words for a kind of attention in the old text stay.
 * @param {Set<string>} names
 * @param {Block[]} blocks all blocks of the model; those without attention cannot be chosen
 * @param {string} before
 * @returns {string} empty for no blocks
 */
export function write(names, blocks, before = '') {
  const possible = blocks.filter((block) => block.depth > 0)
  const types = [...new Set(possible.map((block) => block.type))]
  const every = possible.every((block) => names.has(block.name))
  const parts = every ? ['all'] : types.flatMap((type) => runs(type, numbers(possible, type), numbers(possible.filter((block) => names.has(block.name)), type)))
  const kinds = before.toLowerCase().split(/[\s,]+/).filter((word) => Object.hasOwn(NARROWING, word))
  return parts.length ? [parts.join(', '), ...kinds].join(' ') : ''
}

/**
 * @param {Block[]} blocks
 * @param {string} type
 */
export function numbers(blocks, type) {
  return blocks.filter((block) => block.type === type).map((block) => block.number)
}

/**
 * Name some numbers of a type by ranges, and all there are by the type alone.
 * @param {string} type
 * @param {number[]} possible in rising order
 * @param {number[]} taken
 * @returns {string[]}
 */
export function runs(type, possible, taken) {
  const wanted = new Set(taken)
  if (possible.every((number) => wanted.has(number))) return [type]
  /** @type {number[][]} */
  const found = []
  possible.forEach((number, i) => {
    if (!wanted.has(number)) return
    if (i && wanted.has(possible[i - 1])) found[found.length - 1].push(number)
    else found.push([number])
  })
  return found.map((run) => `${type}:${run[0]}` + (run.length > 1 ? `-${run[run.length - 1]}` : ''))
}
