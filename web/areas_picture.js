// How areas lie on the picture: who holds each place, their outlines and names.
import { paint, shares } from './area_masks.js'
import { isBrush } from './areas.js'
import { finer } from './fitted.js'
import { colourOf } from './palette.js'

/**
 * @typedef {import('./areas.js').Area} Area
 */

const SIDE = 64 // pixels of the longer side, in which who holds what is reckoned
const MARK = 12 // pixels of the node, of the names

/**
 * @param {Area[]} areas
 * @param {number} chosen
 * @returns {number[]} the areas from below to the top; a chosen one of some frames lies over what may never be there with it
 */
export function inOrder(areas, chosen) {
  const all = [...areas.keys()]
  return areas[chosen]?.frames ? [...all.filter((index) => index !== chosen), chosen] : all
}

/** Who holds each place, in the colours of the areas; kept until something changes. */
export class Overlay {
  constructor() {
    this.canvas = document.createElement('canvas')
    this.kept = ''
  }

  /**
   * @param {Area[]} areas
   * @param {[number, number]} size width and height of the picture
   * @param {number} soft how soft the edges are, as a part of the longer side
   * @param {number} chosen which area is stronger
   * @returns {HTMLCanvasElement} as small as it may be
   */
  of(areas, size, soft, chosen) {
    const [width, height] = size.map((length) => Math.max(1, Math.round((SIDE * length) / Math.max(...size))))
    const asked = JSON.stringify([areas.map(({ shapes, frames }) => [shapes, frames]), width, height, soft, chosen])
    if (asked === this.kept) return this.canvas
    this.kept = asked
    Object.assign(this.canvas, { width, height })
    const order = inOrder(areas, chosen)
    const held = shares(order.map((index) => paint(areas[index].shapes, [width, height], soft)))
    const colours = order.map((index) => [1, 3, 5].map((at) => parseInt(colourOf(index).slice(at, at + 2), 16)))
    const data = new Uint8ClampedArray(4 * width * height)
    for (let i = 0; i < width * height; i++) {
      const parts = held.map((share, at) => share[i] * (order[at] === chosen ? 0.6 : 0.4))
      const whole = parts.reduce((sum, part) => sum + part, 0)
      if (whole) for (let c = 0; c < 3; c++) data[4 * i + c] = parts.reduce((sum, part, index) => sum + part * colours[index][c], 0) / whole
      data[4 * i + 3] = 255 * whole
    }
    this.canvas.getContext('2d')?.putImageData(new ImageData(data, width, height), 0, 0)
    return this.canvas
  }
}

/**
 * @param {Area[]} areas
 * @param {number} index
 * @returns {number} how many before it begin at the same place
 */
export function rowOf(areas, index) {
  const begins = (/** @type {Area} */ { shapes: [first] }) => String(isBrush(first) ? first.points[0] : [first.x, first.y])
  return areas.slice(0, index).filter((area) => begins(area) === begins(areas[index])).length
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {Area} area
 * @param {string} colour
 * @param {boolean} chosen
 * @param {string} name
 * @param {number} row of the name, below those of areas at the same place
 */
export function outline(pen, { shapes }, colour, chosen, name, row) {
  const { width, height } = pen.canvas
  for (const shape of shapes) {
    if (isBrush(shape)) continue
    const place = /** @type {const} */ ([shape.x * width, shape.y * height, shape.width * width, shape.height * height])
    for (const [strokeStyle, lineWidth] of /** @type {[string, number][]} */ ([['#000', chosen ? 7 : 4], [colour, chosen ? 4 : 2]])) {
      Object.assign(pen, { strokeStyle, lineWidth }) // on pale and on dark pictures
      pen.strokeRect(...place)
    }
    pen.fillStyle = colour
    if (chosen && shapes.length === 1) for (const [a, b] of [[0, 0], [1, 0], [0, 1], [1, 1]]) pen.fillRect(place[0] + a * place[2] - 5, place[1] + b * place[3] - 5, 10, 10)
  }
  const [first] = shapes
  const [x, y] = isBrush(first) ? first.points[0] : [first.x, first.y]
  const size = MARK * finer(pen.canvas)
  Object.assign(pen, { font: `${size}px sans-serif`, fillStyle: '#fff', strokeStyle: '#000', lineWidth: size / 4, lineJoin: 'round', textAlign: 'left' })
  const label = [Math.max(0, x) * width + size / 2, Math.max(0, y) * height + 1.3 * size * (row + 1)]
  pen.strokeText(name, label[0], label[1])
  pen.fillText(name, label[0], label[1])
}

/**
 * Show how wide the brush is.
 * @param {CanvasRenderingContext2D} pen
 * @param {[number, number]} place in parts of the picture
 * @param {number} radius in pixels of the canvas
 */
export function circle(pen, [x, y], radius) {
  for (const [strokeStyle, lineWidth] of /** @type {[string, number][]} */ ([['#000', 4], ['#fff', 2]])) {
    Object.assign(pen, { strokeStyle, lineWidth })
    pen.beginPath()
    pen.arc(x * pen.canvas.width, y * pen.canvas.height, radius, 0, 2 * Math.PI)
    pen.stroke()
  }
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {number} width
 * @param {number} height
 */
export function grid(pen, width, height) {
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
