// A table of rows in groups: a click on a column sorts within them, one on the line of a group folds it away.
import { element } from './element.js'

export const CELL = { padding: '1px 8px 1px 0', textAlign: 'left', verticalAlign: 'top' }
const HEAD = { ...CELL, position: 'sticky', top: '0', background: 'var(--comfy-input-bg)', cursor: 'pointer', whiteSpace: 'nowrap' }
const GROUP = { ...CELL, paddingTop: '6px', cursor: 'pointer', opacity: '0.8' }

/**
 * How the rows of a table are shown.
 * @template Row
 * @template {string} Column
 * @typedef {{
 *   columns: [Column, string][],
 *   falling: Column[],
 *   groups: (rows: Row[]) => Map<string, Row[]>,
 *   title: (group: string, rows: Row[]) => string,
 *   order: (rows: Row[], by: Column) => Row[],
 *   line: (row: Row) => HTMLTableRowElement
 * }} Look `falling`: columns that are sorted from the largest
 */

/**
 * @template Row
 * @template {string} Column
 */
export class FoldTable {
  /** @param {Look<Row, Column>} look */
  constructor(look) {
    this.look = look
    this.by = look.columns[0][0]
    /** @type {Set<string>} groups whose rows are folded away */
    this.folded = new Set()
    /** @type {Row[]} */
    this.rows = []
    this.element = element('table', { borderCollapse: 'collapse', width: '100%', lineHeight: '1.4' })
  }

  /** @param {Row[]} rows */
  show(rows) {
    this.rows = rows
    this.draw()
    return this.element
  }

  draw() {
    const groups = [...this.look.groups(this.rows)].flatMap(([group, rows]) => this.group(group, rows))
    this.element.replaceChildren(this.head(), ...groups)
  }

  head() {
    const line = document.createElement('tr')
    for (const [column, title] of this.look.columns) {
      const cell = element('th', HEAD, `${title}${column === this.by ? ' \u25be' : ''}`)
      const way = this.look.falling.includes(column) ? 'descending' : 'ascending'
      cell.setAttribute('aria-sort', column === this.by ? way : 'none')
      this.act(cell, () => (this.by = column))
      line.append(cell)
    }
    return line
  }

  /**
   * @param {string} group
   * @param {Row[]} rows
   * @returns {HTMLTableRowElement[]}
   */
  group(group, rows) {
    const folded = this.folded.has(group)
    const cell = element('td', GROUP, `${folded ? '\u25b8' : '\u25be'} ${this.look.title(group, rows)}`)
    cell.colSpan = this.look.columns.length
    cell.setAttribute('role', 'button')
    cell.setAttribute('aria-expanded', String(!folded))
    this.act(cell, () => (folded ? this.folded.delete(group) : this.folded.add(group)))
    const line = document.createElement('tr')
    line.append(cell)
    return [line, ...(folded ? [] : this.look.order(rows, this.by).map(this.look.line))]
  }

  /**
   * Change the table on a click, on Enter and on space; what had the focus keeps it.
   * @param {HTMLElement} cell
   * @param {() => unknown} change
   */
  act(cell, change) {
    cell.tabIndex = 0
    cell.addEventListener('click', () => {
      const place = this.cells().indexOf(cell)
      const focused = document.activeElement === cell
      change()
      this.draw()
      if (focused) this.cells()[place]?.focus()
    })
    cell.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' && event.key !== ' ') return
      event.preventDefault()
      event.stopPropagation()
      cell.click()
    })
  }

  /** @returns {HTMLElement[]} those that act */
  cells() {
    return [...this.element.querySelectorAll('th, [role=button]')].map((one) => /** @type {HTMLElement} */ (one))
  }
}
