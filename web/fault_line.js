// A fault of an address on the page: the wrong part underlined, with the reason, or a sign at the widget.

const WAVE = { textDecoration: 'underline wavy #ff6b6b', textUnderlineOffset: '2px' }

/**
 * @param {string} text
 * @param {import('./faults.js').Fault} fault
 * @returns {HTMLElement[]}
 */
export function faultLine(text, { column, length, reason }) {
  const line = document.createElement('div')
  const wrong = document.createElement('span')
  wrong.textContent = text.slice(column, column + length)
  Object.assign(wrong.style, WAVE)
  line.append(text.slice(0, column), wrong, text.slice(column + length))
  const why = document.createElement('div')
  why.textContent = `\u26a0 column ${column + 1}: ${reason}`
  return [line, why]
}

const SIGN = '\u26a0 '
/** @type {WeakMap<object, string | undefined>} */
const tooltips = new WeakMap()

/**
 * @param {{ name: string, label?: string }} widget
 * @returns {string} what it is called on the page
 */
export function calledOf({ name, label }) {
  return (label ?? name).replace(SIGN, '')
}

/**
 * Put a sign before the name of a widget whose address is wrong, and the reason into its tooltip; or take them away.
 * @param {{ name: string, label?: string, tooltip?: string }} widget
 * @param {import('./faults.js').Fault | null} fault
 */
export function mark(widget, fault) {
  if (!tooltips.has(widget)) tooltips.set(widget, widget.tooltip)
  const label = calledOf(widget)
  widget.label = fault ? SIGN + label : label
  widget.tooltip = fault ? fault.reason : tooltips.get(widget)
}
