// The text that a node gives, in the node: to be read, scrolled and copied.
import { say } from './say.js'

const STYLE = {
  boxSizing: 'border-box',
  contain: 'size', // its place decides how large it is, not the text
  minHeight: '220px',
  width: '100%',
  margin: '0',
  padding: '6px 8px',
  overflow: 'auto',
  font: '11px/1.4 monospace',
  whiteSpace: 'pre',
  userSelect: 'text',
  color: 'var(--input-text)',
  background: 'var(--comfy-input-bg)',
  borderRadius: '6px'
}

export class TextView {
  /**
   * @param {string} label
   * @param {string} waiting what to say before there is a text
   */
  constructor(label, waiting) {
    this.element = document.createElement('pre')
    this.element.tabIndex = 0
    this.element.setAttribute('aria-label', label)
    Object.assign(this.element.style, STYLE)
    this.element.textContent = waiting
  }

  /** @param {{ text?: string[], picture?: string[] } | undefined} output of the node */
  show(output) {
    if (output?.text) this.element.textContent = output.text.join('\n')
    if (output?.picture) this.element.append('\n\n', picture(output.picture[0]))
  }
}

/** @param {string} source */
function picture(source) {
  const image = new Image()
  image.src = source
  image.alt = say('The times of each function')
  image.style.maxWidth = '100%'
  return image
}
