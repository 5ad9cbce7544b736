// The numbers of the block that is pointed at, and its map where the run has one.
import { lines } from './block_values.js'
import { element } from './element.js'
import { colour } from './heatmap.js'
import { say } from './say.js'

const HEIGHT = 58 // pixels: the map above does not move while a block is pointed at

export class BlockHover {
  constructor() {
    this.element = element('div', { display: 'flex', gap: '8px', flex: 'none', height: `${HEIGHT}px`, lineHeight: '1.3' })
    this.text = element('div', { flex: '1 1 auto', overflow: 'auto', whiteSpace: 'pre-line', overflowWrap: 'anywhere' })
    this.canvas = element('canvas', { flex: 'none', height: '100%', imageRendering: 'pixelated', borderRadius: '4px' })
    this.element.append(this.text, this.canvas)
    this.show(undefined)
  }

  /** @param {import('./block_values.js').Values | undefined} row */
  show(row) {
    this.text.textContent = row ? lines(row).join('\n') : say('Point at a block for its numbers.')
    this.canvas.hidden = !row?.map
    this.canvas.style.display = row?.map ? '' : 'none'
    if (row?.map) this.paint(row.map)
  }

  /** @param {import('./block_values.js').Thumbnail} map */
  paint({ label, height, width, bytes }) {
    Object.assign(this.canvas, { height, width, title: say('Attention to $1 in this block', label) })
    const pixels = new ImageData(width, height)
    Array.from(atob(bytes), (letter, i) => pixels.data.set([...colour(letter.charCodeAt(0)), 255], 4 * i))
    this.canvas.getContext('2d')?.putImageData(pixels, 0, 0)
  }
}
