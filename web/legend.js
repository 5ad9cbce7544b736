// What the colours of a heatmap mean: the bar from the least to the highest, with its numbers.
import { colour } from './heatmap.js'

const STYLE = { display: 'flex', gap: '6px', alignItems: 'center', flex: 'none' }
const BAR = { flex: '0 1 160px', height: '8px', borderRadius: '4px' }

export class Legend {
  /** @param {string} title */
  constructor(title) {
    this.element = document.createElement('div')
    Object.assign(this.element.style, STYLE)
    this.element.title = title
    this.bar = document.createElement('span')
    const colours = [0, 64, 128, 191, 255].map((value) => `rgb(${colour(value).join(' ')})`)
    Object.assign(this.bar.style, BAR, { background: `linear-gradient(to right, ${colours.join(', ')})` })
  }

  /**
   * @param {number} least
   * @param {number} highest
   * @param {(value: number) => string} tell writes a value
   */
  show(least, highest, tell = (value) => `${(100 * value).toPrecision(2)} %`) {
    const [low, high] = [tell(least), tell(highest)]
    this.element.replaceChildren(low, this.bar, high)
  }
}
