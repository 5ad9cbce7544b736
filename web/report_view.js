// What became of each patch, those that never ran first, and what ran in each block: as a table, as a map, by step, as text.
import { about, place } from './block_layout.js'
import { readingBox } from './box.js'
import { chips } from './chip.js'
import { element } from './element.js'
import { CELL, FoldTable } from './fold_table.js'
import { painted } from './heatmap.js'
import { blocksOf, closed, grouped, MEASURES, ordered, rowsOf, share } from './report_rows.js'
import { say } from './say.js'

/**
 * @typedef {import('./report_rows.js').Row} Row
 * @typedef {import('./report_rows.js').Step} Step
 * @typedef {{ number: number, name: string, fate: string, ran: boolean }} Fate
 * @typedef {{ text: string[], table: Row[], steps: Step[], fates?: Fate[], head?: string[] }} Output
 */

/** @type {[import('./report_rows.js').Column, string][]} */
const COLUMNS = [['block', 'block'], ['attention', 'kind'], ['function', 'function'], ['calls', 'calls'], ['time', 'time'], ['patches', 'patches']]
const TYPES = () => ({ input: say('Input blocks'), middle: say('Middle block'), output: say('Output blocks'), double: say('Double blocks'), single: say('Single blocks'), '-': say('Outside of the blocks') })
const BAR = 'rgb(74 163 255 / 45%)'
const NEVER = 'color-mix(in srgb, #ff3b3b, var(--input-text))' // to be read on dark and on light
const VIEWS = ['blocks', 'map', 'steps', 'text']

export class ReportView {
  /** @param {string} waiting what to say before there is a report */
  constructor(waiting) {
    /** @type {Output | null} */
    this.output = null
    this.view = 'blocks'
    this.measure = 'time'
    this.table = new FoldTable({
      columns: COLUMNS.map(([column, title]) => [column, say(title)]),
      falling: ['calls', 'time'],
      groups: grouped,
      title: told,
      order: ordered,
      line: (/** @type {Row} */ row) => tableRow(row, this.most())
    })
    this.element = readingBox(say('Patch report'), waiting)
  }

  /** @param {Output | undefined} output of the node */
  show(output) {
    if (!output?.text) return
    this.output = output
    this.draw()
  }

  draw() {
    const output = /** @type {Output} */ (this.output)
    const body = { blocks: () => this.table.show(output.table), map: () => this.map(output.table), steps: () => steps(output.steps), text: () => text(output.text) }
    const known = output.table.length > 0
    const parts = known ? [chips(VIEWS, this.view, (view) => this.choose({ view })), ...this.summary(output), body[/** @type {'text'} */ (this.view)]()] : [text(output.text)]
    const { scrollTop } = this.element
    this.element.replaceChildren(...parts)
    this.element.scrollTop = scrollTop
  }

  /** @returns {number} the largest share of the time of a row */
  most() {
    return Math.max(...(this.output?.table ?? []).map(share), 1e-9)
  }

  /** @param {Output} output */
  summary({ head = [], fates = [] }) {
    if (this.view === 'text') return []
    const lines = document.createElement('ul')
    Object.assign(lines.style, { flex: 'none', listStyle: 'none', margin: '0', padding: '0', lineHeight: '1.4' })
    for (const { number, name, fate, ran } of [...fates].sort((a, b) => Number(a.ran) - Number(b.ran))) {
      const line = element('li', ran ? {} : { color: NEVER }, `${ran ? '\u2713' : '\u26a0'} ${number}. `)
      line.append(element('strong', {}, name), `: ${fate}`)
      lines.append(line)
    }
    return [lines, element('div', { flex: 'none', lineHeight: '1.4' }, head.join(' '))]
  }

  /** @param {{ view?: string, measure?: string }} what is shown from now on */
  choose(what) {
    Object.assign(this, what)
    this.draw()
  }

  /** @param {Row[]} rows */
  map(rows) {
    const { cells, titles, width, height } = place(closed(blocksOf(rows)))
    const sheet = element('div', { position: 'relative', flex: 'none', width: `${width}px`, height: `${height}px` })
    const values = cells.map(({ block }) => MEASURES[this.measure](rowsOf(rows, block.name)))
    const most = Math.max(...values, 1e-9)
    cells.forEach((cell, i) => sheet.append(mapCell(cell, values[i] / most, `${cell.block.name}: ${amount(this.measure, values[i])}\n${about(cell.block)}\n${detail(rowsOf(rows, cell.block.name))}`)))
    for (const { text, x, y } of titles) sheet.append(element('div', { position: 'absolute', left: `${x}px`, top: `${y}px` }, text))
    const whole = document.createElement('div')
    whole.append(chips(Object.keys(MEASURES), this.measure, (measure) => this.choose({ measure })), element('div', { margin: '4px 0' }, say('dark blue none, yellow $1; point at a block for its numbers', amount(this.measure, most))), sheet)
    return whole
  }
}

/**
 * @param {string} type of blocks
 * @param {Row[]} rows
 */
function told(type, rows) {
  const time = rows.reduce((sum, row) => sum + share(row), 0)
  return say('$1: $2 rows, $3 % of the time', TYPES()[/** @type {'middle'} */ (type)] ?? type, rows.length, Math.round(100 * time))
}

/**
 * @param {Row} row
 * @param {number} most the largest share of the time
 */
function tableRow(row, most) {
  const line = document.createElement('tr')
  for (const [column] of COLUMNS) {
    const cell = element('td', CELL, String(row[column]))
    if (column === 'time') cell.style.whiteSpace = 'nowrap'
    if (column === 'time') cell.style.background = `linear-gradient(to right, ${BAR} ${(100 * share(row)) / most}%, transparent 0)`
    if (column === 'function' && row.note) cell.append(element('div', { opacity: '0.75', fontStyle: 'italic' }, row.note))
    line.append(cell)
  }
  line.title = say('$1 $2, heads $3, steps $4', row.block, row.attention, row.heads, row.steps)
  return line
}

/**
 * @param {import('./block_layout.js').Cell} cell
 * @param {number} heat 0 to 1
 * @param {string} title
 */
function mapCell({ label, x, y, width, height }, heat, title) {
  const place = { position: 'absolute', boxSizing: 'border-box', left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px`, padding: '0 4px', overflow: 'hidden', whiteSpace: 'pre', borderRadius: '4px' }
  const cell = element('div', { ...place, ...painted(heat) }, label)
  cell.title = title
  return cell
}

/** @param {Row[]} rows */
const detail = (rows) => rows.map((row) => `${row.block} ${row.attention}: ${row.function}, ${say('$1 calls', row.calls)}, ${row.time}${row.patches && `, ${row.patches}`}`).join('\n')

/**
 * @param {string} measure
 * @param {number} value
 */
const amount = (measure, value) => (measure === 'time' ? say('$1 % of the time', (100 * value).toPrecision(2)) : measure === 'calls' ? say('$1 calls', value) : say('$1 uses of patches', value))

/** @param {Step[]} rows */
function steps(rows) {
  const table = element('table', { borderCollapse: 'collapse', width: '100%', lineHeight: '1.4' })
  const most = Math.max(...rows.map(({ seconds }) => seconds), 1e-9)
  const line = (/** @type {string[]} */ texts, /** @type {'th' | 'td'} */ kind) => {
    const row = document.createElement('tr')
    row.append(...texts.map((one) => element(kind, CELL, one)))
    return row
  }
  table.append(line([say('step'), say('function'), say('calls'), say('fell back'), say('time')], 'th'))
  for (const { step, function: name, calls, fallbacks, seconds } of rows) {
    const row = line([String(step || '?'), name, String(calls), fallbacks ? String(fallbacks) : '', `${(1000 * seconds).toPrecision(3)} ms`], 'td')
    const last = /** @type {HTMLElement} */ (row.lastChild)
    last.style.background = `linear-gradient(to right, ${BAR} ${(100 * seconds) / most}%, transparent 0)`
    table.append(row)
  }
  return table
}

/** @param {string[]} lines */
const text = (lines) => element('pre', { margin: '0', font: '11px/1.4 monospace', whiteSpace: 'pre' }, lines.join('\n'))
