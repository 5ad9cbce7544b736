// LoRA rules such as `input:7-8 0-50% -> 0.3`: how they are read, and what strength each block has when.
import { coverage, parse } from './address.js'
import { readRules } from './rules.js'

/**
 * @typedef {{ number: number, address: string, window: string, strength: number }} LoraRule the how-manieth of the text
 * @typedef {{ from: number, to: number, value: number }} Stretch of the run, in percent
 */

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/
const LARGEST = 100 // as Load LoRA has it

/** @type {import('./rules.js').Right} */
const STRENGTH = {
  name: 'strength',
  example: '* -> 1',
  wrong: (given) => {
    if (/^[+-]?(inf|infinity|nan)$/.test(given) || (NUMBER.test(given) && Math.abs(Number(given)) > LARGEST)) return `the strength is ${given}; give a number from -${LARGEST} to ${LARGEST}`
    return NUMBER.test(given) ? null : `cannot read the strength '${given}'; write a number such as 0.8`
  }
}

/**
 * Read rules: those that are right, and what is wrong with each of the others.
 * @param {string} text
 * @param {import('./faults.js').Known | null} model what they are for, where that is known
 * @returns {{ rules: LoraRule[], faults: import('./rules.js').Fault[] }}
 */
export function read(text, model = null) {
  const { rules, faults } = readRules(text, STRENGTH, model)
  return { rules: rules.map(({ given, ...rule }) => ({ ...rule, strength: Number(given) })), faults }
}

/**
 * Tell the strength of each block over the run: of the first rule that takes the whole of it then, 0 where none does.
 * @param {LoraRule[]} rules
 * @param {import('./address.js').Block[]} blocks
 * @returns {Map<string, Stretch[]>}
 */
export function strengths(rules, blocks) {
  const covering = rules.map(({ address, window, strength }) => ({ whole: wholes(address, blocks), span: spanOf(window), strength }))
  const edges = [...new Set([0, 100, ...covering.flatMap(({ span }) => span)])].sort((one, other) => one - other)
  return new Map(blocks.map(({ name }) => [name, stretches(covering.filter(({ whole }) => whole.has(name)), edges)]))
}

/**
 * @param {{ span: number[], strength: number }[]} rules
 * @param {number[]} edges
 */
function stretches(rules, edges) {
  /** @type {Stretch[]} */
  const found = []
  for (const [i, to] of edges.slice(1).entries()) {
    const from = edges[i]
    const value = rules.find(({ span: [start, end] }) => start <= from && to <= end)?.strength ?? 0
    const last = found[found.length - 1]
    if (last?.value === value) last.to = to
    else found.push({ from, to, value })
  }
  return found
}

/**
 * Name the rules that take a block in part, as `self` or one of its transformers.
 * @param {LoraRule[]} rules
 * @param {import('./address.js').Block} block
 * @returns {LoraRule[]}
 */
export function partly(rules, block) {
  return rules.filter(({ address }) => {
    const { whole, part } = coverage(address, [block])
    return part.size > 0 || (whole.size > 0 && parse(address).kind !== null && block.depth > 0)
  })
}

/**
 * @param {string} address
 * @param {import('./address.js').Block[]} blocks
 */
function wholes(address, blocks) {
  return parse(address).kind === null ? coverage(address, blocks).whole : new Set()
}

/** @param {string} window */
const spanOf = (window) => (window ? window.replace('%', '').split('-').map(Number) : [0, 100])
