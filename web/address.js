// Block addresses such as `input:4-8, !input:5 self`, read and written as the nodes do.

/**
 * @typedef {{ type: string, number: number, depth: number, name: string }} Block
 * @typedef {{ type: string | null, first: number, last: number, index: number | null, exclude: boolean }} Term
 */

const ROOMS = ['input', 'middle', 'output', 'double', 'single', 'block']
const KINDS = ['self', 'cross', '!self', '!cross']
const TERM = /^(!?)(?:(all|\*)|([a-z]+)(?::?(\d+)(?:(-)(\d*))?)?(?:\.(\d+))?)$/

/**
 * Split an address into its terms and the words for a kind of attention.
 * @param {string} text
 * @returns {{ terms: Term[], kinds: string[] }}
 * @throws {Error} naming the part that cannot be read
 */
export function parse(text) {
  const words = text.toLowerCase().split(/[\s,]+/).filter(Boolean)
  if (!words.length) throw new Error("the address is empty; write 'all' for every block")
  const kinds = words.filter((word) => KINDS.includes(word))
  return { terms: words.filter((word) => !KINDS.includes(word)).map(term), kinds }
}

/**
 * @param {string} word
 * @returns {Term}
 */
function term(word) {
  const [match, exclude, all, name, first, dash, last, index] = TERM.exec(word) ?? []
  const type = ROOMS.find((known) => known === name || known[0] === name) ?? null
  const wrong = match === undefined || (!all && type === null)
  const backwards = first && last && Number(last) < Number(first)
  const inner = index !== undefined && (dash || (type !== 'middle' && first === undefined))
  const middle = type === 'middle' && (dash || Number(first ?? 0) > 0)
  if (wrong || backwards || inner || middle) throw new Error(`cannot read '${word}'`)
  const from = first === undefined ? 0 : Number(first)
  const open = first === undefined ? type !== 'middle' : Boolean(dash) && !last
  const to = open ? Infinity : last ? Number(last) : from
  return { type, first: from, last: to, index: index === undefined ? null : Number(index), exclude: exclude === '!' }
}

/**
 * Tell which blocks an address selects, at least in part.
 * @param {string} text
 * @param {Block[]} blocks
 * @returns {Set<string>} their names
 * @throws {Error} when the address cannot be read
 */
export function selected(text, blocks) {
  const { terms } = parse(text)
  const included = terms.filter((one) => !one.exclude)
  const excluded = terms.filter((one) => one.exclude)
  const taken = (/** @type {Block} */ block, /** @type {number} */ inner) =>
    (!included.length || included.some((one) => matches(one, block, inner))) &&
    !excluded.some((one) => matches(one, block, inner))
  const some = (/** @type {Block} */ block) => [...Array(Math.max(1, block.depth)).keys()].some((i) => taken(block, i))
  return new Set(blocks.filter(some).map((block) => block.name))
}

/**
 * @param {Term} one
 * @param {Block} block
 * @param {number} inner
 */
function matches(one, block, inner) {
  if (one.type === null) return true
  const inside = one.type === block.type && one.first <= block.number && block.number <= one.last
  return inside && (one.index === null || one.index === inner)
}

/**
 * Write the shortest address of some blocks; words for a kind of attention in the old text stay.
 * @param {Set<string>} names
 * @param {Block[]} blocks all blocks of the model; those without attention cannot be chosen
 * @param {string} before
 * @returns {string}
 */
export function write(names, blocks, before = '') {
  const possible = blocks.filter((block) => block.depth > 0)
  const types = [...new Set(possible.map((block) => block.type))]
  const every = possible.every((block) => names.has(block.name))
  const parts = every ? ['all'] : types.flatMap((type) => runs(names, possible.filter((block) => block.type === type)))
  const kinds = before.toLowerCase().split(/[\s,]+/).filter((word) => KINDS.includes(word))
  return parts.length ? [parts.join(', '), ...kinds].join(' ') : ''
}

/**
 * Name the chosen blocks of one type by ranges.
 * @param {Set<string>} names
 * @param {Block[]} blocks
 * @returns {string[]}
 */
function runs(names, blocks) {
  const { type } = blocks[0]
  if (blocks.every((block) => names.has(block.name))) return [type]
  /** @type {Block[][]} */
  const found = []
  blocks.forEach((block, i) => {
    if (!names.has(block.name)) return
    if (i && names.has(blocks[i - 1].name)) found[found.length - 1].push(block)
    else found.push([block])
  })
  return found.map((run) => `${type}:${run[0].number}` + (run.length > 1 ? `-${run[run.length - 1].number}` : ''))
}
