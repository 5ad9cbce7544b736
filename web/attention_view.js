// Which word drew what: point at a word to see its map, at the picture to rank the words; a click there asks for a point.
import { bytes, colour, ranked } from './heatmap.js'

const BOX = {
  boxSizing: 'border-box',
  contain: 'size',
  display: 'flex',
  flexDirection: 'column',
  flex: '1 1 auto',
  gap: '4px',
  minHeight: '300px',
  width: '100%',
  overflow: 'auto',
  padding: '6px',
  font: '11px/1.5 sans-serif',
  color: 'var(--input-text)',
  background: 'var(--comfy-input-bg)',
  borderRadius: '6px'
}
const CHIP = {
  margin: '2px 4px 2px 0',
  padding: '0 6px',
  font: 'inherit',
  color: 'inherit',
  background: 'transparent',
  border: '1px solid var(--border-color, #555)',
  borderRadius: '8px',
  cursor: 'pointer'
}
const STEP = 0.02 // of the picture, for a key
const SIDE = 512 // of the canvas

export class AttentionView {
  /**
   * @param {string} waiting what to say before there is a map
   * @param {(x: number, y: number) => void} ask is called with a point of the picture
   */
  constructor(waiting, ask) {
    this.ask = ask
    /** @type {import('./heatmap.js').Maps | null} */
    this.maps = null
    this.label = 0
    this.picture = 0
    this.place = [0.5, 0.5]
    /** @type {HTMLImageElement[]} */
    this.images = []
    this.element = document.createElement('div')
    Object.assign(this.element.style, BOX)
    this.chips = document.createElement('div')
    this.chips.setAttribute('role', 'group')
    this.chips.setAttribute('aria-label', 'Words and points')
    this.canvas = document.createElement('canvas')
    this.canvas.tabIndex = 0
    this.canvas.setAttribute('role', 'img')
    this.canvas.width = this.canvas.height = 0
    Object.assign(this.canvas.style, { flex: '1 1 0', minHeight: '0', maxWidth: '100%', objectFit: 'contain', cursor: 'crosshair' })
    this.status = document.createElement('div')
    this.status.setAttribute('role', 'status')
    this.status.textContent = waiting
    this.element.append(this.chips, this.canvas, this.status)
    this.listen()
  }

  listen() {
    this.element.addEventListener('pointerdown', (event) => event.stopPropagation())
    this.canvas.addEventListener('pointermove', (event) => this.point(...this.where(event)))
    this.canvas.addEventListener('click', (event) => this.maps && this.ask(...this.where(event)))
    this.canvas.addEventListener('keydown', (event) => this.press(event))
  }

  /** @param {import('./heatmap.js').Maps} maps */
  show(maps) {
    this.maps = maps
    this.label = Math.min(this.label, maps.labels.length - 1)
    this.picture = Math.min(this.picture, maps.pictures - 1)
    this.images = maps.images.map((source) => {
      const image = new Image()
      image.onload = () => this.draw()
      image.src = source
      return image
    })
    const scale = SIDE / Math.max(maps.width, maps.height)
    this.canvas.width = Math.round(maps.width * scale)
    this.canvas.height = Math.round(maps.height * scale)
    this.chips.replaceChildren(...maps.labels.map((_, index) => this.chip(index)), ...this.pictures())
    this.status.textContent = maps.step ? `step ${maps.step}` : 'Point at a word, or at the picture.'
    this.draw()
  }

  /** @param {number} index */
  chip(index) {
    const button = document.createElement('button')
    button.type = 'button'
    button.dataset.label = String(index)
    button.textContent = this.maps?.labels[index] ?? ''
    Object.assign(button.style, CHIP)
    for (const event of ['pointerenter', 'focus', 'click']) button.addEventListener(event, () => this.choose(index))
    return button
  }

  /** @returns {HTMLElement[]} a choice of the picture where there are several */
  pictures() {
    if (!this.maps || this.maps.pictures < 2) return []
    const select = document.createElement('select')
    select.setAttribute('aria-label', 'Picture of the batch')
    for (let i = 0; i < this.maps.pictures; i++) select.add(new Option(`picture ${i + 1}`, String(i), false, i === this.picture))
    select.addEventListener('change', () => {
      this.picture = Number(select.value)
      this.draw()
    })
    return [select]
  }

  /** @param {number} index */
  choose(index) {
    this.label = index
    this.draw()
  }

  /**
   * @param {MouseEvent} event
   * @returns {[number, number]}
   */
  where(event) {
    const box = this.canvas.getBoundingClientRect()
    const scale = Math.min(box.width / this.canvas.width, box.height / this.canvas.height) // object-fit: contain
    const [width, height] = [this.canvas.width * scale, this.canvas.height * scale]
    const x = (event.clientX - box.left - (box.width - width) / 2) / width
    const y = (event.clientY - box.top - (box.height - height) / 2) / height
    return [Math.min(1, Math.max(0, x)), Math.min(1, Math.max(0, y))]
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  point(x, y) {
    if (!this.maps) return
    this.place = [x, y]
    const values = ranked(this.maps, this.picture, x, y).map(({ label, value }) => `${label} ${(100 * value).toPrecision(3)} %`)
    this.status.textContent = `at ${x.toFixed(2)} ${y.toFixed(2)}: ${values.join(', ')}`
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const moves = /** @type {Record<string, number[]>} */ ({ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] })
    const [x, y] = this.place
    if (event.key === 'Enter' && this.maps) this.ask(x, y)
    else if (event.key in moves) {
      const [right, down] = moves[event.key]
      this.point(Math.min(1, Math.max(0, x + STEP * right)), Math.min(1, Math.max(0, y + STEP * down)))
      this.draw()
    } else return
    event.preventDefault()
    event.stopPropagation()
  }

  draw() {
    const pen = this.canvas.getContext('2d')
    if (!this.maps || !pen) return
    const { width, height } = this.canvas
    const image = this.images[this.picture]
    pen.clearRect(0, 0, width, height)
    if (image?.complete && image.naturalWidth) pen.drawImage(image, 0, 0, width, height)
    pen.globalAlpha = image ? 0.7 : 1
    pen.drawImage(this.painted(), 0, 0, width, height)
    pen.globalAlpha = 1
    this.mark(pen)
    this.canvas.setAttribute('aria-label', `Attention to ${this.maps.labels[this.label]}`)
    for (const button of this.chips.querySelectorAll('button')) {
      const current = button.dataset.label === String(this.label)
      button.setAttribute('aria-pressed', String(current))
      button.style.background = current ? 'rgb(74 163 255 / 30%)' : 'transparent'
    }
  }

  painted() {
    const { height, width } = /** @type {import('./heatmap.js').Maps} */ (this.maps)
    const small = document.createElement('canvas')
    Object.assign(small, { width, height })
    const pixels = new ImageData(width, height)
    bytes(/** @type {import('./heatmap.js').Maps} */ (this.maps), this.label, this.picture).forEach((value, i) => pixels.data.set([...colour(value), 255], 4 * i))
    small.getContext('2d')?.putImageData(pixels, 0, 0)
    return small
  }

  /** @param {CanvasRenderingContext2D} pen */
  mark(pen) {
    const { labels, words } = /** @type {import('./heatmap.js').Maps} */ (this.maps)
    const own = this.label >= words ? labels[this.label].split(' ').map(Number) : null
    const places = [...(own ? [own] : []), ...(document.activeElement === this.canvas ? [this.place] : [])]
    for (const [x, y] of places) {
      for (const [style, line] of /** @type {[string, number][]} */ ([['#000', 5], ['#fff', 2]])) {
        Object.assign(pen, { strokeStyle: style, lineWidth: line })
        pen.beginPath()
        pen.arc(x * this.canvas.width, y * this.canvas.height, 8, 0, 2 * Math.PI)
        pen.stroke()
      }
    }
  }
}
