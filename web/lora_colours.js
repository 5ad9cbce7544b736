// By what the LoRAs on a model colour its map: the strength of each block over the run, and the norm of what the file adds.
import { painted } from './heatmap.js'
import { partly, strengths } from './lora_rules.js'
import { say } from './say.js'

/**
 * @typedef {import('./lora_rules.js').Stretch} Stretch
 * @typedef {import('./lora_rules.js').LoraRule} LoraRule
 * @typedef {{ rules: LoraRule[], factor: number, norms: Record<string, number> | null }} Lora what a node puts on a model
 * @typedef {{ name: string, means: string, blocks: Map<string, Stretch[]>, told: Map<string, string>, tell: (value: number) => string }} Colouring
 */

export const PLATE = { background: 'rgb(0 0 0 / 70%)', borderRadius: '3px', padding: '0 2px' } // under letters over bright and dark

/**
 * @param {string} title of the node
 * @param {Lora} lora
 * @param {import('./address.js').Block[]} blocks
 * @returns {Colouring[]}
 */
export function colourings(title, { rules, factor, norms }, blocks) {
  if (!blocks.length) return []
  const scaled = rules.map((rule) => ({ ...rule, strength: rule.strength * factor }))
  const found = strengths(scaled, blocks)
  const told = new Map(blocks.map((block) => [block.name, lineOf(found.get(block.name) ?? [], partly(scaled, block))]))
  const all = [{ name: say('strength: $1', title), means: say('Strength of the LoRA of $1, from the start of the run on the left to its end on the right', title), blocks: found, told, tell: number }]
  if (!norms) return all
  const known = blocks.filter(({ name }) => norms[name] !== undefined)
  const percent = (/** @type {number} */ value) => `${number(100 * value)} %`
  return [
    ...all,
    {
      name: say('norm: $1', title),
      means: say('Norm of what the LoRA of $1 adds to the weights of each block, relative to the largest; large is not the same as seen', title),
      blocks: new Map(known.map(({ name }) => [name, [{ from: 0, to: 100, value: norms[name] }]])),
      told: new Map(known.map(({ name }) => [name, say('norm $1 of the largest', percent(norms[name]))])),
      tell: percent
    }
  ]
}

/**
 * Return the ends of the scale; 0 is on it.
 * @param {Colouring} colouring
 */
export function ends({ blocks }) {
  const values = [...blocks.values()].flatMap((some) => some.map(({ value }) => value))
  return { least: Math.min(0, ...values), most: Math.max(0, ...values) }
}

/**
 * Return how a block looks: from left to right over the run.
 * @param {Stretch[]} stretches
 * @param {{ least: number, most: number }} ends
 * @returns {{ block: Record<string, string>, name: Record<string, string> }} the block, and its name upon it
 */
export function drawn(stretches, { least, most }) {
  const looks = stretches.map(({ from, to, value }) => ({ from, to, ...painted(most > least ? (value - least) / (most - least) : 0) }))
  if (looks.length === 1) return { block: { background: looks[0].background, color: looks[0].color }, name: {} }
  const parts = looks.map(({ from, to, background }) => `${background} ${from}% ${to}%`)
  return { block: { background: `linear-gradient(to right, ${parts.join(', ')})`, color: '#fff' }, name: PLATE }
}

/**
 * @param {Stretch[]} stretches
 * @param {LoraRule[]} parts
 */
function lineOf(stretches, parts) {
  const whole = stretches.map(({ from, to, value }) => (to - from === 100 ? number(value) : say('$1 at $2-$3%', number(value), from, to))).join(', ')
  const others = parts.map(({ address, window, strength }) => `${[address, window].filter(Boolean).join(' ')}: ${number(strength)}`)
  return [say('strength $1', whole), ...others].join('; ')
}

const number = (/** @type {number} */ value) => String(Number(value.toPrecision(3)))
