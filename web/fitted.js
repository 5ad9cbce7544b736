// Where the mouse is on a canvas that is fitted into its box (object-fit: contain).

/**
 * @param {HTMLCanvasElement} canvas
 * @param {MouseEvent} event
 * @returns {[number, number]} 0 at the left and at the top of the picture to 1
 */
export function placeOn(canvas, event) {
  const box = canvas.getBoundingClientRect()
  const scale = Math.min(box.width / canvas.width, box.height / canvas.height)
  const [width, height] = [canvas.width * scale, canvas.height * scale]
  const x = (event.clientX - box.left - (box.width - width) / 2) / width
  const y = (event.clientY - box.top - (box.height - height) / 2) / height
  return [Math.min(1, Math.max(0, x)), Math.min(1, Math.max(0, y))]
}

/**
 * @param {HTMLCanvasElement} canvas
 * @returns {number} how many of its pixels one pixel of the node has, for texts of one size whatever the size of the node
 */
export function finer(canvas) {
  const { width, height, clientWidth, clientHeight } = canvas
  return clientWidth && clientHeight ? Math.max(width / clientWidth, height / clientHeight) : 1
}

/**
 * Draw anew whenever the canvas has another size, as when its node is resized or comes into view.
 * @param {HTMLCanvasElement} canvas
 * @param {() => void} draw
 */
export function watchSize(canvas, draw) {
  new ResizeObserver(() => canvas.clientWidth && draw()).observe(canvas)
}
