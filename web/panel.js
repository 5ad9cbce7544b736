// A small window over the page for one widget of a node: Escape or a click beside it closes it.
// It is no <dialog>: while one is open, the page undoes nothing.

const LOOK = {
  position: 'fixed',
  inset: 'auto',
  margin: '0',
  zIndex: '2000',
  maxWidth: '90vw',
  maxHeight: '80vh',
  overflow: 'auto',
  padding: '10px',
  font: '12px/1.5 sans-serif',
  color: 'var(--input-text)',
  background: 'var(--comfy-menu-bg, #222)',
  border: '1px solid var(--border-color, #555)',
  borderRadius: '8px'
}

/**
 * Open a panel.
 * @param {string} title
 * @param {HTMLElement[]} content
 * @param {number} x where on the screen
 * @param {number} y
 * @returns {{ element: HTMLElement, shut: () => void }}
 */
export function open(title, content, x, y) {
  for (const other of document.querySelectorAll('[data-patchbay]')) other.dispatchEvent(new Event('patchbay-shut'))
  const panel = document.createElement('div')
  panel.dataset.patchbay = title
  panel.setAttribute('role', 'dialog')
  panel.setAttribute('aria-label', title)
  Object.assign(panel.style, LOOK)
  const head = document.createElement('strong')
  head.textContent = title
  head.style.display = 'block'
  panel.append(head, ...content)
  document.body.append(panel)
  const before = document.activeElement
  const done = new AbortController()
  const shut = () => {
    done.abort()
    panel.remove()
    if (before instanceof HTMLElement) before.focus()
  }
  panel.addEventListener('patchbay-shut', shut)
  panel.addEventListener('keydown', (event) => event.stopPropagation()) // keys of the page must not act on the graph
  const escape = (/** @type {KeyboardEvent} */ event) => event.key === 'Escape' && shut()
  window.addEventListener('keydown', escape, { capture: true, signal: done.signal })
  const aside = (/** @type {PointerEvent} */ event) => {
    if (!(event.target instanceof Node && panel.contains(event.target))) shut()
  }
  setTimeout(() => window.addEventListener('pointerdown', aside, { capture: true, signal: done.signal }))
  panel.style.left = `${Math.max(8, Math.min(x, window.innerWidth - panel.offsetWidth - 8))}px`
  panel.style.top = `${Math.max(8, Math.min(y, window.innerHeight - panel.offsetHeight - 8))}px`
  const first = panel.querySelector('button:not([disabled]), select, [tabindex]')
  if (first instanceof HTMLElement) first.focus()
  return { element: panel, shut }
}
