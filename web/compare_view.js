// The picture with the patches under a slider over the one without them, or where the two differ.
import { BOX } from './box.js'
import { chip, press } from './chip.js'
import { finer, placeOn, watchSize } from './fitted.js'
import { pictureChoice } from './picture_choice.js'
import { say } from './say.js'

/**
 * @typedef {{ name: string, pictures: string[], differences: string[], mean: number[] }} Other
 * @typedef {{ pictures: string[], highest: number, others: Other[] }} Comparison
 */

const STEP = 0.05 // of the width, for a key
const SIDE = 512 // pixels of the canvas at least
const MARK = 12 // pixels of the node, of the names on the picture

export class CompareView {
  /** @param {string} waiting what to say before there is a picture */
  constructor(waiting) {
    /** @type {Comparison | null} */
    this.found = null
    this.other = 0
    this.picture = 0
    this.split = 0.5
    this.differs = false
    /** @type {Map<string, HTMLImageElement>} */
    this.images = new Map()
    /** @type {Map<HTMLButtonElement, () => boolean>} */
    this.states = new Map() // of the buttons: whether each is on
    this.element = document.createElement('div')
    Object.assign(this.element.style, BOX)
    this.chips = document.createElement('div')
    this.canvas = document.createElement('canvas')
    this.canvas.tabIndex = 0
    this.canvas.setAttribute('role', 'slider')
    this.canvas.setAttribute('aria-label', say('Where the picture with the patches begins'))
    this.canvas.setAttribute('aria-valuemin', '0')
    this.canvas.setAttribute('aria-valuemax', '100')
    this.canvas.width = this.canvas.height = 0
    Object.assign(this.canvas.style, { flex: '1 1 0', minHeight: '0', maxWidth: '100%', objectFit: 'contain', cursor: 'ew-resize' })
    this.status = document.createElement('div')
    this.status.setAttribute('role', 'status')
    this.status.textContent = waiting
    this.element.append(this.chips, this.canvas, this.status)
    this.listen()
  }

  listen() {
    watchSize(this.canvas, () => this.draw())
    this.element.addEventListener('pointerdown', (event) => event.stopPropagation())
    this.chips.addEventListener('click', () => this.draw())
    this.canvas.addEventListener('pointermove', (event) => this.slide(placeOn(this.canvas, event)[0]))
    this.canvas.addEventListener('keydown', (event) => {
      const step = { ArrowLeft: -STEP, ArrowRight: STEP }[event.key]
      if (!step) return
      this.slide(this.split + step)
      event.preventDefault()
      event.stopPropagation()
    })
  }

  /** @param {Comparison} found */
  show(found) {
    this.found = found
    this.other = Math.min(this.other, found.others.length - 1)
    this.picture = Math.min(this.picture, found.pictures.length - 1)
    this.images.clear()
    for (const source of [found.pictures, ...found.others.flatMap((one) => [one.pictures, one.differences])].flat()) {
      const image = new Image()
      image.onload = () => this.draw()
      image.src = source
      this.images.set(source, image)
    }
    this.buttons(found)
    this.draw()
  }

  /**
   * One for each strength, one for where they differ, and a choice of the picture where there are several.
   * @param {Comparison} found
   */
  buttons(found) {
    this.states.clear()
    const others = found.others.map(({ name }, index) => this.chip(say(name), () => (this.other = index), () => this.other === index))
    const differs = this.chip(say('difference'), () => (this.differs = !this.differs), () => this.differs)
    const pictures = pictureChoice(found.pictures.length, this.picture, (picture) => {
      this.picture = picture
      this.draw()
    })
    this.chips.replaceChildren(...(others.length > 1 ? others : []), differs, ...pictures)
  }

  /**
   * @param {string} name
   * @param {() => void} act
   * @param {() => boolean} isOn
   */
  chip(name, act, isOn) {
    const button = chip(name, act)
    this.states.set(button, isOn)
    return button
  }

  /** @param {number} split */
  slide(split) {
    this.split = Math.min(1, Math.max(0, split))
    this.draw()
  }

  draw() {
    const pen = this.canvas.getContext('2d')
    if (!this.found || !pen) return
    const other = this.found.others[this.other]
    const [left, right] = [other.pictures, this.found.pictures].map((some) => this.images.get(some[this.picture]))
    const map = this.images.get(other.differences[this.picture])
    if (![left, right, map].every((image) => image?.complete && image.naturalWidth) || !left || !right || !map) return
    const scale = Math.max(1, SIDE / Math.max(right.naturalWidth, right.naturalHeight))
    const [width, height] = [right.naturalWidth, right.naturalHeight].map((length) => Math.round(scale * length))
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height })
    pen.drawImage(this.differs ? map : right, 0, 0, width, height)
    if (!this.differs) this.over(pen, left, say(other.name))
    this.tell(other)
  }

  /**
   * The other picture, left of the line.
   * @param {CanvasRenderingContext2D} pen
   * @param {HTMLImageElement} image
   * @param {string} name
   */
  over(pen, image, name) {
    const { width, height } = this.canvas
    const at = Math.round(this.split * width)
    if (at) pen.drawImage(image, 0, 0, (at / width) * image.naturalWidth, image.naturalHeight, 0, 0, at, height)
    for (const [style, thick] of /** @type {[string, number][]} */ ([['#000', 5], ['#fff', 2]])) {
      pen.fillStyle = style
      pen.fillRect(at - thick / 2, 0, thick, height)
    }
    const size = MARK * finer(this.canvas)
    Object.assign(pen, { font: `${size}px sans-serif`, lineJoin: 'round' })
    for (const [text, x, align] of /** @type {[string, number, CanvasTextAlign][]} */ ([[name, 6, 'left'], [say('with'), width - 6, 'right']])) {
      Object.assign(pen, { textAlign: align, lineWidth: size / 4, strokeStyle: '#000', fillStyle: '#fff' })
      pen.strokeText(text, x, 1.2 * size)
      pen.fillText(text, x, 1.2 * size)
    }
  }

  /** @param {Other} other */
  tell(other) {
    const highest = 100 * (this.found?.highest ?? 0)
    const far = say('$1: $2 apart on average', say(other.name), percent(100 * other.mean[this.picture]))
    this.status.textContent = this.differs ? `${far}; ${say('dark blue is equal, yellow $1', percent(highest))}` : `${far}. ${say('Move over the picture.')}`
    this.canvas.setAttribute('aria-valuenow', String(Math.round(100 * this.split)))
    for (const [button, isOn] of this.states) press(button, isOn())
  }
}

/** @param {number} value */
const percent = (value) => `${value.toPrecision(2)} %`
