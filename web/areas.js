// Areas of a picture with a prompt each, such as `0 0 0.5 1 -> a red circle`, read as the nodes do, and changed in the text.
import { wrongFrames } from './frames.js'
import { say } from './say.js'

/**
 * @typedef {{ x: number, y: number, width: number, height: number }} Box in parts of the picture
 * @typedef {{ width: number, points: [number, number][], erases?: boolean }} Brush one that erases takes off what the shapes before it hold
 * @typedef {{ shapes: (Box | Brush)[], prompt: string, frames?: string }} Drawn with the frames of a video in which it holds; empty or none: in all
 * @typedef {Drawn & { line: number }} Area
 */

/** @type {Record<string, Box>} */
const HALVES = {
  left: { x: 0, y: 0, width: 0.5, height: 1 },
  right: { x: 0.5, y: 0, width: 0.5, height: 1 },
  top: { x: 0, y: 0, width: 1, height: 0.5 },
  bottom: { x: 0, y: 0.5, width: 1, height: 0.5 },
  all: { x: 0, y: 0, width: 1, height: 1 }
}
const TIMED = ' frames '
export const LEAST = 0.02 // of the picture, below which a drag is a click
const NUMBER = /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i

class Wrong extends Error {}

/** @param {Box | Brush} shape @returns {shape is Brush} */
export const isBrush = (shape) => 'points' in shape

/** @param {Box | Brush} shape */
export const erases = (shape) => isBrush(shape) && Boolean(shape.erases)

/**
 * Read areas up to the first line that is wrong.
 * @param {string} text
 * @returns {{ areas: Area[], fault: string }} the fault with its line; empty: none
 */
export function read(text) {
  /** @type {Area[]} */
  const areas = []
  for (const [line, code] of text.split(/\r\n|\r|\n/).entries()) {
    if (!code.trim() || code.trimStart().startsWith('#')) continue
    try {
      areas.push(...areasOf(code).map((area) => ({ ...area, line })))
    } catch (error) {
      if (!(error instanceof Wrong)) throw error
      return { areas, fault: say('line $1: $2', line + 1, error.message) }
    }
  }
  return { areas, fault: '' }
}

/** @param {string} code */
function areasOf(code) {
  const arrow = code.indexOf('->')
  if (arrow < 0) throw new Wrong(say('-> and a prompt are missing; write left -> a red circle'))
  const [where, prompt] = [code.slice(0, arrow), code.slice(arrow + 2)]
  const timed = where.indexOf(TIMED)
  const [left, frames] = timed < 0 ? [where, ''] : [where.slice(0, timed), where.slice(timed + TIMED.length).trim()]
  const fault = timed < 0 ? '' : frames ? wrongFrames(frames) : say('nothing stands behind frames; write 0-50%, 0-12, 25- or several with commas, and perhaps fade 8 behind them')
  if (fault) throw new Wrong(fault)
  const boxes = split(left.trim())
  if (!boxes) return [{ shapes: shapesOf(left), prompt: prompt.trim(), frames }]
  const prompts = prompt.split('|').map((part) => part.trim())
  if (prompts.length !== boxes.length) throw new Wrong(say('$1 has $2 parts, and $3 prompts stand behind ->; put a bar between each two', left.trim(), boxes.length, prompts.length))
  return boxes.map((box, i) => ({ shapes: [box], prompt: prompts[i], frames }))
}

/** @param {string} text */
function shapesOf(text) {
  const shapes = text.split('+').map((part) => shapeOf(part.trim()))
  if (erases(shapes[0])) throw new Wrong(say('there is nothing that "$1" could erase; write left + erase 0.1: 0.2 0.3', text.trim()))
  return shapes
}

/**
 * @param {string} text
 * @returns {Box[] | null} of columns, rows or a grid; null for another text
 */
function split(text) {
  if (text.includes('brush') || text.includes('erase')) return null
  if (text.includes(':')) return shares(text, ':').map(([x, width]) => ({ x, y: 0, width, height: 1 }))
  if (text.includes('/')) return shares(text, '/').map(([y, height]) => ({ x: 0, y, width: 1, height }))
  if (!text.includes('x')) return null
  const [columns, rows] = [text.slice(0, text.indexOf('x')), text.slice(text.indexOf('x') + 1)].map((part) => (/^\s*\d{1,3}\s*$/.test(part) ? Number(part) : 0))
  if (!columns || !rows) throw new Wrong(say('"$1" is no grid; write 2x2, columns first', text))
  return [...Array(columns * rows).keys()].map((i) => ({ x: (i % columns) / columns, y: Math.floor(i / columns) / rows, width: 1 / columns, height: 1 / rows }))
}

/**
 * @param {string} text
 * @param {string} mark
 */
function shares(text, mark) {
  const parts = text.split(mark).map(number)
  if (Math.min(...parts) <= 0) throw new Wrong(say('"$1" has a part of nothing; write such as $2', text, `1${mark}2`))
  const total = parts.reduce((sum, part) => sum + part, 0)
  return parts.map((part, i) => [parts.slice(0, i).reduce((sum, one) => sum + one, 0) / total, part / total])
}

/** @param {string} text @returns {Box | Brush} */
function shapeOf(text) {
  if (text in HALVES) return HALVES[text]
  const word = ['brush', 'erase'].find((one) => text.startsWith(one))
  if (word) return brush(text, word)
  const parts = text.split(/\s+/)
  if (!text || parts.length !== 4) throw new Wrong(noArea(text))
  const [x, y, width, height] = parts.map(number)
  if (width <= 0 || height <= 0) throw new Wrong(say('the box "$1" holds nothing; write x y width height, such as 0 0 0.5 1', text))
  return { x, y, width, height }
}

/** @param {string} text */
function noArea(text) {
  if (/%|frame|\d-/i.test(text)) return say('"$1" is no area; when it holds stands behind an area, after the word frames, such as left frames 0-50% -> a red circle', text)
  if (text.includes(',')) return say('"$1" is no area; join several by +, such as left + top', text)
  return say('"$1" is no area; write left, right, top, bottom, all or a box such as 0 0 0.5 1; brush, erase, columns and grids are in the help of this node', text)
}

/** @param {string} text @param {string} word @returns {Brush} */
function brush(text, word) {
  const [width, points, ...more] = text.slice(word.length).split(':')
  const found = (points ?? '').split(',').map((part) => part.trim().split(/\s+/))
  if (more.length || found.some((point) => point.length !== 2)) throw new Wrong(say('"$1" is no line of points; write $2 0.1: 0.2 0.3, 0.4 0.3', text, word))
  if (number(width) <= 0) throw new Wrong(say('"$1" is as wide as nothing; write $2 0.1: 0.2 0.3', text, word))
  return { width: number(width), points: found.map(([x, y]) => [number(x), number(y)]), ...(word === 'erase' ? { erases: true } : {}) }
}

/** @param {string} text */
function number(text) {
  if (!NUMBER.test(text) || !Number.isFinite(Number(text))) throw new Wrong(say('"$1" is no number; write such as 0 0 0.5 1, 1:2 for columns, 1/2 for rows, brush 0.1: 0.2 0.3', text.trim()))
  return Number(text)
}

// Changes of the text

/** @param {number} value */
const short = (value) => String(Math.round(1000 * value) / 1000)

/** @param {Box | Brush} shape */
function written(shape) {
  if (isBrush(shape)) return `${erases(shape) ? 'erase' : 'brush'} ${short(shape.width)}: ${shape.points.map((point) => point.map(short).join(' ')).join(', ')}`
  const half = Object.entries(HALVES).find(([, box]) => Object.entries(box).every(([key, value]) => shape[/** @type {keyof Box} */ (key)] === value))
  return half ? half[0] : [shape.x, shape.y, shape.width, shape.height].map(short).join(' ')
}

/** @param {Drawn} area */
export const lineOf = ({ shapes, prompt, frames }) => `${shapes.map(written).join(' + ')}${frames ? TIMED + frames : ''} -> ${prompt}`

/**
 * Put another area in the place of one, or take it off; a line that holds several is written as a line for each.
 * @param {string} text
 * @param {number} index of the area
 * @param {Drawn | null} area
 * @returns {string}
 */
export function changed(text, index, area) {
  const { areas } = read(text)
  const { line } = areas[index]
  const here = areas.map((one, i) => (i === index ? area : one)).filter((one, i) => areas[i].line === line && one)
  const lines = text.split(/\r\n|\r|\n/)
  return [...lines.slice(0, line), ...here.map((one) => lineOf(/** @type {Area} */ (one))), ...lines.slice(line + 1)].join('\n')
}

/**
 * Write one more area at the end.
 * @param {string} text
 * @param {Drawn} area
 * @returns {string}
 */
export const added = (text, area) => [text.replace(/\s+$/, ''), lineOf(area)].filter(Boolean).join('\n')

/**
 * @param {number} start
 * @param {number} length
 */
const held = (start, length) => Math.max(Math.min(0, 1 - length), Math.min(start, Math.max(0, 1 - length)))

/**
 * Move an area as a whole, its boxes held inside of the picture.
 * @param {Area} area
 * @param {number} right
 * @param {number} down
 */
export function moved(area, right, down) {
  for (const box of area.shapes) {
    if (isBrush(box)) continue
    right = held(box.x + right, box.width) - box.x
    down = held(box.y + down, box.height) - box.y
  }
  const shapes = area.shapes.map((shape) => (isBrush(shape) ? { ...shape, points: shape.points.map(([x, y]) => /** @type {[number, number]} */ ([x + right, y + down])) } : { ...shape, x: shape.x + right, y: shape.y + down }))
  return { ...area, shapes }
}

/**
 * @param {Area} area with one box
 * @param {[number, number]} corner
 * @param {[number, number]} to
 */
export function resized(area, [right, bottom], to) {
  const box = /** @type {Box} */ (area.shapes[0])
  const fixed = [box.x + (1 - right) * box.width, box.y + (1 - bottom) * box.height]
  const [x, y] = to.map((place, i) => Math.min(1, Math.max(0, Math.abs(place - fixed[i]) < LEAST ? fixed[i] + LEAST * ([right, bottom][i] ? 1 : -1) : place)))
  const shape = { x: Math.min(x, fixed[0]), y: Math.min(y, fixed[1]), width: Math.abs(x - fixed[0]), height: Math.abs(y - fixed[1]) }
  return { ...area, shapes: [shape] }
}
