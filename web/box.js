// How a display fills its node.
import { element } from './element.js'

export const BOX = {
  boxSizing: 'border-box',
  contain: 'size',
  display: 'flex',
  flexDirection: 'column',
  flex: '1 1 auto',
  gap: '4px',
  minHeight: '300px',
  width: '100%',
  overflow: 'auto',
  padding: '6px',
  font: '11px/1.5 sans-serif',
  color: 'var(--input-text)',
  background: 'var(--comfy-input-bg)',
  borderRadius: '6px'
}

/**
 * Make a display whose text can be marked.
 * @param {string} label for who hears the page
 * @param {string} waiting what it says before there is anything
 * @param {Record<string, string>} style beside that of all
 */
export function readingBox(label, waiting, style = {}) {
  const box = element('div', { ...BOX, userSelect: 'text', ...style }, waiting)
  box.setAttribute('role', 'region')
  box.setAttribute('aria-label', label)
  box.addEventListener('pointerdown', (event) => event.stopPropagation())
  return box
}
