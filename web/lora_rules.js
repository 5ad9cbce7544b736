// LoRA rules such as `input:7-8 0-50% -> 0.3`: how they are read, what strength each block has when, and ready-made ones.
import { coverage, parse } from './address.js'
import { readRules } from './rules.js'

/**
 * @typedef {{ address: string, window: string, strength: number }} LoraRule
 * @typedef {{ from: number, to: number, value: number }} Stretch of the run, in percent
 * @typedef {{ name: string, text: string, means: string }} Preset
 */

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/

/** @type {import('./rules.js').Right} */
const STRENGTH = {
  name: 'strength',
  example: '* -> 1',
  wrong: (given) => {
    if (/^[+-]?(inf|infinity|nan)$/.test(given) || (NUMBER.test(given) && !Number.isFinite(Number(given)))) return `the strength is ${given}; give a finite number`
    return NUMBER.test(given) ? null : `cannot read the strength '${given}'; write a number such as 0.8`
  }
}

/**
 * Read rules up to the first that is wrong.
 * @param {string} text
 * @param {import('./faults.js').Known | null} model what they are for, where that is known
 * @returns {{ rules: LoraRule[], fault: import('./rules.js').Fault | null }}
 */
export function read(text, model = null) {
  const { rules, fault } = readRules(text, STRENGTH, model)
  return { rules: rules.map(({ address, window, given }) => ({ address, window, strength: Number(given) })), fault }
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

// Ready-made rules

/** @type {Preset[]} */
const ANY = [
  { name: 'all', text: '* -> 1', means: 'The whole LoRA, as Load LoRA gives it' },
  { name: 'late', text: '* 0-30% -> 0\n* -> 1', means: 'Not while the composition is found' },
  { name: 'early', text: '* 0-50% -> 1\n* -> 0', means: 'Composition without the details' },
  { name: 'INALL', text: 'input -> 1\n* -> 0', means: 'What comes before the middle' },
  { name: 'MIDD', text: 'middle -> 1\n* -> 0', means: 'The middle' },
  { name: 'OUTALL', text: 'output -> 1\n* -> 0', means: 'What comes behind the middle' }
]
const SD1 = [
  { name: 'INS', text: 'input:1-2 -> 1\n* -> 0', means: 'Shallow blocks before the middle' },
  { name: 'IND', text: 'input:5-8 -> 1\n* -> 0', means: 'Deep blocks before the middle' },
  { name: 'MIDD', text: 'input:5-8, middle, output:3-6 -> 1\n* -> 0', means: 'The middle with the deep blocks around it' },
  { name: 'OUTD', text: 'output:3-6 -> 1\n* -> 0', means: 'Deep blocks behind the middle' },
  { name: 'OUTS', text: 'output:7-11 -> 1\n* -> 0', means: 'Shallow blocks behind the middle' }
]
const SDXL = [
  { name: 'style', text: 'output:1 -> 1\n* -> 0', means: 'The block that B-LoRA and InstantStyle name for style' },
  { name: 'content', text: 'output:0 -> 1\n* -> 0', means: 'The block that B-LoRA names for content' },
  { name: 'free layout', text: 'input:8 -> 0\n* -> 1', means: 'Without the block that InstantStyle names for layout' }
]
const STREAMS = [
  { name: 'double', text: 'double -> 1\n* -> 0', means: 'Blocks with text and picture apart' },
  { name: 'single', text: 'single -> 1\n* -> 0', means: 'Blocks with text and picture together' }
]
const OWN = [
  { attends: 'input:1,input:2,input:4,input:5,input:7,input:8,middle,output:3,output:4,output:5,output:6,output:7,output:8,output:9,output:10,output:11', presets: SD1 },
  { attends: 'input:4,input:5,input:7,input:8,middle,output:0,output:1,output:2,output:3,output:4,output:5', presets: SDXL }
]

/**
 * Return the ready-made rules for a model.
 * @param {import('./address.js').Block[]} blocks none where they are not known
 * @returns {Preset[]}
 */
export function presets(blocks) {
  const attends = blocks.filter(({ depth }) => depth).map(({ name }) => name).join(',')
  const types = new Set(blocks.map(({ type }) => type))
  const own = OWN.find((one) => one.attends === attends)?.presets ?? (types.has('double') && types.has('single') ? STREAMS : [])
  return [...ANY.filter(({ name }) => !own.some((one) => one.name === name)), ...own]
}
