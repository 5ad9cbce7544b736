// Areas drawn over the last picture: a drag draws a box, moves an area or resizes it; or it paints, or erases.
import { takenAt, thinned } from './area_masks.js'
import { namesOf } from './area_names.js'
import { LEAST, added, changed, isBrush, lineOf, moved, read, resized } from './areas.js'
import { Overlay, circle, grid, inOrder, outline, rowOf } from './areas_picture.js'
import { BOX } from './box.js'
import { chip, press } from './chip.js'
import { element } from './element.js'
import { placeOn, watchSize } from './fitted.js'
import { wrongFrames } from './frames.js'
import { colourOf } from './palette.js'
import { say } from './say.js'

/**
 * @typedef {import('./areas.js').Area} Area
 * @typedef {import('./areas.js').Box} Box
 * @typedef {{ read: () => string, store: (text: string, goesOn?: boolean) => void, linked: () => string, size: () => [number, number] | null, picture: () => string | null, soft: () => number }} Host
 *   the text and where it comes from by a link; width and height of the picture to come; the last picture; how soft edges are
 */

const FIELD = { font: 'inherit', color: 'inherit', background: 'transparent', border: '1px solid var(--border-color, #555)', borderRadius: '4px', padding: '2px 6px' }
const SIDE = 512 // of the canvas
const CORNER = 10 // pixels of the canvas, around a corner
const STEP = 0.02 // for a key
const POINT = 0.005 // between points of a stroke
const BEND = 0.003 // how far a stroke may be from what is written of it
const MOVES = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] })

export class AreasView {
  /** @param {Host} host */
  constructor(host) {
    this.host = host
    this.state = { chosen: 0, tool: 'box', wide: 0.1, goesOn: false, picked: false } // the width of brush and eraser; whether a stroke belongs to the chosen area; whether that was chosen by its button
    /** @type {[number, number] | null} */
    this.at = null // where the mouse is
    this.shown = '' // of what the buttons were made
    this.typed = false // whether something was written since the prompt has the focus
    this.overlay = new Overlay()
    this.image = new Image()
    this.image.onload = () => this.draw()
    this.element = document.createElement('div')
    Object.assign(this.element.style, BOX)
    const line = { flex: 'none', whiteSpace: 'nowrap', overflowX: 'auto' } // so the picture stays while an area is drawn
    this.tools = element('div', line)
    this.names = element('div', { ...line, minHeight: '22px' })
    this.size = element('input', { width: '70px', verticalAlign: 'middle', marginRight: '6px' })
    Object.assign(this.size, { type: 'range', min: '1', max: '50', value: '10' })
    this.size.setAttribute('aria-label', say('Width of the brush'))
    this.canvas = document.createElement('canvas')
    this.canvas.tabIndex = 0
    this.canvas.setAttribute('role', 'application')
    this.canvas.setAttribute('aria-label', say('Areas of the picture'))
    this.canvas.setAttribute('aria-description', say('Arrow keys move the chosen area, with Shift they resize it; Delete takes it off.'))
    Object.assign(this.canvas.style, { flex: '1 1 0', minHeight: '0', maxWidth: '100%', objectFit: 'contain', cursor: 'crosshair', touchAction: 'none' })
    this.prompt = document.createElement('input')
    Object.assign(this.prompt.style, FIELD, { flex: '1 1 0', minWidth: '0' })
    this.prompt.setAttribute('aria-label', say('Prompt of the chosen area'))
    this.frames = document.createElement('input')
    Object.assign(this.frames.style, FIELD, { flex: '0 1 96px', minWidth: '0' })
    this.frames.setAttribute('aria-label', (this.frames.title = say('When in a video the chosen area holds: 0-50%, 0-12 or 25- of its frames, fade 8 behind them; empty: always')))
    const fields = element('div', { display: 'flex', gap: '4px', flex: 'none' })
    fields.append(this.prompt, this.frames)
    this.status = document.createElement('div')
    this.status.setAttribute('role', 'status')
    this.element.append(this.tools, this.names, this.canvas, fields, this.status)
    this.listen()
    this.refresh()
  }

  listen() {
    watchSize(this.canvas, () => this.draw())
    this.element.addEventListener('pointerdown', (event) => event.stopPropagation())
    this.canvas.addEventListener('pointerdown', (event) => event.button === 0 && this.begin(event))
    this.canvas.addEventListener('pointermove', (event) => this.state.tool !== 'box' && this.point(placeOn(this.canvas, event)))
    this.canvas.addEventListener('pointerleave', () => this.point(null))
    this.size.addEventListener('input', () => (this.state.wide = Number(this.size.value) / 100))
    for (const focused of /** @type {HTMLElement[]} */ ([this.canvas, this.names])) {
      focused.addEventListener('keydown', (event) => this.press(event))
      focused.addEventListener('keyup', (event) => event.key in MOVES && !this.host.linked() && this.host.store(this.host.read())) // a key held down is one step
    }
    this.prompt.addEventListener('focus', () => (this.typed = false))
    this.prompt.addEventListener('input', () => {
      this.typed = true
      this.rename(true)
    })
    this.prompt.addEventListener('change', () => this.rename(false))
    this.prompt.addEventListener('keydown', (event) => this.type(event))
    this.frames.addEventListener('input', () => this.time(true))
    this.frames.addEventListener('change', () => this.time(false))
    this.frames.addEventListener('keydown', (event) => event.stopPropagation())
  }

  /** @returns {Area[]} */
  areas() {
    return read(this.host.read()).areas
  }

  /**
   * @param {string} text
   * @param {boolean} goesOn
   */
  keep(text, goesOn = false) {
    this.host.store(text, goesOn)
    this.refresh()
  }

  /** @param {boolean} goesOn */
  rename(goesOn) {
    const area = this.areas()[this.state.chosen]
    if (area) this.keep(changed(this.host.read(), this.state.chosen, { ...area, prompt: this.prompt.value.replace(/[\r\n]/g, ' ') }), goesOn)
  }

  /**
   * Write when the chosen area holds; what nobody could read is told, and not written.
   * @param {boolean} goesOn
   */
  time(goesOn) {
    const area = this.areas()[this.state.chosen]
    const frames = this.frames.value.trim()
    const fault = frames && wrongFrames(frames)
    if (area && !fault) this.keep(changed(this.host.read(), this.state.chosen, { ...area, frames }), goesOn)
    this.frames.ariaInvalid = String(Boolean(fault))
    if (fault) this.status.textContent = `\u26a0 ${fault}`
  }

  /** Show the areas as the text says now. */
  refresh() {
    const { areas, fault } = read(this.host.read())
    const from = this.host.linked()
    this.state.chosen = Math.max(0, Math.min(this.state.chosen, areas.length - 1))
    const prompt = areas[this.state.chosen]?.prompt ?? ''
    if (document.activeElement !== this.prompt || this.prompt.value.trim() !== prompt) this.prompt.value = prompt
    const frames = areas[this.state.chosen]?.frames ?? ''
    if (document.activeElement !== this.frames || this.frames.value.trim() !== frames) this.frames.value = frames
    this.frames.ariaInvalid = String(false)
    this.prompt.disabled = this.frames.disabled = !areas.length || Boolean(from)
    this.frames.placeholder = areas.length ? say('frames') : ''
    this.prompt.placeholder = areas.length ? say('What is in this area') : ''
    if (!areas.length) [this.state.goesOn, this.state.tool] = [false, this.state.tool === 'erase' ? 'box' : this.state.tool]
    const how = from ? say('The areas come by a link from $1; change them there.', from) : this.how()
    this.status.textContent = fault ? `\u26a0 ${fault}` : how
    this.buttons(areas)
    this.draw()
  }

  how() {
    if (this.state.tool === 'erase') return say('Drag to take off from the chosen area.')
    if (this.state.tool === 'box') return say('Drag to draw, drag an area to move it, a corner to resize it; Delete takes it off.')
    return this.state.goesOn ? say('Drag to paint the chosen area; + begins another.') : say('Drag to paint a new area.')
  }

  /** @param {Area[]} areas */
  buttons(areas) {
    const names = namesOf(areas)
    const asked = JSON.stringify([names, this.state])
    if (asked !== this.shown) this.makeButtons(areas, names) // a click ends what is written, and must find its button still there
    this.shown = asked
    const chips = /** @type {HTMLElement[]} */ ([...this.names.children]).slice(this.names.children.length - areas.length)
    for (const [index, button] of chips.entries()) button.title = lineOf(areas[index])
  }

  /**
   * @param {Area[]} areas
   * @param {string[]} names
   */
  makeButtons(areas, names) {
    const chips = areas.map((_, index) => {
      const button = chip(names[index], () => this.choose(index, true), { borderColor: colourOf(index) })
      return press(button, index === this.state.chosen && (this.state.goesOn || this.state.tool !== 'brush'))
    })
    const [brush, erase] = [this.toolChip('brush', say('brush'), say('Paint areas in the place of boxes')), this.toolChip('erase', say('erase'), say('Take off from the chosen area'))]
    erase.disabled = !areas.length
    const begin = () => {
      this.state.goesOn = false
      this.refresh()
    }
    const more = press(chip('+', begin), !this.state.goesOn)
    more.setAttribute('aria-label', say('Paint a new area'))
    this.size.hidden = this.state.tool === 'box'
    this.size.value = String(Math.round(100 * this.state.wide))
    const all = () => /** @type {HTMLElement[]} */ ([...this.tools.children, ...this.names.children])
    const focus = all().indexOf(/** @type {HTMLElement} */ (document.activeElement))
    this.tools.replaceChildren(brush, erase, this.size)
    this.names.replaceChildren(...(this.state.tool === 'brush' ? [more] : []), ...chips)
    if (focus >= 0) all()[focus]?.focus()
  }

  /**
   * @param {'brush' | 'erase'} tool
   * @param {string} name
   * @param {string} title
   */
  toolChip(tool, name, title) {
    const flip = () => {
      Object.assign(this.state, { tool: this.state.tool === tool ? 'box' : tool, goesOn: false })
      this.refresh()
    }
    const button = press(chip(name, flip), this.state.tool === tool)
    button.title = title
    return button
  }

  /**
   * @param {number} index
   * @param {boolean} picked by its button: the mouse takes it also where others lie on it
   */
  choose(index, picked) {
    Object.assign(this.state, { chosen: index, goesOn: true, picked })
    this.refresh()
  }

  // The mouse

  /** @param {PointerEvent} event */
  begin(event) {
    this.canvas.focus()
    if (this.host.linked()) return
    const start = placeOn(this.canvas, event)
    const before = this.host.read()
    const act = this.state.tool === 'box' ? (this.taken(start) ?? this.boxed()) : this.stroke(start)
    const ended = new AbortController()
    const drag = (/** @type {PointerEvent} */ next) => {
      if (this.at) this.at = placeOn(this.canvas, next)
      act(before, start, placeOn(this.canvas, next))
    }
    if (this.state.tool !== 'box') act(before, start, start) // a click paints a dot
    const end = () => {
      ended.abort()
      this.state.goesOn = true
      if (this.host.read() !== before) this.host.store(this.host.read())
      this.refresh()
      if (this.areas().length > read(before).areas.length) this.prompt.focus({ preventScroll: true })
    }
    const options = { signal: ended.signal, capture: true } // Nodes 2.0 keeps moves over a node to itself
    window.addEventListener('pointermove', drag, options)
    for (const up of ['pointerup', 'pointercancel']) window.addEventListener(up, end, options)
  }

  /**
   * @param {[number, number]} place
   * @returns {((before: string, start: [number, number], now: [number, number]) => void) | null} what a drag from there does to an area; none is there
   */
  taken([x, y]) {
    const areas = this.areas()
    const chosen = areas[this.state.chosen]
    const corner = chosen && this.corner(chosen, x, y)
    if (corner) return (before, _, now) => this.keep(changed(before, this.state.chosen, resized(chosen, corner, now)), true)
    const first = this.state.picked ? this.state.chosen : -1
    const found = takenAt(areas, [this.canvas.width, this.canvas.height], [x, y], first)
    if (found === undefined) return null
    this.choose(found, found === first)
    const area = areas[found]
    return (before, [fromX, fromY], [toX, toY]) => this.keep(changed(before, found, moved(area, toX - fromX, toY - fromY)), true)
  }

  /** @returns {(before: string, start: [number, number], now: [number, number]) => void} what draws a new box */
  boxed() {
    return (before, [x, y], [toX, toY]) => {
      const box = { x: Math.min(x, toX), y: Math.min(y, toY), width: Math.abs(toX - x), height: Math.abs(toY - y) }
      if (box.width < LEAST || box.height < LEAST) return
      Object.assign(this.state, { chosen: read(before).areas.length, picked: false })
      this.keep(added(before, { shapes: [box], prompt: '' }), true)
    }
  }

  /**
   * @param {[number, number]} start
   * @returns {(before: string, start: [number, number], now: [number, number]) => void} what paints the chosen area or a new one, or erases
   */
  stroke(start) {
    const points = [start]
    const erases = this.state.tool === 'erase'
    const area = erases || this.state.goesOn ? this.areas()[this.state.chosen] : undefined
    return (before, _, now) => {
      const [x, y] = points[points.length - 1]
      if (Math.hypot(now[0] - x, now[1] - y) > POINT) points.push(now)
      const shape = { width: this.state.wide, points: thinned(points, BEND), erases }
      if (!area) this.state.chosen = read(before).areas.length
      this.keep(area ? changed(before, this.state.chosen, { ...area, shapes: [...area.shapes, shape] }) : added(before, { shapes: [shape], prompt: '' }), true)
    }
  }

  /** @param {[number, number] | null} place of the mouse */
  point(place) {
    if (!place && !this.at) return
    this.at = place
    this.draw()
  }

  /**
   * @param {Area} area
   * @param {number} x
   * @param {number} y
   * @returns {[number, number] | null} the corner of its one box near a place: 0 is left or top
   */
  corner({ shapes: [shape, ...more] }, x, y) {
    if (more.length || isBrush(shape)) return null
    const [width, height] = [this.canvas.width, this.canvas.height]
    const near = (/** @type {number} */ a, /** @type {number} */ b) => Math.hypot((shape.x + a * shape.width - x) * width, (shape.y + b * shape.height - y) * height) <= CORNER
    return /** @type {[number, number][]} */ ([[0, 0], [1, 0], [0, 1], [1, 1]]).find(([a, b]) => near(a, b)) ?? null
  }

  // Keys

  /** @param {KeyboardEvent} event */
  press(event) {
    const area = this.areas()[this.state.chosen]
    const move = MOVES[event.key]
    if (!area || this.host.linked()) return
    if (['Delete', 'Backspace'].includes(event.key)) {
      this.state.picked = false
      this.keep(changed(this.host.read(), this.state.chosen, null))
    } else if (move) {
      const [shape] = area.shapes
      const next = event.shiftKey && !isBrush(shape) ? resized(area, [1, 1], [shape.x + shape.width + move[0], shape.y + shape.height + move[1]]) : moved(area, ...move)
      this.keep(changed(this.host.read(), this.state.chosen, next), true)
    } else return
    event.preventDefault()
    event.stopPropagation()
  }

  /**
   * What is written stays with the prompt; the keys that take back, off or move a new area go to the picture until then.
   * @param {KeyboardEvent} event
   */
  type(event) {
    event.stopPropagation()
    const undoes = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'z'
    const changes = !this.prompt.value && (event.key in MOVES || ['Delete', 'Backspace'].includes(event.key))
    if (this.typed || !(undoes || changes)) return
    event.preventDefault()
    this.canvas.focus()
    this.canvas.dispatchEvent(new KeyboardEvent(event.type, event))
  }

  // The picture

  draw() {
    const source = this.host.picture() ?? ''
    if (source && this.image.src !== new URL(source, location.href).href) this.image.src = source
    const shown = Boolean(source) && this.image.complete && this.image.naturalWidth > 0
    const [wide, high] = this.host.size() ?? (shown ? [this.image.naturalWidth, this.image.naturalHeight] : [1, 1])
    const [width, height] = [wide, high].map((length) => Math.round((SIDE * length) / Math.max(wide, high)))
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height })
    const pen = this.canvas.getContext('2d')
    if (!pen) return
    pen.fillStyle = '#333'
    pen.fillRect(0, 0, width, height)
    if (shown) pen.drawImage(this.image, 0, 0, width, height)
    else grid(pen, width, height)
    const areas = this.areas()
    pen.drawImage(this.overlay.of(areas, [width, height], this.host.soft(), this.state.chosen), 0, 0, width, height)
    const names = namesOf(areas)
    for (const index of inOrder(areas, this.state.chosen)) outline(pen, areas[index], colourOf(index), index === this.state.chosen, names[index], rowOf(areas, index))
    if (this.at && this.state.tool !== 'box') circle(pen, this.at, 0.5 * this.state.wide * Math.max(width, height))
  }
}
