// Which word drew what: point at a word to see its map, at the picture to rank the words; a click there asks for a point.
import { AttentionChoice } from './attention_choice.js'
import { BOX } from './box.js'
import { chip } from './chip.js'
import { contour } from './contour.js'
import { placeOn } from './fitted.js'
import { bytes, colour, isPoint, labelsOf, layerOf, ranked, rescaled, span } from './heatmap.js'
import { Legend } from './legend.js'
import { copied, maskOf } from './mask.js'
import { say } from './say.js'

/**
 * @typedef {import('./points.js').Place} Place
 * @typedef {{ points: () => Place[], ask: (at: Place, near: (point: Place) => boolean) => string, opacity: () => number, threshold: () => number, add: (word: string, isCaptured: boolean, threshold: number) => string }} Host
 *   the points that are asked for; `ask` adds one or takes it back and says what it did; how the map lies on the picture, and the level of the line in it;
 *   `add` makes a node that gives the mask of a word and says what it did
 */

const LINES = { height: '6em', flex: 'none', overflow: 'auto' } // of text: the picture does not move while one is pointed at
const FOOT = { display: 'flex', gap: '4px', alignItems: 'center', flex: 'none', whiteSpace: 'nowrap' }
const STEP = 0.02 // of the picture, for a key
const SIDE = 512 // of the canvas
const RING = 8 // pixels of the canvas, of a marker
const HIT = RING // as far from its middle a click means it
const SHARE = 0.5 // of the highest value, of a mask where no threshold is set
const MORE = 12 // words that a place is ranked by

export class AttentionView {
  /**
   * @param {string} waiting what to say before there is a map
   * @param {Host} host
   */
  constructor(waiting, host) {
    this.host = host
    /** @type {import('./heatmap.js').Maps | null} */
    this.maps = null
    /** @type {Place} */
    this.place = [0.5, 0.5]
    /** @type {HTMLImageElement[]} */
    this.images = []
    this.element = document.createElement('div')
    Object.assign(this.element.style, BOX)
    this.choice = new AttentionChoice(() => this.draw())
    this.canvas = document.createElement('canvas')
    this.canvas.tabIndex = 0
    this.canvas.setAttribute('role', 'application')
    this.canvas.setAttribute('aria-roledescription', say('heatmap'))
    this.canvas.setAttribute('aria-description', say('Arrow keys move a place and rank the words there; Enter asks for a point or takes it back.'))
    this.canvas.width = this.canvas.height = 0
    Object.assign(this.canvas.style, { flex: '1 1 0', minHeight: '0', maxWidth: '100%', objectFit: 'contain', cursor: 'crosshair' })
    this.pointed = document.createElement('div') // no live region: it changes with the mouse
    this.legend = new Legend(say('Attention of a place, of all that it gives'))
    this.status = document.createElement('div')
    this.status.setAttribute('role', 'status')
    this.status.textContent = waiting
    this.lines = document.createElement('div')
    Object.assign(this.lines.style, LINES)
    this.lines.append(this.status, this.pointed)
    this.foot = document.createElement('div')
    Object.assign(this.foot.style, FOOT)
    this.legend.element.style.flex = '1 1 auto'
    this.foot.append(this.legend.element)
    this.element.append(this.choice.element, this.canvas, this.foot, this.lines)
    this.listen()
  }

  listen() {
    this.element.addEventListener('pointerdown', (event) => event.stopPropagation())
    this.canvas.addEventListener('pointermove', (event) => this.point(placeOn(this.canvas, event)))
    this.canvas.addEventListener('pointerleave', () => this.point(null))
    this.canvas.addEventListener('click', (event) => this.maps && this.ask(placeOn(this.canvas, event)))
    for (const name of ['focus', 'blur']) this.canvas.addEventListener(name, () => this.draw())
    this.canvas.addEventListener('keydown', (event) => this.press(event))
  }

  /** @param {import('./heatmap.js').Maps} maps */
  show(maps) {
    this.maps = maps
    this.images.length = maps.images.length
    maps.images.forEach((source, number) => this.load(source, number))
    const scale = SIDE / Math.max(maps.width, maps.height)
    this.canvas.width = Math.round(maps.width * scale)
    this.canvas.height = Math.round(maps.height * scale)
    this.choice.show(maps)
    if (this.foot.childElementCount < 2) this.foot.append(...this.actions())
    this.status.textContent = this.state(maps)
    this.draw()
  }

  /**
   * @param {import('./heatmap.js').Maps} maps
   * @returns {string} what the maps are of
   */
  state(maps) {
    return maps.step ? say('step $1', maps.step) : this.waiting(maps)
  }

  /**
   * @param {import('./heatmap.js').Maps} maps
   * @returns {string} what to do, and how many points have no map yet
   */
  waiting(maps) {
    const open = this.host.points().filter((point) => !this.known(maps, point)).length
    const asked = open ? ` ${say('Points asked for on the next run: $1.', open)}` : ''
    return say('Point at a word, or at the picture; a click there asks for a point.') + asked
  }

  /**
   * @param {import('./heatmap.js').Maps} maps
   * @param {Place} point
   * @returns {boolean} whether the run has answered for a point
   */
  known(maps, point) {
    return maps.labels.slice(maps.words).some((label) => this.apart(placeOf(label), point) < 1)
  }

  /**
   * Show a picture once it is there; the one of the step before stays until then.
   * @param {string} source
   * @param {number} number
   */
  load(source, number) {
    const image = new Image()
    image.onload = () => {
      this.images[number] = image
      this.draw()
    }
    image.src = source
  }

  actions() {
    const copy = action(say('copy mask'), say('Put the mask of this word on the clipboard as a PNG'), () => this.copy())
    const add = action(say('mask node'), say('Add a node that gives the mask of this word'), () => this.add())
    return [copy, add]
  }

  async copy() {
    if (!this.maps) {
      this.status.textContent = say('There is no mask to copy yet: run the workflow.')
      return
    }
    const { label, picture } = this.choice.now
    const { width, height } = this.canvas
    const failed = await copied(maskOf(this.maps, label, picture, this.part(), [width, height]))
    this.status.textContent = failed || say('The mask of $1 is on the clipboard, $2 x $3.', labelsOf(this.maps)[label], width, height)
  }

  add() {
    if (!this.maps) return
    const { label } = this.choice.now
    const isCaptured = label < this.maps.labels.length
    this.status.textContent = this.host.add(labelsOf(this.maps)[label], isCaptured, this.host.threshold() || SHARE)
  }

  /** @returns {[number, number]} what is dark blue and what is yellow */
  range() {
    const maps = /** @type {import('./heatmap.js').Maps} */ (this.maps)
    const { label, picture, common } = this.choice.now
    return span(maps, label, picture, common)
  }

  /** @param {Place} at */
  rankedAt([x, y]) {
    return this.maps ? ranked(this.maps, this.choice.now.picture, x, y) : []
  }

  /**
   * @param {Place} at
   * @returns {string} the words ranked by the attention of a place
   */
  told([x, y]) {
    if (!this.maps) return ''
    const found = this.rankedAt([x, y]).slice(0, MORE)
    const maps = this.maps
    const named = (/** @type {number} */ index, /** @type {string} */ label) => (isPoint(maps, index) ? say('point $1', label) : label)
    const values = found.map(({ index, label, value }) => `${named(index, label)} ${(100 * value).toPrecision(3)} %`)
    return say('at $1 $2: $3', x.toFixed(2), y.toFixed(2), values.join(', '))
  }

  /** @param {Place | null} at where the mouse is: the words there stand in the place of the status, and who would be taken back before them */
  point(at) {
    const taken = at && this.host.points().find((point) => this.apart(point, at) <= HIT)
    this.canvas.style.cursor = taken ? 'pointer' : 'crosshair'
    this.status.style.display = at && this.maps ? 'none' : ''
    this.pointed.textContent = at ? [taken ? say('A click takes $1 back.', taken.join(' ')) : '', this.told(at)].join(' ').trim() : ''
  }

  /** @param {Place} at */
  ask(at) {
    this.place = at
    this.point(null)
    this.status.textContent = this.host.ask(at, (point) => this.apart(point, at) <= HIT)
    this.draw()
  }

  /**
   * @param {Place} one
   * @param {Place} other
   * @returns {number} pixels of the canvas
   */
  apart(one, other) {
    return Math.hypot((one[0] - other[0]) * this.canvas.width, (one[1] - other[1]) * this.canvas.height)
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const moves = /** @type {Record<string, number[]>} */ ({ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] })
    const [x, y] = this.place
    if (event.key === 'Enter' && this.maps) this.ask(this.place)
    else if (event.key in moves) {
      const [right, down] = moves[event.key]
      this.place = [Math.min(1, Math.max(0, x + STEP * right)), Math.min(1, Math.max(0, y + STEP * down))]
      this.status.textContent = this.told(this.place)
      this.draw()
    } else return
    event.preventDefault()
    event.stopPropagation()
  }

  draw() {
    const pen = this.canvas.getContext('2d')
    if (!this.maps || !pen) return
    const { width, height } = this.canvas
    const { label, picture } = this.choice.now
    const image = this.images[picture]
    pen.clearRect(0, 0, width, height)
    if (image) pen.drawImage(image, 0, 0, width, height)
    pen.globalAlpha = image ? this.host.opacity() : 1
    pen.drawImage(this.painted(), 0, 0, width, height)
    pen.globalAlpha = 1
    this.outline(pen, this.maps)
    this.mark(pen, this.maps)
    this.legend.show(...this.range())
    const count = this.host.points().length
    this.canvas.setAttribute('aria-label', say('Attention to $1, points asked for: $2', labelsOf(this.maps)[label], count))
  }

  painted() {
    const maps = /** @type {import('./heatmap.js').Maps} */ (this.maps)
    const { label, picture } = this.choice.now
    const { height, width } = layerOf(maps, label).layer
    const small = document.createElement('canvas')
    Object.assign(small, { width, height })
    const pixels = new ImageData(width, height)
    rescaled(maps, label, picture, this.range()).forEach((value, i) => pixels.data.set([...colour(value), 255], 4 * i))
    small.getContext('2d')?.putImageData(pixels, 0, 0)
    return small
  }

  /** @returns {number} the byte of the map from which on a place lies in the mask; 0 without a line */
  level() {
    return 255 * this.host.threshold()
  }

  /** @returns {number} the part of the map's highest value that lies in a mask that is copied */
  part() {
    return this.host.threshold() || SHARE
  }

  /**
   * The line around what is at the threshold or above it: the mask.
   * @param {CanvasRenderingContext2D} pen
   * @param {import('./heatmap.js').Maps} maps
   */
  outline(pen, maps) {
    const level = this.level()
    if (!level) return
    const { width, height } = this.canvas
    const path = new Path2D()
    const { layer, index } = layerOf(maps, this.choice.now.label)
    for (const [x, y, x2, y2] of contour(bytes(layer, index, this.choice.now.picture), layer.width, layer.height, level)) {
      path.moveTo(x * width, y * height)
      path.lineTo(x2 * width, y2 * height)
    }
    for (const [strokeStyle, lineWidth] of [['#000', 4], ['#fff', 1.5]]) {
      Object.assign(pen, { strokeStyle, lineWidth })
      pen.stroke(path)
    }
  }

  /**
   * The points that are asked for, dashed where the next run will answer; the one whose map is shown; the place of the keys.
   * @param {CanvasRenderingContext2D} pen
   * @param {import('./heatmap.js').Maps} maps
   */
  mark(pen, maps) {
    for (const point of this.host.points()) this.ring(pen, point, RING, this.known(maps, point) ? [] : [4, 3])
    const { label } = this.choice.now
    if (isPoint(maps, label)) this.ring(pen, placeOf(maps.labels[label]), RING / 2)
    if (document.activeElement === this.canvas) this.ring(pen, this.place, 1.5 * RING, [2, 2])
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {Place} at
   * @param {number} radius
   * @param {number[]} dashes
   */
  ring(pen, [x, y], radius, dashes = []) {
    pen.setLineDash(dashes)
    for (const [strokeStyle, lineWidth] of [['#000', 5], ['#fff', 2]]) {
      Object.assign(pen, { strokeStyle, lineWidth })
      pen.beginPath()
      pen.arc(x * this.canvas.width, y * this.canvas.height, radius, 0, 2 * Math.PI)
      pen.stroke()
    }
    pen.setLineDash([])
  }
}

/**
 * @param {string} name
 * @param {string} title
 * @param {() => void} act
 */
function action(name, title, act) {
  return Object.assign(chip(name, act, { flex: 'none' }), { title })
}

/**
 * @param {string} label of a point
 * @returns {Place}
 */
function placeOf(label) {
  return /** @type {Place} */ (label.split(' ').map(Number))
}
