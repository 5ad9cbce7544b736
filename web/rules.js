// Rules such as `input:4-8 self 0-50% -> sage`, one a line or parted by `;`, read as the nodes do.
import { fault as faultOf } from './faults.js'

/**
 * @typedef {{ number: number, address: string, window: string, backend: string }} Rule
 * @typedef {{ number: number, address: string, window: string, given: string }} Part the how-manieth of the text, with what stands behind its arrow
 * @typedef {{ number: number, line: number, column: number, reason: string }} Fault of the how-manieth
 * @typedef {{ name: string, example: string, wrong: (given: string) => string | null }} Right what has to stand behind an arrow
 */

const WINDOW = /(?<![\w:.-])(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)%(?![^\s,])/g
const STARTS = ['all', 'input', 'middle', 'output', 'double', 'single', 'block', 'self', 'cross', '0-50%', '->']

/**
 * Read backend rules: those that are right, and what is wrong with each of the others.
 * @param {string} text
 * @param {string[]} backends the functions there are; none: any name is taken
 * @param {import('./faults.js').Known | null} model what it is for, where that is known
 * @returns {{ rules: Rule[], faults: Fault[] }}
 */
export function read(text, backends = [], model = null) {
  const wrong = (/** @type {string} */ name) =>
    backends.length && !backends.includes(name) ? `unknown attention function '${name}': it runs only where ComfyUI has registered one` : null
  const { rules, faults } = readRules(text, { name: 'backend', example: '* -> auto', wrong }, model)
  return { rules: rules.map(({ given, ...rule }) => ({ ...rule, backend: given })), faults }
}

/**
 * Read rules: those that are right, and what is wrong with each of the others.
 * @param {string} text
 * @param {Right} right
 * @param {import('./faults.js').Known | null} model what it is for, where that is known
 * @returns {{ rules: Part[], faults: Fault[] }}
 */
export function readRules(text, right, model = null) {
  /** @type {Part[]} */
  const rules = []
  /** @type {Fault[]} */
  const faults = []
  for (const [row, line] of text.split(/\r\n|\r|\n/).entries()) {
    const code = line.split('#')[0]
    let column = 0
    for (const part of code.split(';')) {
      if (part.trim()) {
        const found = rule(part, right, model)
        const number = rules.length + faults.length + 1
        if ('reason' in found) faults.push({ number, line: row + 1, column: column + found.column + 1, reason: found.reason })
        else rules.push({ number, ...found })
      }
      column += part.length + 1
    }
  }
  return { rules, faults }
}

/**
 * @param {string} part
 * @param {Right} right
 * @param {import('./faults.js').Known | null} model
 * @returns {Omit<Part, 'number'> | { column: number, reason: string }}
 */
function rule(part, right, model) {
  const arrow = part.indexOf('->')
  if (arrow < 0) return { column: part.trimEnd().length, reason: `'->' and a ${right.name} are missing; write ${right.example}` }
  const left = part.slice(0, arrow)
  const behind = part.slice(arrow + 2)
  const given = behind.trim().toLowerCase()
  const after = arrow + 2 + behind.length - behind.trimStart().length
  if (!given) return { column: after, reason: `no ${right.name} after '->'` }
  const windows = [...left.matchAll(WINDOW)]
  if (windows.length > 1) return { column: windows[1].index, reason: 'a rule has one window; keep one of them' }
  for (const { index, 1: start, 2: end } of windows)
    if (Number(end) > 100 || Number(end) < Number(start))
      return { column: index, reason: 'the window goes from a smaller to a larger percent, up to 100' }
  const address = left.replace(WINDOW, '').trim().replace(/\s+/g, ' ')
  const wrong = faultOf(left.replace(WINDOW, (found) => ' '.repeat(found.length)), model)
  if (wrong) return { column: Math.max(wrong.column, left.length - left.trimStart().length), reason: wrong.reason }
  const refused = right.wrong(given)
  if (refused) return { column: after, reason: refused }
  return { address, window: windows.length ? windows[0][0] : '', given }
}

/**
 * Suggest what can follow the text before the caret: words that go on with the one being written.
 * @param {string} before
 * @param {string[]} backends
 * @returns {{ word: string, typed: number }[]} each with how many characters of it are there already
 */
export function complete(before, backends) {
  const part = before.split(/[;\n]/).at(-1) ?? ''
  if (part.includes('#')) return []
  const arrow = part.indexOf('->')
  const typed = /[^\s,!]*$/.exec(part)?.[0] ?? ''
  if (arrow >= 0) {
    const name = part.slice(arrow + 2).trimStart()
    const fits = (/** @type {string} */ word) => word.startsWith(name) && word !== name
    return backends.filter(fits).map((word) => ({ word, typed: name.length }))
  }
  const used = part.slice(0, part.length - typed.length).split(/[\s,!]+/)
  const fits = (/** @type {string} */ word) => word.startsWith(typed) && word !== typed && !used.includes(word)
  const possible = STARTS.filter((word) => fits(word) && (word !== '->' || part.trim() !== ''))
  return possible.map((word) => ({ word, typed: typed.length }))
}
