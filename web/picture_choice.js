// The choice of one picture of a batch.
import { say } from './say.js'

/**
 * @param {number} count of the batch
 * @param {number} current
 * @param {(picture: number) => void} choose
 * @returns {HTMLSelectElement[]} nothing where there is no choice
 */
export function pictureChoice(count, current, choose) {
  if (count < 2) return []
  const select = document.createElement('select')
  select.setAttribute('aria-label', say('Picture of the batch'))
  for (let i = 0; i < count; i++) select.add(new Option(say('picture $1', i + 1), String(i), false, i === current))
  select.addEventListener('change', () => choose(Number(select.value)))
  return [select]
}
