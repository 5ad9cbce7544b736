// The tab that lists every patch of the models in the graph, as the Patch Inspectors found them in the last run.
import { say } from './say.js'

/**
 * @typedef {{ slot: string, block: string, owner: string, schedule: string, calls: number | null, seconds: number | null, trouble: string }} Finding
 * @typedef {{ name: string, node: object, rows: Finding[], from: (row: Finding) => object | null }} Table of a Patch Inspector; `from` finds the node of a row
 */

const LINK = { padding: '0', font: 'inherit', fontWeight: 'bold', textAlign: 'left', color: 'inherit', background: 'none', border: 'none', textDecoration: 'underline', cursor: 'pointer' }

export class InspectorTab {
  /**
   * @param {() => void} add puts an inspector into the graph
   * @param {(node: object) => void} jump shows a node
   */
  constructor(add, jump) {
    this.add = add
    this.jump = jump
    /** @type {Table[]} */
    this.tables = []
    this.element = document.createElement('div')
    Object.assign(this.element.style, { padding: '8px', overflow: 'auto', height: '100%', font: '12px/1.5 sans-serif', color: 'var(--input-text)' })
    this.refresh()
  }

  /** @param {Table[]} tables */
  show(tables) {
    this.tables = tables
    this.refresh()
  }

  refresh() {
    const parts = this.tables.flatMap((table) => [this.heading(table), table.rows.length ? this.list(table) : line(say('Nothing is on this model.'))])
    this.element.replaceChildren(...(parts.length ? parts : this.empty()))
  }

  /** @param {Table} table */
  heading({ name, node }) {
    const element = document.createElement('h4')
    element.style.margin = '8px 0 4px'
    element.append(this.link(name, node))
    return element
  }

  /** @param {Table} table */
  list({ rows, from }) {
    const element = document.createElement('ul')
    Object.assign(element.style, { listStyle: 'none', margin: '0', padding: '0' })
    element.append(...rows.map((row) => item(row, this.link(row.owner, from(row)))))
    return element
  }

  /**
   * @param {string} text
   * @param {object | null} node to show on a click
   * @returns {HTMLElement}
   */
  link(text, node) {
    if (!node) return Object.assign(document.createElement('strong'), { textContent: text })
    const button = document.createElement('button')
    button.type = 'button'
    button.textContent = text
    button.title = say('Show the node')
    Object.assign(button.style, LINK)
    button.addEventListener('click', () => this.jump(node))
    return button
  }

  empty() {
    const button = document.createElement('button')
    button.type = 'button'
    button.textContent = say('Add a Patch Inspector')
    button.addEventListener('click', this.add)
    const how = say('Link a Patch Inspector to a model, and the latent of the sampler to it for the calls of the run; then run the workflow.')
    return [line(how), button]
  }
}

/**
 * @param {Finding} finding
 * @param {HTMLElement} name
 */
function item({ slot, block, schedule, calls, seconds, trouble }, name) {
  const element = document.createElement('li')
  Object.assign(element.style, { padding: '4px 0', borderBottom: '1px solid var(--border-color, #555)', overflowWrap: 'anywhere' })
  const when = schedule === 'always' || schedule === '-' ? '' : `, ${schedule}`
  const counted = calls === null ? '' : say('$1 calls', calls)
  const time = seconds === null ? '' : `${(1000 * seconds).toPrecision(3)} ms`
  const state = trouble ? `\u26a0 ${trouble}` : calls ? `\u2713 ${say('ran')}` : ''
  const lines = [`${say('$1 on $2', slot, block)}${when}`, [state, counted, time].filter(Boolean).join(', ')].filter(Boolean)
  element.append(name, ...lines.map((text) => Object.assign(document.createElement('div'), { textContent: text })))
  return element
}

/** @param {string} text */
function line(text) {
  const element = document.createElement('p')
  element.textContent = text
  return element
}
