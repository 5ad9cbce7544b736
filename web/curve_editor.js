// A curve of strength drawn with the mouse or the keyboard; its text is all that is stored.
import { NAMES, added, moved, points, strength, write } from './curve.js'

const SVG = 'http://www.w3.org/2000/svg'
const [WIDTH, HEIGHT, EDGE] = [300, 130, 14]
const KEY = 0.02
const MOVES = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [-KEY, 0], ArrowRight: [KEY, 0], ArrowUp: [0, KEY], ArrowDown: [0, -KEY] })

export class CurveEditor {
  /**
   * @param {() => string} text gives the curve
   * @param {(text: string, goesOn?: boolean) => void} store keeps a new one, perhaps of a drag that goes on
   */
  constructor(text, store) {
    this.text = text
    this.store = store
    this.element = document.createElement('div')
    this.names = document.createElement('div')
    this.names.append(...NAMES.map((name) => this.button(name)))
    this.plot = /** @type {SVGSVGElement} */ (make('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: String(WIDTH), height: String(HEIGHT) }))
    this.plot.style.touchAction = 'none'
    this.plot.addEventListener('pointerdown', (event) => this.begin(event))
    this.status = document.createElement('div')
    this.status.setAttribute('role', 'status')
    this.status.style.maxWidth = `${WIDTH}px`
    this.element.append(this.names, this.plot, this.status)
    this.refresh()
  }

  /** @param {string} name */
  button(name) {
    const button = document.createElement('button')
    button.type = 'button'
    button.textContent = name
    button.style.marginRight = '6px'
    button.addEventListener('click', () => this.keep(name))
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
    const frame = { x: EDGE, y: EDGE, width: WIDTH - 2 * EDGE, height: HEIGHT - 2 * EDGE, fill: 'none', stroke: 'currentColor', 'stroke-opacity': 0.3 }
    const parts = [make('rect', frame)]
    let note = 'Click adds a point, drag moves it; arrow keys move, Delete removes.'
    try {
      const curve = strength(this.text())
      const path = [...Array(101).keys()].map((i) => place([i / 100, curve(i / 100)]).join(' ')).join(' L ')
      parts.push(make('path', { d: `M ${path}`, fill: 'none', stroke: '#4aa3ff', 'stroke-width': 2 }))
      parts.push(...this.points().map((point, index) => this.handle(point, index)))
    } catch (error) {
      note = `\u26a0 ${/** @type {Error} */ (error).message}`
    }
    const focus = [...this.plot.querySelectorAll('circle')].indexOf(/** @type {SVGCircleElement} */ (document.activeElement))
    this.plot.replaceChildren(...parts)
    this.plot.querySelectorAll('circle')[focus]?.focus()
    this.status.textContent = note
  }

  /**
   * @param {import('./curve.js').Point} point
   * @param {number} index
   */
  handle(point, index) {
    const [cx, cy] = place(point)
    const circle = make('circle', { cx, cy, r: 6, fill: '#4aa3ff', stroke: 'currentColor', tabindex: 0, role: 'slider', 'data-point': index })
    const said = { valuenow: point[1], valuemin: 0, valuemax: 1, label: `Strength at ${Math.round(100 * point[0])} %` }
    for (const [name, value] of Object.entries(said)) circle.setAttribute(`aria-${name}`, String(value))
    circle.style.cursor = 'move'
    circle.addEventListener('keydown', (event) => this.press(/** @type {KeyboardEvent} */ (event), index))
    circle.addEventListener('keyup', (event) => /** @type {KeyboardEvent} */ (event).key in MOVES && this.store(this.text())) // a key held down is one step
    return circle
  }

  /** @param {PointerEvent} event */
  begin(event) {
    const given = event.target instanceof SVGElement ? event.target.dataset.point : undefined
    const start = this.where(event)
    const all = given === undefined ? added(this.points(), start) : this.points()
    const index = given === undefined ? all.findIndex(([x]) => Math.abs(x - start[0]) < 0.01) : Number(given)
    const drag = (/** @type {PointerEvent} */ next) => this.keep(write(moved(this.points(), index, this.where(next))), true)
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
   * @param {PointerEvent} event
   * @returns {import('./curve.js').Point}
   */
  where(event) {
    const box = this.plot.getBoundingClientRect()
    const x = (((event.clientX - box.left) / box.width) * WIDTH - EDGE) / (WIDTH - 2 * EDGE)
    const y = 1 - (((event.clientY - box.top) / box.height) * HEIGHT - EDGE) / (HEIGHT - 2 * EDGE)
    return [Math.max(0, Math.min(1, x)), Math.max(0, Math.min(1, y))]
  }
}

/** @param {import('./curve.js').Point} point */
function place([x, y]) {
  return [EDGE + x * (WIDTH - 2 * EDGE), EDGE + (1 - y) * (HEIGHT - 2 * EDGE)]
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
