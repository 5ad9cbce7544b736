// The mask that a run makes of a word, on the picture so far: as it gathers, and as it holds.
import { AttentionView } from './attention_view.js'
import { level, stateOf } from './live_mask.js'
import { say } from './say.js'

const LEAST = '200px' // of the height
const LINES = { height: '3.2em', flex: '1 1 auto', whiteSpace: 'normal' } // of text, beside the button

export class LiveMaskView extends AttentionView {
  /**
   * @param {string} waiting
   * @param {() => number} threshold of the node
   */
  constructor(waiting, threshold) {
    super(waiting, { points: () => [], ask: () => '', opacity: () => 0.5, threshold, add: () => '' })
    this.element.style.minHeight = LEAST
    this.canvas.setAttribute('aria-description', say('Arrow keys move a place and tell the value of the map there.'))
    Object.assign(this.lines.style, LINES)
    this.foot.replaceChildren(this.lines, this.actions()[0])
  }

  /** @returns {[number, number]} what is dark blue and what is yellow */
  range() {
    return [0, 1]
  }

  /** @param {import('./live_mask.js').LiveMaps} maps */
  state(maps) {
    return stateOf(maps, this.choice.now.picture)
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

  draw() {
    super.draw()
    if (!this.maps) return
    this.status.textContent = this.state(/** @type {import('./live_mask.js').LiveMaps} */ (this.maps))
    this.canvas.setAttribute('aria-label', `${this.maps.labels[0]}: ${this.status.textContent}`)
  }
}
