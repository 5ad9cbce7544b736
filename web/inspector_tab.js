// The tab that lists every patch of the models in the graph, as the Patch Inspectors found them in the last run.

/** @typedef {{ slot: string, block: string, owner: string, schedule: string, calls: number | null, seconds: number | null, trouble: string }} Finding */

const COLUMNS = ['slot', 'block', 'owner', 'schedule', 'calls', 'ms', 'state']

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
    const parts = [...this.tables].flatMap(([name, rows]) => [heading(name), rows.length ? table(rows) : line('Nothing is on this model.')])
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
function table(rows) {
  const element = document.createElement('table')
  Object.assign(element.style, { borderCollapse: 'collapse', whiteSpace: 'nowrap' })
  element.append(row(COLUMNS, 'th'))
  for (const { slot, block, owner, schedule, calls, seconds, trouble } of rows) {
    const time = seconds === null ? '' : (1000 * seconds).toPrecision(3)
    const state = trouble ? `\u26a0 ${trouble}` : calls ? '\u2713 ran' : '\u2013'
    const line = row([slot, block, owner, schedule, calls === null ? '' : String(calls), time, state], 'td')
    if (trouble) line.style.fontWeight = 'bold'
    element.append(line)
  }
  return element
}

/**
 * @param {string[]} cells
 * @param {'td' | 'th'} kind
 */
function row(cells, kind) {
  const element = document.createElement('tr')
  for (const text of cells) {
    const cell = document.createElement(kind)
    cell.textContent = text
    Object.assign(cell.style, { padding: '2px 8px 2px 0', textAlign: 'left', borderBottom: '1px solid var(--border-color, #555)' })
    element.append(cell)
  }
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
