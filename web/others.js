// Which blocks the other nodes on a model chose, each node in a colour of its own.
import { coverage } from './address.js'
import { element } from './element.js'
import { colourOf } from './palette.js'
import { say } from './say.js'

/**
 * @typedef {import('./block_layout.js').MapBlock} MapBlock
 * @typedef {{ title: string, addresses: string[], whole: boolean, lora?: import('./lora_colours.js').Lora, fault?: import('./rules.js').Fault }} Other a node; `whole`: it takes blocks without attention too
 */

/**
 * @param {Other[]} others
 * @param {MapBlock[]} blocks
 * @returns {Map<string, { index: number, whole: boolean }[]>} the nodes that chose each block, and whether all of it
 */
export function takers(others, blocks) {
  /** @type {Map<string, { index: number, whole: boolean }[]>} */
  const found = new Map(blocks.map(({ name }) => [name, []]))
  for (const [index, other] of others.entries()) {
    const { whole, part } = covered(other, blocks)
    for (const name of new Set([...whole, ...part])) found.get(name)?.push({ index, whole: whole.has(name) })
  }
  return found
}

/**
 * @param {Other} other
 * @param {MapBlock[]} blocks
 * @returns {{ whole: Set<string>, part: Set<string> }} nothing where an address cannot be read: its own node says so
 */
function covered({ addresses, whole: all }, blocks) {
  const mine = all ? blocks : blocks.filter(({ depth }) => depth)
  /** @type {{ whole: Set<string>, part: Set<string> }} */
  const found = { whole: new Set(), part: new Set() }
  for (const address of addresses) {
    try {
      const { whole, part } = coverage(address, mine)
      for (const name of whole) found.whole.add(name)
      for (const name of part) found.part.add(name)
    } catch {
      continue
    }
  }
  return found
}

/**
 * @param {{ index: number, whole: boolean }[]} some that chose a block
 * @returns {HTMLElement} a line in their colours, pale where only a part is chosen
 */
export function stripe(some) {
  const line = element('span', { position: 'absolute', left: '0', right: '0', bottom: '0', height: '4px', display: 'flex', pointerEvents: 'none' })
  line.append(...some.map(({ index, whole }) => element('span', { flex: '1', background: colourOf(index), opacity: whole ? '1' : '0.5' })))
  return line
}

/**
 * @param {Other[]} others
 * @returns {HTMLElement[]} each with its colour and what it chose
 */
export function legend(others) {
  return others.map(({ title, addresses, fault }, index) => {
    const line = element('div', { display: 'flex', gap: '6px', alignItems: 'center', overflow: 'hidden', whiteSpace: 'nowrap' })
    const wrong = fault ? [`\u26a0 ${say('line $1, column $2 cannot be read', fault.line, fault.column)}`] : []
    const told = element('span', { overflow: 'hidden', textOverflow: 'ellipsis' }, `${title}: ${[...wrong, ...addresses].join('; ')}`)
    line.title = told.textContent ?? ''
    line.append(element('span', { flex: 'none', width: '10px', height: '10px', borderRadius: '2px', background: colourOf(index) }), told)
    return line
  })
}
