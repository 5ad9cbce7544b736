// Everything that is on a model: a table by owner or by slot, with what each patch replaces, or the text.
import { readingBox } from './box.js'
import { chips } from './chip.js'
import { element } from './element.js'
import { CELL, FoldTable } from './fold_table.js'
import { grouped, ordered, told, written } from './inspector_rows.js'
import { say } from './say.js'

/**
 * @typedef {import('./inspector_rows.js').Row} Row
 * @typedef {import('./inspector_rows.js').Column} Column
 * @typedef {{ text: string[], table?: Omit<Row, 'beside'>[], beside?: string[] }} Output
 */

/** @type {[Column, string][]} */
const COLUMNS = [['block', 'block'], ['schedule', 'when'], ['calls', 'calls'], ['seconds', 'time'], ['trouble', 'state']]
/** @type {Record<'owner' | 'slot', [Column, string][]>} */
const OF = { owner: [['slot', 'slot'], ...COLUMNS], slot: [['owner', 'owner'], ...COLUMNS] }
const NARROW = { whiteSpace: 'nowrap' }
const WIDE = { overflowWrap: 'anywhere' }
const SHORT = ['schedule', 'calls', 'seconds'] // columns whose texts are not broken into lines
const WRONG = 'var(--p-red-400, #f87171)'

export class InspectorView {
  /** @param {string} waiting what to say before there is a list */
  constructor(waiting) {
    /** @type {Output | null} */
    this.output = null
    /** @type {'by owner' | 'by slot' | 'text'} */
    this.view = 'by owner'
    this.tables = { 'by owner': tableOf('owner'), 'by slot': tableOf('slot') }
    this.element = readingBox(say('Patches of the model'), waiting, { minHeight: '220px' })
  }

  /** @param {Output | undefined} output of the node */
  show(output) {
    if (!output?.text) return
    this.output = output
    this.draw()
  }

  draw() {
    const { text, table = [], beside = [] } = /** @type {Output} */ (this.output)
    const rows = table.map((row, i) => ({ ...row, beside: beside[i] ?? '' }))
    const views = chips(/** @type {const} */ (['by owner', 'by slot', 'text']), this.view, (view) => {
      this.view = view
      this.draw()
    })
    const plain = element('pre', { margin: '0', font: '11px/1.4 monospace', whiteSpace: 'pre' }, text.join('\n'))
    const head = element('div', { flex: 'none', lineHeight: '1.4', whiteSpace: 'pre-line' }, text.join('\n').split('\n\n')[0])
    if (!rows.length) this.element.replaceChildren(plain)
    else if (this.view === 'text') this.element.replaceChildren(views, plain)
    else this.element.replaceChildren(views, head, this.tables[this.view].show(rows))
  }
}

/** @param {'owner' | 'slot'} by */
function tableOf(by) {
  return new FoldTable({
    columns: OF[by].map(([column, title]) => [column, say(title)]),
    falling: ['calls', 'seconds'],
    groups: (/** @type {Row[]} */ rows) => grouped(rows, by),
    title: told,
    order: ordered,
    line: (row) => line(row, OF[by].map(([column]) => column))
  })
}

/**
 * @param {Row} row
 * @param {Column[]} columns
 */
function line(row, columns) {
  const made = document.createElement('tr')
  for (const column of columns) {
    const cell = element('td', { ...CELL, ...(SHORT.includes(column) ? NARROW : WIDE) }, written(row, column))
    if (column === 'trouble' && row.trouble) cell.style.color = WRONG
    if (column === 'trouble' && row.beside) cell.append(element('div', { opacity: '0.75', fontStyle: 'italic', color: 'var(--input-text)' }, row.beside))
    made.append(cell)
  }
  return made
}
