// Areas drawn over the last picture: drag on empty space draws a box or a stroke, drag in one moves it, a corner resizes it.
import { LEAST, added, changed, holds, isBrush, moved, read, resized } from './areas.js'
import { BOX } from './box.js'
import { chip, press } from './chip.js'
import { finer, placeOn } from './fitted.js'
import { colourOf } from './palette.js'
import { say } from './say.js'

/**
 * @typedef {import('./areas.js').Area} Area
 * @typedef {import('./areas.js').Box} Box
 * @typedef {{ read: () => string, store: (text: string, goesOn?: boolean) => void, linked: () => string, size: () => [number, number] | null, picture: () => string | null }} Host
 *   the text and where it comes from by a link; width and height of the picture to come; the last picture
 */

const SIDE = 512 // of the canvas
const MARK = 12 // pixels of the node, of the names on the picture
const CORNER = 10 // pixels of the canvas, around a corner
const STEP = 0.02 // for a key
const WIDE = 0.1 // of a brush
const MOVES = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] })

export class AreasView {
  /** @param {Host} host */
  constructor(host) {
    this.host = host
    this.chosen = 0
    this.brush = false
    this.image = new Image()
    this.image.onload = () => this.draw()
    this.element = document.createElement('div')
    Object.assign(this.element.style, BOX)
    this.tools = document.createElement('div')
    Object.assign(this.tools.style, { flex: 'none', whiteSpace: 'nowrap', overflowX: 'auto' }) // one line: the picture stays while an area is drawn
    this.canvas = document.createElement('canvas')
    this.canvas.tabIndex = 0
    this.canvas.setAttribute('role', 'application')
    this.canvas.setAttribute('aria-label', say('Areas of the picture'))
    this.canvas.setAttribute('aria-description', say('Arrow keys move the chosen area, with Shift they resize it; Delete takes it off.'))
    Object.assign(this.canvas.style, { flex: '1 1 0', minHeight: '0', maxWidth: '100%', objectFit: 'contain', cursor: 'crosshair', touchAction: 'none' })
    this.prompt = document.createElement('input')
    Object.assign(this.prompt.style, { font: 'inherit', color: 'inherit', background: 'transparent', border: '1px solid var(--border-color, #555)', borderRadius: '4px', padding: '2px 6px' })
    this.prompt.setAttribute('aria-label', say('Prompt of the chosen area'))
    this.status = document.createElement('div')
    this.status.setAttribute('role', 'status')
    this.element.append(this.tools, this.canvas, this.prompt, this.status)
    this.listen()
    this.refresh()
  }

  listen() {
    this.element.addEventListener('pointerdown', (event) => event.stopPropagation())
    this.canvas.addEventListener('pointerdown', (event) => event.button === 0 && this.begin(event))
    this.canvas.addEventListener('keydown', (event) => this.press(event))
    this.canvas.addEventListener('keyup', (event) => event.key in MOVES && !this.host.linked() && this.host.store(this.host.read())) // a key held down is one step
    this.prompt.addEventListener('input', () => this.rename(true))
    this.prompt.addEventListener('change', () => this.rename(false))
    this.prompt.addEventListener('keydown', (event) => event.stopPropagation())
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
    const area = this.areas()[this.chosen]
    if (area) this.keep(changed(this.host.read(), this.chosen, { ...area, prompt: this.prompt.value.replace(/[\r\n]/g, ' ') }), goesOn)
  }

  /** Show the areas as the text says now. */
  refresh() {
    const { areas, fault } = read(this.host.read())
    const from = this.host.linked()
    this.chosen = Math.max(0, Math.min(this.chosen, areas.length - 1))
    const prompt = areas[this.chosen]?.prompt ?? ''
    if (document.activeElement !== this.prompt || this.prompt.value.trim() !== prompt) this.prompt.value = prompt
    this.prompt.disabled = !areas.length || Boolean(from)
    this.prompt.placeholder = areas.length ? say('What is in this area') : ''
    const how = from ? say('The areas come by a link from $1; change them there.', from) : say('Drag to draw, drag an area to move it, a corner to resize it; Delete takes it off.')
    this.status.textContent = fault ? `\u26a0 ${fault}` : how
    this.buttons(areas)
    this.draw()
  }

  /** @param {Area[]} areas */
  buttons(areas) {
    const chips = areas.map((area, index) => {
      const button = chip(named(area.prompt) || `area ${index + 1}`, () => this.choose(index), { borderColor: colourOf(index) })
      return press(button, index === this.chosen)
    })
    const flip = () => {
      this.brush = !this.brush
      this.refresh()
    }
    const brush = press(chip(say('brush'), flip), this.brush)
    brush.title = say('Draw strokes in the place of boxes')
    const focus = [...this.tools.children].indexOf(/** @type {Element} */ (document.activeElement))
    this.tools.replaceChildren(brush, ...chips)
    if (focus >= 0) /** @type {HTMLElement | undefined} */ (this.tools.children[focus])?.focus()
  }

  /** @param {number} index */
  choose(index) {
    this.chosen = index
    this.refresh()
  }

  // The mouse

  /** @param {PointerEvent} event */
  begin(event) {
    this.canvas.focus()
    if (this.host.linked()) return
    const start = placeOn(this.canvas, event)
    const before = this.host.read()
    const act = this.taken(start) ?? this.drawn(start)
    const ended = new AbortController()
    const drag = (/** @type {PointerEvent} */ next) => act(before, start, placeOn(this.canvas, next))
    const end = () => {
      ended.abort()
      if (this.host.read() !== before) this.host.store(this.host.read())
      this.refresh()
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
    const chosen = areas[this.chosen]
    const corner = chosen && this.corner(chosen, x, y)
    if (corner) return (before, _, now) => this.keep(changed(before, this.chosen, resized(chosen, corner, now)), true)
    const order = [this.chosen, ...areas.keys()].filter((index) => areas[index]).reverse()
    const found = order.find((index) => areas[index].shapes.some((shape) => holds(shape, x, y)))
    if (found === undefined || this.brush) return null
    this.choose(found)
    const area = areas[found]
    return (before, [fromX, fromY], [toX, toY]) => this.keep(changed(before, found, moved(area, toX - fromX, toY - fromY)), true)
  }

  /**
   * @param {[number, number]} start
   * @returns {(before: string, start: [number, number], now: [number, number]) => void} what draws a new area
   */
  drawn(start) {
    const points = [start]
    return (before, [x, y], [toX, toY]) => {
      const box = { x: Math.min(x, toX), y: Math.min(y, toY), width: Math.abs(toX - x), height: Math.abs(toY - y) }
      const last = points[points.length - 1]
      if (Math.hypot(toX - last[0], toY - last[1]) > LEAST) points.push([toX, toY])
      if (!this.brush && (box.width < LEAST || box.height < LEAST)) return
      const count = read(before).areas.length
      this.chosen = count
      this.keep(added(before, { shapes: [this.brush ? { width: WIDE, points: [...points] } : box], prompt: '' }), true)
    }
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
    const area = this.areas()[this.chosen]
    const move = MOVES[event.key]
    if (!area || this.host.linked()) return
    if (['Delete', 'Backspace'].includes(event.key)) this.keep(changed(this.host.read(), this.chosen, null))
    else if (move) {
      const [shape] = area.shapes
      const next = event.shiftKey && !isBrush(shape) ? resized(area, [1, 1], [shape.x + shape.width + move[0], shape.y + shape.height + move[1]]) : moved(area, ...move)
      this.keep(changed(this.host.read(), this.chosen, next), true)
    } else return
    event.preventDefault()
    event.stopPropagation()
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
    this.areas().forEach((area, index) => this.paint(pen, area, colourOf(index), index === this.chosen))
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {Area} area
   * @param {string} colour
   * @param {boolean} chosen
   */
  paint(pen, { shapes, prompt }, colour, chosen) {
    const { width, height } = this.canvas
    Object.assign(pen, { fillStyle: colour, strokeStyle: colour, lineJoin: 'round', lineCap: 'round' })
    for (const shape of shapes) {
      pen.globalAlpha = chosen ? 0.45 : 0.3
      if (isBrush(shape)) {
        pen.lineWidth = shape.width * Math.max(width, height)
        pen.beginPath()
        for (const [x, y] of [shape.points[0], ...shape.points]) pen.lineTo(x * width, y * height)
        pen.stroke()
        pen.globalAlpha = 1
      } else {
        const place = /** @type {const} */ ([shape.x * width, shape.y * height, shape.width * width, shape.height * height])
        pen.fillRect(...place)
        pen.globalAlpha = 1
        for (const [strokeStyle, lineWidth] of /** @type {[string, number][]} */ ([['#000', chosen ? 7 : 4], [colour, chosen ? 4 : 2]])) {
          Object.assign(pen, { strokeStyle, lineWidth }) // on pale and on dark pictures
          pen.strokeRect(...place)
        }
        if (chosen && shapes.length === 1) for (const [a, b] of [[0, 0], [1, 0], [0, 1], [1, 1]]) pen.fillRect(place[0] + a * place[2] - 5, place[1] + b * place[3] - 5, 10, 10)
      }
    }
    const [first] = shapes
    const [x, y] = isBrush(first) ? first.points[0] : [first.x, first.y]
    const size = MARK * finer(this.canvas)
    Object.assign(pen, { font: `${size}px sans-serif`, fillStyle: '#fff', strokeStyle: '#000', lineWidth: size / 4, textAlign: 'left' })
    const label = [Math.max(0, x) * width + size / 2, Math.max(0, y) * height + 1.3 * size]
    pen.strokeText(named(prompt), label[0], label[1])
    pen.fillText(named(prompt), label[0], label[1])
  }
}

/** @param {string} prompt @returns {string} its first words */
const named = (prompt) => prompt.split(/\s+/).slice(0, 3).join(' ')

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {number} width
 * @param {number} height
 */
function grid(pen, width, height) {
  Object.assign(pen, { strokeStyle: '#555', lineWidth: 1 })
  pen.beginPath()
  for (let i = 1; i < 8; i++) {
    pen.moveTo((i * width) / 8, 0)
    pen.lineTo((i * width) / 8, height)
    pen.moveTo(0, (i * height) / 8)
    pen.lineTo(width, (i * height) / 8)
  }
  pen.stroke()
}
