// What the blocks of a model did in a run, as nodes tell it: by what a map is coloured, and the numbers of a block.
import { say } from './say.js'

/**
 * @typedef {{ label: string, height: number, width: number, bytes: string }} Thumbnail
 * @typedef {{ name: string, calls: number, seconds: number, share: number, patches: Record<string, number>, change: number | null, measured: number, entropy: number | null, map: Thumbnail | null }} Values of a block
 * @typedef {'choice' | 'calls' | 'time' | 'change' | 'entropy'} Measure
 */

/** @type {Record<Exclude<Measure, 'choice'>, (row: Values) => number | null>} */
const READ = { calls: (row) => row.calls, time: (row) => row.share, change: (row) => row.change, entropy: (row) => row.entropy }

/**
 * Tell what a colouring means.
 * @param {Measure} measure
 */
export const meaning = (measure) =>
  ({
    choice: say('The blocks that this node chose'),
    calls: say('Calls of attention in the run'),
    time: say('Part of the time of all attention of the run'),
    change: say('How far the patches moved what the block hands on: norm(with - without) / norm(without) on the same input, the mean of the calls that were measured'),
    entropy: say('Entropy of the attention that Capture Attention heard, the mean of its heads: 0 looks at one token, larger at many')
  })[measure]

/**
 * Tell how an amount is written.
 * @param {Measure} measure
 * @param {number} value
 */
export function written(measure, value) {
  if (measure === 'calls') return say('$1 calls', value)
  if (measure === 'entropy') return `${value.toPrecision(3)} nats`
  return `${(100 * value).toPrecision(2)} %`
}

/**
 * @param {Values[]} values
 * @returns {Measure[]} by what a map can be coloured
 */
export function measures(values) {
  const known = /** @type {(keyof typeof READ)[]} */ (Object.keys(READ)).filter((measure) => values.some((row) => READ[measure](row) !== null))
  return values.length ? ['choice', ...known] : []
}

/**
 * @param {Values[]} values
 * @param {string} measure
 * @returns {{ least: number, most: number, heat: Map<string, number> }} the ends of the scale, and each block on it, 0 to 1
 */
export function heated(values, measure) {
  const read = READ[/** @type {'calls'} */ (measure)] ?? (() => null)
  /** @type {[string, number][]} */
  const known = values.flatMap((row) => {
    const value = read(row)
    return value === null ? [] : [/** @type {[string, number]} */ ([row.name, value])]
  })
  const numbers = known.map(([, value]) => value)
  const least = measure === 'entropy' ? Math.min(...numbers) : 0
  const most = Math.max(...numbers, 0)
  const heat = new Map(known.map(([name, value]) => [name, most > least ? (value - least) / (most - least) : 0]))
  return { least, most, heat }
}

/**
 * @param {Values} row
 * @returns {string[]} the numbers of a block, a line each
 */
export function lines({ name, calls, seconds, share, patches, change, measured, entropy }) {
  const found = [`${name}: ${written('calls', calls)}, ${say('$1 % of the time', (100 * share).toPrecision(2))} (${(1000 * seconds).toPrecision(3)} ms)`]
  if (change !== null) found.push(say('change $1 in $2 measured calls', written('change', change), measured))
  if (entropy !== null) found.push(say('entropy $1', written('entropy', entropy)))
  return [...found, ...Object.entries(patches).map(([patch, uses]) => `${patch} x${uses}`)]
}
