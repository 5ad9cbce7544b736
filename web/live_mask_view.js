// The mask that a run makes of a word, on the picture so far: as it gathers, and as it holds.
import { AttentionView } from './attention_view.js'
import { cut, level, stateOf } from './live_mask.js'
import { outside } from './mask.js'
import { say } from './say.js'

const LEAST = '200px' // of the height
const LINES = { height: '4.8em', flex: '1 1 140px', whiteSpace: 'normal' } // of text, beside the button or above it

export class LiveMaskView extends AttentionView {
  /**
   * @param {string} waiting
   * @param {() => number} threshold of the node
   * @param {() => string} word of the node; empty where nobody knows it
   */
  constructor(waiting, threshold, word) {
    super(waiting, { points: () => [], ask: () => '', opacity: () => 0.5, threshold, add: () => '' })
    this.word = word
    this.stopped = false
    this.element.style.minHeight = LEAST
    this.canvas.setAttribute('aria-description', say('Arrow keys move a place and tell the value of the map there.'))
    Object.assign(this.lines.style, LINES)
    this.foot.style.flexWrap = 'wrap'
    this.foot.replaceChildren(this.lines, this.actions()[0])
  }

  /** @returns {[number, number]} what is dark blue and what is yellow */
  range() {
    return [0, 1]
  }

  /** @param {import('./live_mask.js').LiveMaps} maps */
  show(maps) {
    this.stopped = false
    super.show(maps)
  }

  /** Say that the run of the mask ended early. */
  stop() {
    this.stopped = true
    this.draw()
  }

  /** @param {import('./live_mask.js').LiveMaps} maps */
  state(maps) {
    return stateOf(maps, this.choice.now.picture, { word: this.word(), threshold: this.host.threshold(), stopped: this.stopped })
  }

  /** @param {import('./attention_view.js').Place} at */
  told(at) {
    const [x, y] = at
    const [found] = this.maps ? this.rankedAt(at) : []
    return found ? say('at $1 $2: $3 of the highest value', x.toFixed(2), y.toFixed(2), `${Math.round(100 * found.value)} %`) : ''
  }

  /** @param {import('./attention_view.js').Place} at */
  ask(at) {
    this.place = at
    this.draw()
    this.status.textContent = this.told(at)
  }

  level() {
    const { label, picture } = this.choice.now
    return this.maps ? level(this.maps, label, picture, this.host.threshold()) : 0
  }

  part() {
    const { label, picture } = this.choice.now
    return cut(/** @type {import('./heatmap.js').Maps} */ (this.maps), label, picture, this.host.threshold())
  }

  /**
   * The line around the mask, and what is outside of it darker.
   * @param {CanvasRenderingContext2D} pen
   * @param {import('./heatmap.js').Maps} maps
   */
  outline(pen, maps) {
    const { label, picture } = this.choice.now
    pen.drawImage(outside(maps, label, picture, this.part(), [this.canvas.width, this.canvas.height]), 0, 0)
    super.outline(pen, maps)
  }

  draw() {
    super.draw()
    if (!this.maps) return
    this.lines.title = this.status.textContent = this.state(/** @type {import('./live_mask.js').LiveMaps} */ (this.maps))
    this.canvas.setAttribute('aria-label', `${this.maps.labels[0]}: ${this.status.textContent}`)
  }
}
