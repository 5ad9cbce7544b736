// The map of a model's blocks in a node: click, drag or space choose blocks; the address text is all that is stored.
// Before a run it shows what other nodes on the model chose, after one what each block did.
import { coverage, write } from './address.js'
import { BlockHover } from './block_hover.js'
import { about, place } from './block_layout.js'
import { heated, meaning, measures, written } from './block_values.js'
import { BOX } from './box.js'
import { chip, chips } from './chip.js'
import { element } from './element.js'
import { faultLine } from './fault_line.js'
import { fault } from './faults.js'
import { painted } from './heatmap.js'
import { Legend } from './legend.js'
import { colourings, drawn, ends } from './lora_colours.js'
import { legend, stripe, takers } from './others.js'
import { changed, inverted } from './picking.js'
import { say } from './say.js'

const MAP = { ...BOX, minHeight: '220px', overflow: 'auto', font: '11px/20px sans-serif' }
const CELL = {
  position: 'absolute',
  boxSizing: 'border-box',
  padding: '0 4px',
  font: 'inherit',
  lineHeight: '12px',
  color: 'inherit',
  whiteSpace: 'pre',
  overflow: 'hidden',
  textOverflow: 'ellipsis',
  textAlign: 'left',
  borderRadius: '4px',
  touchAction: 'none'
}
const NARROW = 60 // pixels, of a cell with nothing but a number
const TIGHT = { padding: '0', textAlign: 'center' }
const TOOL = { margin: '0 4px 0 0', padding: '0 8px' }
const EDGE = '1px solid color-mix(in srgb, currentColor 70%, transparent)' // seen on dark and light pages
const MARKS = { true: '\u2713\u2009', mixed: '\u25d0\u2009', false: '' }

export class BlockMapView {
  /**
   * @param {() => string} read gives the address
   * @param {(text: string, goesOn?: boolean) => void} store keeps a new one, perhaps of a drag that goes on
   * @param {() => string} linked says where the address comes from by a link; empty where it is the node's own
   */
  constructor(read, store, linked = () => '') {
    this.read = read
    this.store = store
    this.linked = linked
    /** @type {import('./models.js').Layout} */
    this.model = { blocks: [], kinds: [] }
    /** @type {Map<string, HTMLButtonElement>} */
    this.buttons = new Map()
    /** @type {boolean | null} what a drag sets; null when nothing is dragged */
    this.setting = null
    /** @type {string[]} what the last run says is chosen, for an address that comes by a link */
    this.ran = []
    this.empty = false // no block is chosen: what no address says, so that the old one stays
    /** @type {import('./others.js').Other[]} nodes that chose blocks of this model */
    this.others = []
    /** @type {import('./block_values.js').Values[]} of the last run */
    this.values = []
    /** @type {string} a measure, or the name of a LoRA's colouring */
    this.measure = 'choice'
    /** @type {import('./lora_colours.js').Colouring[]} of the LoRAs on the model */
    this.loras = []
    this.element = document.createElement('div')
    this.element.setAttribute('role', 'group')
    this.element.setAttribute('aria-label', say('Blocks of the model'))
    Object.assign(this.element.style, MAP)
    this.tools = document.createElement('div')
    this.tools.append(this.tool('all'), this.tool('none'), this.tool('invert'))
    this.tools.hidden = true
    this.plane = document.createElement('div')
    Object.assign(this.plane.style, { flex: '1 1 0', minHeight: '120px', overflow: 'auto' })
    this.plane.textContent = say('Run the workflow to see the blocks of the model.')
    this.colouring = document.createElement('div')
    this.scale = new Legend('')
    this.chosenBy = document.createElement('div')
    Object.assign(this.chosenBy.style, { flex: 'none', maxHeight: '30%', overflow: 'auto', lineHeight: '1.4' })
    this.chosenBy.setAttribute('role', 'list')
    this.chosenBy.setAttribute('aria-label', say('Blocks of other nodes'))
    this.hover = new BlockHover()
    this.status = document.createElement('div')
    this.status.setAttribute('role', 'status')
    Object.assign(this.status.style, { lineHeight: '1.4', whiteSpace: 'pre-wrap', overflowWrap: 'anywhere', maxHeight: '30%', overflow: 'auto' })
    this.element.append(this.tools, this.colouring, this.scale.element, this.plane, this.chosenBy, this.hover.element, this.status)
    this.element.addEventListener('pointerdown', (event) => event.stopPropagation())
    this.element.addEventListener('pointerover', (event) => this.drag(event))
    for (const name of ['pointerover', 'focusin']) this.plane.addEventListener(name, ({ target }) => this.point(target))
    this.told()
  }

  /**
   * @param {import('./models.js').Layout} model
   * @param {string[]} ran the blocks that a run has chosen
   */
  show(model, ran = []) {
    this.model = model
    this.ran = ran
    const { cells, titles, width, height } = place(model.blocks)
    const sheet = document.createElement('div')
    Object.assign(sheet.style, { position: 'relative', width: `${width}px`, height: `${height}px` })
    this.buttons = new Map(cells.map((cell) => [cell.block.name, this.button(cell)]))
    sheet.append(...titles.map(title), ...this.buttons.values())
    this.plane.replaceChildren(sheet)
    this.tools.hidden = false
    this.know(this.others)
    this.refresh()
  }

  /** @param {'all' | 'none' | 'invert'} name */
  tool(name) {
    return chip(say(name), () => this.keep(this.made(name)), TOOL)
  }

  /** @param {import('./others.js').Other[]} others the nodes that chose blocks of this model */
  know(others) {
    const before = this.loras.length
    this.others = others
    this.loras = others.flatMap(({ title, lora }) => (lora ? colourings(title, lora, this.model.blocks) : []))
    if (!before && this.loras.length && !this.values.length) this.measure = this.loras[0].name
    this.chosenBy.replaceChildren(...legend(others))
    this.told()
    this.draw()
  }

  /** @returns {import('./lora_colours.js').Colouring | undefined} the colouring by a LoRA that is on */
  lora() {
    return this.loras.find(({ name }) => name === this.measure)
  }

  /** @param {import('./block_values.js').Values[]} values what the blocks did in a run */
  measured(values) {
    const first = !this.values.length
    this.values = values
    const known = measures(values)
    if (first && known.length) this.measure = known.includes('change') ? 'change' : 'time'
    this.told()
    this.draw()
  }

  /** By what the blocks are coloured. */
  told() {
    const known = [...new Set([...(this.loras.length ? ['choice'] : []), ...measures(this.values), ...this.loras.map(({ name }) => name)])]
    if (!known.includes(this.measure)) this.measure = 'choice'
    const row = chips(known, this.measure, (measure) => {
      this.measure = measure
      this.told()
      this.draw()
    })
    const means = (/** @type {string} */ name) => this.loras.find((one) => one.name === name)?.means ?? meaning(/** @type {import('./block_values.js').Measure} */ (name))
    for (const [i, button] of row.querySelectorAll('button').entries()) button.title = means(known[i])
    this.colouring.replaceChildren(row)
    this.colouring.style.display = known.length ? '' : 'none'
    this.hover.element.style.display = this.values.length ? 'flex' : 'none'
    this.scale.element.style.display = this.measure === 'choice' ? 'none' : 'flex'
    this.scale.element.title = means(this.measure)
    const lora = this.lora()
    const { least, most } = lora ? ends(lora) : heated(this.values, this.measure)
    this.scale.show(least, most, lora ? lora.tell : (value) => written(/** @type {import('./block_values.js').Measure} */ (this.measure), value))
  }

  /** @param {EventTarget | null} target */
  point(target) {
    const name = target instanceof HTMLElement ? target.dataset.block : undefined
    const row = this.values.find((one) => one.name === name)
    if (row) this.hover.show(row)
  }

  /**
   * @param {'all' | 'none' | 'invert'} tool
   * @returns {string} the address that it makes; empty for no block
   */
  made(tool) {
    const { blocks } = this.model
    const every = write(new Set(blocks.map((block) => block.name)), blocks, this.read())
    if (tool === 'invert') return this.empty ? every : inverted(this.read(), blocks)
    return tool === 'all' ? every : ''
  }

  /** @param {import('./block_layout.js').Cell} cell */
  button({ block, label, x, y, width, height }) {
    const button = document.createElement('button')
    button.type = 'button'
    button.dataset.block = block.name
    button.dataset.label = label
    const prefers = block.prefers ? `; ${say('the checkpoint prefers $1', block.prefers)}` : ''
    button.dataset.about = block.depth ? `${about(block)}${prefers}` : say('$1: no attention', block.name)
    button.setAttribute('role', 'checkbox')
    const place = { left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px` }
    Object.assign(button.style, CELL, width < NARROW ? TIGHT : {}, place, { textDecoration: prefers ? 'underline' : 'none' })
    button.addEventListener('pointerdown', (event) => this.begin(event, block.name))
    button.addEventListener('click', (event) => event.detail === 0 && this.set(block.name, !this.chosen().whole.has(block.name)))
    return button
  }

  /**
   * @param {PointerEvent} event
   * @param {string} name
   */
  begin(event, name) {
    if (event.button !== 0) return
    this.setting = !this.chosen().whole.has(name)
    this.set(name, this.setting, true)
    const ended = new AbortController()
    const end = () => {
      ended.abort()
      this.setting = null
      if (!this.linked() && !this.empty) this.store(this.read())
    }
    for (const up of ['pointerup', 'pointercancel']) window.addEventListener(up, end, { signal: ended.signal })
  }

  /** @param {PointerEvent} event */
  drag(event) {
    const name = event.target instanceof HTMLElement ? event.target.dataset.block : undefined
    if (name !== undefined && this.setting !== null && event.buttons & 1) this.set(name, this.setting, true)
  }

  /** @returns {{ whole: Set<string>, part: Set<string> }} */
  chosen() {
    if (this.linked() && !this.read()) return { whole: new Set(this.ran), part: new Set() }
    try {
      if (!this.empty) return coverage(this.read(), this.model.blocks)
    } catch {
      // the status says what cannot be read
    }
    return { whole: new Set(), part: new Set() }
  }

  /**
   * @param {string} name
   * @param {boolean} wanted
   * @param {boolean} goesOn whether it is part of a drag
   */
  set(name, wanted, goesOn = false) {
    const block = this.model.blocks.find((one) => one.name === name)
    const { whole, part } = this.chosen()
    const already = wanted ? whole.has(name) : !whole.has(name) && !part.has(name)
    if (!block?.depth || this.linked() || already) return
    this.keep(this.empty ? write(new Set([name]), this.model.blocks, this.read()) : changed(this.read(), block, wanted, this.model.blocks), goesOn)
  }

  /**
   * @param {string} text an address; empty for no block
   * @param {boolean} goesOn
   */
  keep(text, goesOn = false) {
    if (this.linked()) return
    if (text) this.store(text, goesOn)
    this.empty = !text
    this.draw()
  }

  /** Show what the address says now. */
  refresh() {
    this.empty = false
    this.draw()
  }

  draw() {
    const { whole, part } = this.chosen()
    const linked = this.linked()
    const lora = this.lora()
    const scale = lora && ends(lora)
    const { heat } = heated(this.values, lora ? 'choice' : this.measure)
    const chosenBy = takers(this.others, this.model.blocks)
    for (const button of [...this.tools.querySelectorAll('button'), ...this.buttons.values()]) button.disabled = linked !== ''
    for (const [name, button] of this.buttons) {
      const attends = this.model.blocks.some((block) => block.name === name && block.depth)
      const taken = attends && whole.has(name) ? 'true' : attends && part.has(name) ? 'mixed' : 'false'
      button.disabled ||= !attends
      button.setAttribute('aria-checked', taken)
      button.style.border = taken === 'false' ? EDGE : '2px solid #4aa3ff'
      const hot = heat.get(name)
      const plain = { background: taken === 'true' ? 'rgb(74 163 255 / 30%)' : 'transparent', color: 'inherit' }
      const stretches = lora?.blocks.get(name)
      const overRun = stretches && scale && drawn(stretches, scale)
      const looks = lora ? { ...plain, background: 'transparent', ...overRun?.block } : hot === undefined ? plain : painted(hot)
      Object.assign(button.style, { opacity: attends || stretches ? '1' : '0.7' }, looks)
      button.replaceChildren(element('span', { pointerEvents: 'none', ...overRun?.name }, MARKS[taken] + button.dataset.label))
      button.title = [button.dataset.about, lora?.told.get(name)].filter(Boolean).join('\n')
      const others = chosenBy.get(name) ?? []
      button.style.paddingBottom = others.length ? '3px' : '0'
      button.append(stripe(others))
    }
    this.status.replaceChildren(...this.said(linked))
  }

  /**
   * @param {string} linked
   * @returns {(string | HTMLElement)[]}
   */
  said(linked) {
    if (linked) return [say('The blocks come by a link from $1; choose them there.', linked)]
    if (this.empty) return [say('No block is chosen yet; $1 stays until one is.', `'${this.read()}'`)]
    const wrong = fault(this.read(), this.model.blocks.length ? this.model : null)
    return wrong ? faultLine(this.read(), wrong) : []
  }
}

/** @param {{ text: string, x: number, y: number }} title */
function title({ text, x, y }) {
  return element('div', { position: 'absolute', left: `${x}px`, top: `${y}px`, whiteSpace: 'pre' }, text)
}
