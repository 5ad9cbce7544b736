// The map of a model's blocks in a node: click, drag or space choose blocks; the address text is all that is stored.
import { selected, write } from './address.js'
import { place } from './block_layout.js'

const BOX = {
  position: 'relative',
  boxSizing: 'border-box',
  contain: 'size',
  flex: '1 1 auto',
  minHeight: '220px',
  width: '100%',
  overflow: 'auto',
  padding: '6px',
  font: '11px/20px sans-serif',
  color: 'var(--input-text)',
  background: 'var(--comfy-input-bg)',
  borderRadius: '6px'
}
const CELL = {
  position: 'absolute',
  boxSizing: 'border-box',
  padding: '0 4px',
  font: 'inherit',
  color: 'inherit',
  whiteSpace: 'pre',
  overflow: 'hidden',
  textOverflow: 'ellipsis',
  textAlign: 'left',
  borderRadius: '4px',
  touchAction: 'none'
}

export class BlockMapView {
  /**
   * @param {() => string} read gives the address
   * @param {(text: string) => void} store keeps a new one
   */
  constructor(read, store) {
    this.read = read
    this.store = store
    /** @type {import('./block_layout.js').MapBlock[]} */
    this.blocks = []
    /** @type {Map<string, HTMLButtonElement>} */
    this.buttons = new Map()
    /** @type {boolean | null} what a drag sets; null when nothing is dragged */
    this.setting = null
    this.element = document.createElement('div')
    this.element.setAttribute('role', 'group')
    this.element.setAttribute('aria-label', 'Blocks of the model')
    Object.assign(this.element.style, BOX)
    this.element.textContent = 'Run the workflow to see the blocks of the model.'
    this.element.addEventListener('pointerdown', (event) => event.stopPropagation())
    this.element.addEventListener('pointerover', (event) => this.drag(event))
  }

  /** @param {import('./block_layout.js').MapBlock[]} blocks */
  show(blocks) {
    this.blocks = blocks
    const { cells, titles, width, height } = place(blocks)
    const plane = document.createElement('div')
    Object.assign(plane.style, { position: 'relative', width: `${width}px`, height: `${height}px` })
    this.buttons = new Map(cells.map((cell) => [cell.block.name, this.button(cell)]))
    plane.append(...titles.map(title), ...this.buttons.values())
    this.element.replaceChildren(plane)
    this.refresh()
  }

  /** @param {import('./block_layout.js').Cell} cell */
  button({ block, label, x, y, width, height }) {
    const button = document.createElement('button')
    button.type = 'button'
    button.dataset.block = block.name
    button.dataset.label = label
    button.title = block.depth ? `${block.name}: ${label}` : `${block.name}: no attention`
    button.disabled = block.depth === 0
    button.setAttribute('role', 'checkbox')
    const place = { left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px` }
    Object.assign(button.style, CELL, place, { opacity: block.depth ? '1' : '0.45' })
    button.addEventListener('pointerdown', (event) => this.begin(event, block.name))
    button.addEventListener('click', (event) => event.detail === 0 && this.set(block.name, !this.chosen().has(block.name)))
    return button
  }

  /**
   * @param {PointerEvent} event
   * @param {string} name
   */
  begin(event, name) {
    if (event.button !== 0) return
    this.setting = !this.chosen().has(name)
    this.set(name, this.setting)
    window.addEventListener('pointerup', () => (this.setting = null), { once: true })
  }

  /** @param {PointerEvent} event */
  drag(event) {
    const name = event.target instanceof HTMLElement ? event.target.dataset.block : undefined
    if (name !== undefined && this.setting !== null && event.buttons & 1) this.set(name, this.setting)
  }

  /** @returns {Set<string>} */
  chosen() {
    try {
      return selected(this.read(), this.blocks)
    } catch {
      return new Set()
    }
  }

  /**
   * @param {string} name
   * @param {boolean} wanted
   */
  set(name, wanted) {
    const names = this.chosen()
    if (names.has(name) === wanted) return
    if (wanted) names.add(name)
    else names.delete(name)
    this.store(write(names, this.blocks, this.read()))
    this.refresh()
  }

  /** Show what the address says now. */
  refresh() {
    const names = this.chosen()
    for (const [name, button] of this.buttons) {
      const taken = names.has(name) && !button.disabled
      button.setAttribute('aria-checked', String(taken))
      button.textContent = (taken ? '\u2713 ' : '') + button.dataset.label
      button.style.border = taken ? '2px solid #4aa3ff' : '1px solid var(--border-color, #555)'
      button.style.background = taken ? 'rgb(74 163 255 / 30%)' : 'transparent'
    }
  }
}

/** @param {{ text: string, x: number, y: number }} title */
function title({ text, x, y }) {
  const element = document.createElement('div')
  Object.assign(element.style, { position: 'absolute', left: `${x}px`, top: `${y}px`, whiteSpace: 'pre' })
  element.textContent = text
  return element
}
