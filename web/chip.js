// The small buttons of a display: how they look, and whether each is on.
import { say } from './say.js'

export const CHIP = {
  margin: '2px 4px 2px 0',
  padding: '0 6px',
  font: 'inherit',
  color: 'inherit',
  background: 'transparent',
  border: '1px solid var(--border-color, #555)',
  borderRadius: '8px',
  cursor: 'pointer'
}
const ON = 'rgb(74 163 255 / 30%)'

/**
 * Make a button.
 * @param {string} text
 * @param {() => void} act what a click does
 * @param {Record<string, string>} style beside that of all
 * @returns {HTMLButtonElement}
 */
export function chip(text, act, style = {}) {
  const button = document.createElement('button')
  button.type = 'button'
  button.textContent = text
  Object.assign(button.style, CHIP, style)
  button.addEventListener('click', act)
  return button
}

/**
 * Show whether a button that stays on or off is on.
 * @param {HTMLButtonElement} button
 * @param {boolean} on
 * @returns {HTMLButtonElement}
 */
export function press(button, on) {
  button.setAttribute('aria-pressed', String(on))
  button.style.background = on ? ON : 'transparent'
  return button
}

/**
 * Make a row of buttons, of which one is on.
 * @template {string} T
 * @param {readonly T[]} names
 * @param {T} current
 * @param {(name: T) => void} choose
 * @returns {HTMLElement}
 */
export function chips(names, current, choose) {
  const row = document.createElement('div')
  row.style.flex = 'none'
  row.append(...names.map((name) => press(chip(say(name), () => choose(name)), name === current)))
  return row
}
