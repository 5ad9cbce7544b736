// The panel that chooses the blocks of a node: the model that it gets or one like it, the address as text, and the map.
import { BlockMapView } from './block_map.js'
import { MODELS, layoutOf } from './models.js'
import { say } from './say.js'

const WIDE = { boxSizing: 'border-box', display: 'block', width: '420px', margin: '4px 0' }
const TEXT = { padding: '3px 6px', font: '12px monospace', color: 'var(--input-text)', background: 'var(--comfy-input-bg)', border: '1px solid var(--border-color, #555)', borderRadius: '4px' }

export class BlockPicker {
  /**
   * @param {() => string} read gives the address
   * @param {(text: string, goesOn?: boolean) => void} store keeps a new one, perhaps of a change that goes on
   * @param {() => string} linked says where the address comes from by a link
   */
  constructor(read, store, linked) {
    this.read = read
    const kept = (/** @type {string} */ text, goesOn = false) => {
      store(text, goesOn)
      this.field.value = text
    }
    this.view = new BlockMapView(read, kept, linked)
    Object.assign(this.view.element.style, { contain: 'none', width: '420px', height: '400px' })
    /** @type {Map<string, import('./models.js').Layout>} */
    this.layouts = new Map(MODELS.map((name) => [name, layoutOf(name)]))
    this.note = document.createElement('div')
    Object.assign(this.note.style, WIDE)
    this.select = document.createElement('select')
    this.select.setAttribute('aria-label', say('Model'))
    Object.assign(this.select.style, WIDE)
    for (const name of this.layouts.keys()) this.select.add(new Option(name))
    this.select.selectedIndex = -1
    this.touched = false // by the user, whose choice stays
    this.select.addEventListener('change', () => {
      this.touched = true
      this.note.textContent = ''
      this.choose(this.select.value)
    })
    this.field = document.createElement('input')
    this.field.setAttribute('aria-label', say('Address'))
    this.field.spellcheck = false
    Object.assign(this.field.style, WIDE, TEXT)
    this.field.value = read()
    this.field.disabled = linked() !== ''
    this.field.addEventListener('input', () => {
      store(this.field.value, true)
      this.view.refresh()
    })
    this.field.addEventListener('change', () => store(this.field.value))
    this.view.plane.textContent = ''
    this.view.refresh()
    this.elements = [this.select, this.note, this.field, this.view.element]
  }

  /** Show what the address says now. */
  refresh() {
    this.field.value = this.read()
    this.view.refresh()
  }

  /**
   * Add a model in front of the others.
   * @param {string} name
   * @param {import('./models.js').Layout} layout
   */
  offer(name, layout) {
    this.layouts.set(name, layout)
    this.select.add(new Option(name), 0)
    if (!this.touched) this.choose(name)
  }

  /**
   * Say why the model is not known; the user chooses one.
   * @param {string} why
   */
  ask(why) {
    this.note.textContent = why
  }

  /** @param {string} name */
  choose(name) {
    const layout = this.layouts.get(name)
    this.select.value = name
    if (layout) this.view.show(layout)
  }
}
