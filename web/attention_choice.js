// What is shown of the maps: a word, a point or one of the prompt's other words; a picture or frame; which scale.
import { chip, press } from './chip.js'
import { isPoint, labelsOf } from './heatmap.js'
import { pictureChoice } from './picture_choice.js'
import { say } from './say.js'

/**
 * @typedef {import('./heatmap.js').Maps} Maps
 * @typedef {{ label: number, picture: number, common: boolean }} Choice
 */

const LISTED = 4 // pictures that are chosen from a list; more have a slider
const REST = { margin: '0', padding: '0 3px', border: 'none', textDecoration: 'underline dotted', opacity: '0.85' }
const ROWS = { maxHeight: '4.6em', overflow: 'auto', flex: 'none' }
const LINE = { display: 'flex', gap: '6px', alignItems: 'center', flex: 'none' }

export class AttentionChoice {
  /** @param {(choice: Choice) => void} changed */
  constructor(changed) {
    this.changed = changed
    /** @type {Choice} */
    this.now = { label: 0, picture: 0, common: false }
    this.element = document.createElement('div')
    Object.assign(this.element.style, { display: 'flex', flexDirection: 'column', gap: '2px', flex: 'none' })
    this.words = document.createElement('div')
    this.words.setAttribute('role', 'group')
    this.words.setAttribute('aria-label', say('Words and points'))
    this.rest = document.createElement('div')
    this.rest.setAttribute('role', 'group')
    this.rest.setAttribute('aria-label', say('Other words of the prompt'))
    this.rest.title = say('Other words of the prompt, on a coarse grid: write them into the words of Capture Attention for the whole map')
    this.frames = document.createElement('label')
    Object.assign(this.frames.style, LINE)
    for (const rows of [this.words, this.rest]) Object.assign(rows.style, ROWS)
    this.element.append(this.words, this.rest, this.frames)
  }

  /** @param {Maps} maps */
  show(maps) {
    const labels = labelsOf(maps)
    this.now.label = Math.min(this.now.label, labels.length - 1)
    this.now.picture = Math.min(this.now.picture, maps.pictures - 1)
    const list = sliding(maps) ? [] : pictureChoice(maps.pictures, this.now.picture, (picture) => this.choose({ picture }))
    const chips = labels.map((label, index) => this.chip(label, index))
    this.words.replaceChildren(...chips.slice(0, maps.labels.length), ...this.scales(maps), ...list)
    const rest = chips.slice(maps.labels.length)
    for (const word of rest) Object.assign(word.style, REST)
    this.rest.replaceChildren(...rest)
    this.frames.replaceChildren(...this.slider(maps))
    this.mark()
  }

  /** @param {Partial<Choice>} change */
  choose(change) {
    Object.assign(this.now, change)
    this.mark()
    this.changed(this.now)
  }

  /**
   * @param {string} label
   * @param {number} index
   */
  chip(label, index) {
    const choose = () => this.choose({ label: index })
    const button = chip(label, choose)
    button.dataset.label = String(index)
    for (const event of ['pointerenter', 'focus']) button.addEventListener(event, choose)
    return button
  }

  /**
   * The choice of the scale, where there are words to compare.
   * @param {Maps} maps
   */
  scales(maps) {
    if (labelsOf(maps).filter((_, index) => !isPoint(maps, index)).length < 2) return []
    const button = chip(say('one scale'), () => this.choose({ common: !this.now.common }), { borderStyle: 'dashed' })
    button.title = say('Colour all words on the scale of the strongest')
    return [button]
  }

  /**
   * A slider over the frames of a video, or over many pictures.
   * @param {Maps} maps
   */
  slider(maps) {
    if (!sliding(maps)) return []
    const slider = document.createElement('input')
    Object.assign(slider, { type: 'range', min: '0', max: String(maps.pictures - 1), value: String(this.now.picture) })
    Object.assign(slider.style, { flex: '1 1 0', minWidth: '0' })
    const told = document.createElement('span')
    const tell = () => (slider.ariaValueText = told.textContent = named(maps, this.now.picture))
    slider.addEventListener('input', () => {
      this.choose({ picture: Number(slider.value) })
      tell()
    })
    slider.addEventListener('keydown', (event) => event.stopPropagation()) // arrows move nodes
    tell()
    return [slider, told]
  }

  mark() {
    for (const button of this.element.querySelectorAll('button')) {
      const isOn = button.dataset.label === undefined ? this.now.common : button.dataset.label === String(this.now.label)
      press(button, isOn)
    }
  }
}

/** @param {Maps} maps */
const sliding = (maps) => maps.pictures > 1 && (maps.frames > 1 || maps.pictures > LISTED)

/**
 * @param {Maps} maps
 * @param {number} picture
 */
function named(maps, picture) {
  const number = maps.shown[picture] - 1
  if (maps.frames < 2) return say('picture $1', number + 1)
  const frame = say('frame $1 of $2', (number % maps.frames) + 1, maps.frames)
  return maps.shown[maps.pictures - 1] > maps.frames ? `${say('picture $1', Math.floor(number / maps.frames) + 1)}, ${frame}` : frame
}
