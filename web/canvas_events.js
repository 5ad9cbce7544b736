// What happens over our displays and is meant for the canvas below: zoom, pan, keys with Ctrl. As over the text boxes of ComfyUI.

const PAD = 50 // pixels a turn, below which a wheel is a touch pad
const [MIDDLE, MIDDLE_HELD] = [1, 4]

/**
 * @typedef {{ processMouseWheel: (event: WheelEvent) => void, processMouseDown: (event: PointerEvent) => void, processMouseMove: (event: PointerEvent) => void, processMouseUp: (event: PointerEvent) => void }} Canvas
 */

/**
 * Let a display share wheel, middle button and keys with the canvas.
 * @param {HTMLElement} element
 * @param {() => Canvas} canvas
 * @param {() => boolean} gestures whether touch pads move the canvas
 * @param {() => boolean} forwarded whether the page itself hands a wheel on to the canvas, as in Nodes 2.0
 */
export function share(element, canvas, gestures, forwarded) {
  element.addEventListener('wheel', (event) => {
    const stays = scrolls(event, element, gestures())
    element.dataset.captureWheel = String(stays) // for Nodes 2.0, which scrolls what has the focus
    if (forwarded()) return
    if (stays) return event.stopPropagation()
    event.preventDefault()
    event.stopPropagation()
    canvas().processMouseWheel(event)
  })
  element.addEventListener('pointerdown', (event) => (event.button === MIDDLE || event.buttons === MIDDLE_HELD) && canvas().processMouseDown(event))
  element.addEventListener('pointermove', (event) => event.buttons & MIDDLE_HELD && canvas().processMouseMove(event))
  element.addEventListener('pointerup', (event) => event.button === MIDDLE && canvas().processMouseUp(event))
  element.addEventListener('mousedown', (event) => event.button === MIDDLE && event.preventDefault()) // no scrolling by itself
  element.addEventListener('keydown', (event) => isWritten(event) && event.stopPropagation()) // the page has shortcuts of one letter, and deletes nodes
}

/**
 * @param {KeyboardEvent} event
 * @returns {boolean} whether the key writes or deletes, as in a text
 */
function isWritten({ key, ctrlKey, metaKey, altKey }) {
  return ['Delete', 'Backspace'].includes(key) || (key.length === 1 && !ctrlKey && !metaKey && !altKey)
}

/**
 * @param {WheelEvent} event
 * @param {HTMLElement} element
 * @param {boolean} gestures
 * @returns {boolean} whether the display scrolls, and the canvas stays
 */
function scrolls({ ctrlKey, deltaX, deltaY, target }, element, gestures) {
  const pad = Math.abs(deltaX) > 0 || Math.abs(deltaY) < PAD
  if (ctrlKey || (gestures && pad) || Math.abs(deltaX) > Math.abs(deltaY)) return false
  for (let at = target; at instanceof HTMLElement && element.contains(at); at = at.parentElement)
    if (at.scrollHeight > at.clientHeight && ['auto', 'scroll'].includes(getComputedStyle(at).overflowY)) return true
  return false
}
