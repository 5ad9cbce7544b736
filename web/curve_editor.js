// A curve of strength drawn with the mouse or the keyboard; its text is all that is stored.
import { NAMES, SHAPED, added, moved, points, snapped, strength, write } from './curve.js'
import { say } from './say.js'

const LINE = 'color-mix(in srgb, #4aa3ff 60%, currentColor)' // to be seen on dark and on light
const SVG = 'http://www.w3.org/2000/svg'
const [WIDTH, HEIGHT] = [320, 160]
const [LEFT, RIGHT, TOP, BOTTOM] = [34, 14, 14, 24] // of the frame
const TICKS = [0, 0.25, 0.5, 0.75, 1]
const SOON = 600 // milliseconds between the clicks of a double click
const KEY = 0.02
const MOVES = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [-KEY, 0], ArrowRight: [KEY, 0], ArrowUp: [0, KEY], ArrowDown: [0, -KEY] })

export class CurveEditor {
  /**
   * @param {() => string} text gives the curve
   * @param {(text: string, goesOn?: boolean) => void} store keeps a new one, perhaps of a drag that goes on
   * @param {() => [number, number]} window gives where in the run the node starts and ends
   */
  constructor(text, store, window = () => [0, 1]) {
    this.text = text
    this.store = store
    this.window = window
    this.born = 0 // when the last point was added
    this.element = document.createElement('div')
    this.names = document.createElement('div')
    this.names.append(...NAMES.map((name) => this.button(name, name)), ...Object.entries(SHAPED).map(([name, text]) => this.button(say(name), text)))
    this.plot = /** @type {SVGSVGElement} */ (make('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: String(WIDTH), height: String(HEIGHT) }))
    this.plot.style.touchAction = 'none'
    this.plot.addEventListener('pointerdown', (event) => event.button === 0 && this.begin(event))
    this.plot.addEventListener('dblclick', (event) => this.remove(event))
    this.plot.addEventListener('pointermove', (event) => (this.readout.textContent = this.told(this.where(event))))
    this.plot.addEventListener('pointerleave', () => (this.readout.textContent = '\u00a0'))
    this.readout = document.createElement('div') // no live region: it changes with the mouse
    this.readout.textContent = '\u00a0'
    this.status = document.createElement('div')
    this.status.setAttribute('role', 'status')
    this.status.style.maxWidth = `${WIDTH}px`
    this.element.append(this.names, this.plot, this.readout, this.status)
    this.refresh()
  }

  /**
   * @param {string} name
   * @param {string} text
   */
  button(name, text) {
    const button = document.createElement('button')
    button.type = 'button'
    button.textContent = name
    button.style.marginRight = '6px'
    button.addEventListener('click', () => this.keep(text))
    return button
  }

  /**
   * @param {string} text
   * @param {boolean} goesOn
   */
  keep(text, goesOn = false) {
    this.store(text, goesOn)
    this.refresh()
  }

  /** @returns {import('./curve.js').Point[]} */
  points() {
    try {
      return points(this.text())
    } catch {
      return [[0, 1], [1, 1]]
    }
  }

  /** Show the curve as its text says now. */
  refresh() {
    const parts = this.axes()
    let note = say('Click adds a point, a double click takes it off; drag moves it, with Alt between the marks. Keys: arrows, Delete.')
    try {
      const curve = strength(this.text())
      const path = [...Array(101).keys()].map((i) => place([i / 100, curve(i / 100)]).join(' ')).join(' L ')
      parts.push(make('path', { d: `M ${path}`, fill: 'none', stroke: LINE, 'stroke-width': 2 }))
      parts.push(...this.points().map((point, index) => this.handle(point, index)))
    } catch (error) {
      note = `\u26a0 ${/** @type {Error} */ (error).message}`
    }
    const focus = [...this.plot.querySelectorAll('circle')].indexOf(/** @type {SVGCircleElement} */ (document.activeElement))
    this.plot.replaceChildren(...parts)
    this.plot.querySelectorAll('circle')[focus]?.focus()
    this.status.textContent = note
  }

  /** Percent of the run below, strength on the left. */
  axes() {
    const [[left, top], [right, bottom]] = [place([0, 1]), place([1, 0])]
    const frame = { x: left, y: top, width: right - left, height: bottom - top, fill: 'none', stroke: 'currentColor', 'stroke-opacity': 0.3 }
    const parts = [make('rect', frame)]
    for (const tick of TICKS) {
      const [x, y] = place([tick, tick])
      for (const [x2, y2] of [[x, bottom], [left, y]]) parts.push(make('path', { d: `M ${x2 === x ? `${x} ${top}` : `${right} ${y}`} L ${x2} ${y2}`, stroke: 'currentColor', 'stroke-opacity': 0.12 }))
      parts.push(label(this.percent(tick), x, bottom + 14, 'middle'))
      if (tick * 2 === Math.round(tick * 2)) parts.push(label(String(tick), left - 6, y + 4, 'end'))
    }
    return parts
  }

  /** @param {number} position in the window @returns {string} where in the run that is */
  percent(position) {
    const [start, end] = this.window()
    return `${Math.round(100 * (start + position * (end - start)))} %`
  }

  /** @param {import('./curve.js').Point} place */
  told([x]) {
    try {
      return say('at $1 of the run: strength $2', this.percent(x), strength(this.text())(x).toFixed(2))
    } catch {
      return '\u00a0'
    }
  }

  /** @param {MouseEvent} event */
  remove(event) {
    const given = event.target instanceof SVGElement ? event.target.dataset.point : undefined
    const all = this.points()
    if (given !== undefined && all.length > 1 && performance.now() - this.born > SOON) this.keep(write(all.filter((_, i) => i !== Number(given))))
  }

  /**
   * @param {import('./curve.js').Point} point
   * @param {number} index
   */
  handle(point, index) {
    const [cx, cy] = place(point)
    const circle = make('circle', { cx, cy, r: 6, fill: LINE, stroke: 'currentColor', tabindex: 0, role: 'slider', 'data-point': index })
    const said = { valuenow: point[1], valuemin: 0, valuemax: 1, label: say('Strength at $1 %', Math.round(100 * point[0])) }
    for (const [name, value] of Object.entries(said)) circle.setAttribute(`aria-${name}`, String(value))
    circle.style.cursor = 'move'
    circle.addEventListener('keydown', (event) => this.press(/** @type {KeyboardEvent} */ (event), index))
    circle.addEventListener('keyup', (event) => /** @type {KeyboardEvent} */ (event).key in MOVES && this.store(this.text())) // a key held down is one step
    return circle
  }

  /** @param {PointerEvent} event of the left button */
  begin(event) {
    const given = event.target instanceof SVGElement ? event.target.dataset.point : undefined
    const start = snapped(this.where(event), event.altKey)
    if (given === undefined) this.born = performance.now()
    const all = given === undefined ? added(this.points(), start) : this.points()
    const index = given === undefined ? all.findIndex(([x]) => Math.abs(x - start[0]) < 0.01) : Number(given)
    const drag = (/** @type {PointerEvent} */ next) => this.keep(write(moved(this.points(), index, snapped(this.where(next), next.altKey))), true)
    if (given === undefined) this.keep(write(all), true)
    const ended = new AbortController()
    const end = () => {
      ended.abort()
      this.store(this.text())
    }
    window.addEventListener('pointermove', drag, { signal: ended.signal })
    for (const up of ['pointerup', 'pointercancel']) window.addEventListener(up, end, { signal: ended.signal })
  }

  /**
   * @param {KeyboardEvent} event
   * @param {number} index
   */
  press(event, index) {
    const all = this.points()
    const move = MOVES[event.key]
    if (move) this.keep(write(moved(all, index, [all[index][0] + move[0], all[index][1] + move[1]])), true)
    else if (['Delete', 'Backspace'].includes(event.key) && all.length > 1) this.keep(write(all.filter((_, i) => i !== index)))
    else return
    event.preventDefault()
    event.stopPropagation() // the page deletes nodes by this key
  }

  /**
   * @param {MouseEvent} event
   * @returns {import('./curve.js').Point}
   */
  where(event) {
    const box = this.plot.getBoundingClientRect()
    const x = (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT)
    const y = 1 - (((event.clientY - box.top) / box.height) * HEIGHT - TOP) / (HEIGHT - TOP - BOTTOM)
    return [Math.max(0, Math.min(1, x)), Math.max(0, Math.min(1, y))]
  }
}

/** @param {import('./curve.js').Point} point */
function place([x, y]) {
  return [LEFT + x * (WIDTH - LEFT - RIGHT), TOP + (1 - y) * (HEIGHT - TOP - BOTTOM)]
}

/**
 * @param {string} text
 * @param {number} x
 * @param {number} y
 * @param {string} anchor
 */
function label(text, x, y, anchor) {
  const element = make('text', { x, y, 'text-anchor': anchor, 'font-size': 10, fill: 'currentColor', 'fill-opacity': 0.8, 'pointer-events': 'none' })
  element.textContent = text
  return element
}

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 */
function make(name, attributes) {
  const element = /** @type {SVGElement} */ (document.createElementNS(SVG, name))
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value))
  return element
}
