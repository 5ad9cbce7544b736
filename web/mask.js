// The mask of a map, as a picture to copy.
import { bytes, layerOf } from './heatmap.js'
import { say } from './say.js'

const DARK = 0.75 // of the light outside of a mask is taken, as in the previews of Live Masks

/**
 * Draw the mask: white where the map is at a part of its highest value or above, black elsewhere; at 0 the map itself in grey.
 * @param {import('./heatmap.js').Maps} maps
 * @param {number} label
 * @param {number} picture
 * @param {number} threshold 0 to 1
 * @param {[number, number]} size width and height of the picture
 * @returns {HTMLCanvasElement}
 */
export function maskOf(maps, label, picture, threshold, [width, height]) {
  const { layer, index } = layerOf(maps, label)
  const small = drawn(layer.width, layer.height)
  const pixels = new ImageData(layer.width, layer.height)
  bytes(layer, index, picture).forEach((value, i) => pixels.data.set([value, value, value, 255], 4 * i))
  small.getContext('2d')?.putImageData(pixels, 0, 0)
  const mask = drawn(width, height)
  const pen = /** @type {CanvasRenderingContext2D} */ (mask.getContext('2d'))
  pen.drawImage(small, 0, 0, width, height) // smoothly, so that the edge has no steps
  if (!threshold) return mask
  const large = pen.getImageData(0, 0, width, height)
  for (let i = 0; i < large.data.length; i += 4) large.data.fill(large.data[i] >= 255 * threshold ? 255 : 0, i, i + 3)
  pen.putImageData(large, 0, 0)
  return mask
}

/**
 * Draw what is outside of a mask: dark there, clear in the mask.
 * @param {import('./heatmap.js').Maps} maps
 * @param {number} label
 * @param {number} picture
 * @param {number} threshold 0 to 1
 * @param {[number, number]} size width and height of the picture
 * @returns {HTMLCanvasElement}
 */
export function outside(maps, label, picture, threshold, size) {
  const mask = maskOf(maps, label, picture, threshold, size)
  const pen = /** @type {CanvasRenderingContext2D} */ (mask.getContext('2d'))
  const pixels = pen.getImageData(0, 0, ...size)
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data.set([0, 0, 0, DARK * (255 - pixels.data[i])], i)
  pen.putImageData(pixels, 0, 0)
  return mask
}

/**
 * Put a picture on the clipboard as PNG.
 * @param {HTMLCanvasElement} picture
 * @returns {Promise<string>} why it is not there; empty where it is
 */
export async function copied(picture) {
  if (!navigator.clipboard?.write) return say('The browser lets a page copy pictures only on https or localhost.')
  const png = new Promise((/** @type {(blob: Blob) => void} */ done, failed) => picture.toBlob((blob) => (blob ? done(blob) : failed(new Error('no PNG')))))
  try {
    await navigator.clipboard.write([new ClipboardItem({ 'image/png': png })])
    return ''
  } catch (error) {
    return say('The browser did not let the page copy it: $1', String(error))
  }
}

/**
 * @param {number} width
 * @param {number} height
 */
const drawn = (width, height) => Object.assign(document.createElement('canvas'), { width, height })
