// The tab that lists every patch of the models in the graph, as the Patch Inspectors found them in the last run.

/** @typedef {{ slot: string, block: string, owner: string, schedule: string, calls: number | null, seconds: number | null, trouble: string }} Finding */

export class InspectorTab {
  /** @param {() => void} add puts an inspector into the graph */
  constructor(add) {
    this.add = add
    /** @type {Map<string, Finding[]>} */
    this.tables = new Map()
    this.element = document.createElement('div')
    Object.assign(this.element.style, { padding: '8px', overflow: 'auto', height: '100%', font: '12px/1.5 sans-serif', color: 'var(--input-text)' })
    this.refresh()
  }

  /** @param {Map<string, Finding[]>} tables by the name of the node */
  show(tables) {
    this.tables = tables
    this.refresh()
  }

  refresh() {
    const parts = [...this.tables].flatMap(([name, rows]) => [heading(name), rows.length ? list(rows) : line('Nothing is on this model.')])
    this.element.replaceChildren(...(parts.length ? parts : this.empty()))
  }

  empty() {
    const button = document.createElement('button')
    button.type = 'button'
    button.textContent = 'Add a Patch Inspector'
    button.addEventListener('click', this.add)
    const how = 'Link a Patch Inspector to a model, and the sampler\u2019s latent to it for the calls of the run; then run the workflow.'
    return [line(how), button]
  }
}

/** @param {Finding[]} rows */
function list(rows) {
  const element = document.createElement('ul')
  Object.assign(element.style, { listStyle: 'none', margin: '0', padding: '0' })
  element.append(...rows.map(item))
  return element
}

/** @param {Finding} finding */
function item({ slot, block, owner, schedule, calls, seconds, trouble }) {
  const element = document.createElement('li')
  Object.assign(element.style, { padding: '4px 0', borderBottom: '1px solid var(--border-color, #555)', overflowWrap: 'anywhere' })
  const when = schedule === 'always' || schedule === '-' ? '' : `, ${schedule}`
  const counted = calls === null ? '' : `${calls} calls`
  const time = seconds === null ? '' : `${(1000 * seconds).toPrecision(3)} ms`
  const state = trouble ? `\u26a0 ${trouble}` : calls ? '\u2713 ran' : ''
  const name = document.createElement('strong')
  name.textContent = owner
  const lines = [`${slot} on ${block}${when}`, [state, counted, time].filter(Boolean).join(', ')].filter(Boolean)
  element.append(name, ...lines.map((text) => Object.assign(document.createElement('div'), { textContent: text })))
  return element
}

/** @param {string} text */
function heading(text) {
  const element = document.createElement('h4')
  element.textContent = text
  element.style.margin = '8px 0 4px'
  return element
}

/** @param {string} text */
function line(text) {
  const element = document.createElement('p')
  element.textContent = text
  return element
}
