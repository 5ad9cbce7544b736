// A fault of an address on the page: the address with the wrong part underlined, and the reason.

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
