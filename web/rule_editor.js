// What stands below the rules of a node while they are written: how they are read, what is wrong, and what can follow.
import { chip } from './chip.js'
import { complete, read } from './rules.js'
import { say } from './say.js'

const BOX = {
  boxSizing: 'border-box',
  contain: 'size',
  flex: '1 1 auto',
  minHeight: '110px',
  width: '100%',
  overflow: 'auto',
  padding: '4px 8px',
  font: '11px/1.5 sans-serif',
  color: 'var(--input-text)',
  background: 'var(--comfy-input-bg)',
  borderRadius: '6px'
}

export class RuleEditor {
  /**
   * @param {() => string} text gives the rules
   * @param {(text: string) => void} store keeps new ones
   */
  constructor(text, store) {
    this.text = text
    this.store = store
    /** @type {string[]} */
    this.backends = []
    /** @type {import('./faults.js').Known | null} */
    this.model = null
    this.offered = ''
    this.element = document.createElement('div')
    Object.assign(this.element.style, BOX)
    this.status = document.createElement('div')
    this.status.setAttribute('role', 'status')
    this.chips = document.createElement('div')
    this.chips.setAttribute('role', 'group')
    this.chips.setAttribute('aria-label', say('What can follow'))
    this.element.append(this.chips, this.status)
    this.element.addEventListener('pointerdown', (event) => event.stopPropagation())
    this.refresh()
  }

  /** @param {string[]} backends the attention functions of the pack */
  know(backends) {
    this.backends = backends
    this.refresh()
  }

  /** @param {import('./faults.js').Known | null} model what the rules are for */
  knowModel(model) {
    this.model = model
    this.refresh()
  }

  /** Show how the text is read now. */
  refresh() {
    const { rules, faults } = this.rules()
    const right = rules.map(({ number, address, window, given }) => ({ number, told: `${number}. ${[address, window].filter(Boolean).join(' ')} \u2192 ${given}` }))
    const wrong = faults.map(({ number, line, column, reason }) => ({ number, told: `\u26a0 line ${line}, column ${column}: ${reason}` }))
    this.status.replaceChildren(...[...right, ...wrong].sort((one, other) => one.number - other.number).map(({ told }) => line(told)))
    this.status.style.whiteSpace = 'pre-wrap'
    this.suggest(complete(this.text().slice(0, this.caret()), this.possible()))
  }

  /**
   * Offer words; the same ones keep their buttons, or a click that has begun on one would be lost.
   * @param {{ word: string, typed: number }[]} suggestions
   */
  suggest(suggestions) {
    const offered = JSON.stringify(suggestions)
    if (offered === this.offered) return
    this.offered = offered
    this.chips.replaceChildren(...suggestions.map((one) => this.chip(one)))
  }

  /** @returns {{ rules: import('./rules.js').Part[], faults: import('./rules.js').Fault[] }} */
  rules() {
    const { rules, faults } = read(this.text(), this.backends, this.model)
    return { rules: rules.map(({ backend, ...rule }) => ({ ...rule, given: backend })), faults }
  }

  /** @returns {string[]} what may stand behind an arrow */
  possible() {
    return this.backends
  }

  /** @returns {number} where the next word goes */
  caret() {
    const field = document.activeElement
    const own = field instanceof HTMLTextAreaElement && field.value === this.text()
    return own ? field.selectionStart : this.text().length
  }

  /** @param {{ word: string, typed: number }} suggestion */
  chip({ word, typed }) {
    const button = chip(word, () => {
      const [text, caret] = [this.text(), this.caret()]
      const before = text.slice(0, caret - typed)
      const space = typed || !before || /[\s!]$/.test(before) ? '' : ' '
      this.store(before + space + word + text.slice(caret))
      this.refresh()
    })
    button.addEventListener('pointerdown', (event) => event.preventDefault()) // the text keeps the caret
    return button
  }
}

/** @param {string} text */
function line(text) {
  const element = document.createElement('div')
  element.textContent = text
  return element
}
