// What each word of the prompt got of the attention and brought to its results, in the node; words that brought little are grey.
import { readingBox } from './box.js'
import { element } from './element.js'
import { say } from './say.js'

/**
 * @typedef {{ word: string, tokens: number, side: string, share: number, brings: number, relative: number, faint: boolean }} WordRow
 */

const CELL = { padding: '1px 8px 1px 0', textAlign: 'left', whiteSpace: 'nowrap' }
const HEAD = { ...CELL, position: 'sticky', top: '0', background: 'var(--comfy-input-bg)' }
const columns = () => [
  [say('word'), say('A word of the prompt, in its order')],
  [say('share'), say('The part of the attention that it gets: the mean over the picture, all heads, blocks and steps')],
  [say('brings'), say('How large what it adds to a result of attention is, relative to that result')]
]

export class SharesView {
  /** @param {string} waiting what to say before there is a table */
  constructor(waiting) {
    this.element = readingBox(say('Shares of the words'), waiting, { minHeight: '160px', overflow: 'auto', font: '11px/1.5 sans-serif' })
  }

  /** @param {{ words?: WordRow[] } | undefined} output of the node */
  show(output) {
    const rows = output?.words
    if (!rows?.length) return
    const table = element('table', { borderCollapse: 'collapse', width: '100%' })
    const head = document.createElement('tr')
    for (const [name, means] of columns()) head.append(Object.assign(element('th', HEAD, name), { title: means }))
    const most = Math.max(...rows.map(({ share }) => share))
    table.append(head, ...rows.map((row) => line(row, most)))
    this.element.replaceChildren(table)
  }
}

/**
 * @param {WordRow} row
 * @param {number} most the largest share
 */
function line({ word, share, brings, relative, faint }, most) {
  const made = element('tr', { opacity: faint ? '0.45' : '1' })
  made.dataset.faint = String(faint)
  made.title = faint ? say('$1 brings $2 of what the word that brings most does: it may well do nothing', word, percent(relative)) : ''
  made.append(element('td', { ...CELL, fontWeight: 'bold' }, word), barred(share, share / most), barred(brings, relative))
  return made
}

/**
 * @param {number} value
 * @param {number} part of the longest bar, 0 to 1
 */
function barred(value, part) {
  const cell = element('td', { ...CELL, width: '45%' })
  const bar = element('span', { display: 'inline-block', height: '8px', width: `${Math.round(70 * part)}%`, marginRight: '6px', background: '#4aa3ff', borderRadius: '2px' })
  cell.append(bar, percent(value))
  return cell
}

const percent = (/** @type {number} */ value) => `${(100 * value).toFixed(1)} %`
