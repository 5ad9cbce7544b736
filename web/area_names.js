// What areas are called on buttons and on the picture.
import { say } from './say.js'

const WORDS = 3 // of a prompt
const MORE = '\u2026 '
const WHEN = ' \u00b7 '

/**
 * Name each area by the first words of its prompt, or by those in which it differs from others that begin the same, and by its frames.
 * @param {{ prompt: string, frames?: string }[]} areas
 * @returns {string[]}
 */
export function namesOf(areas) {
  const prompts = areas.map(({ prompt }) => prompt.split(/\s+/).filter(Boolean))
  const headOf = (/** @type {string[]} */ words) => words.slice(0, WORDS).join(' ')
  return prompts.map((words, index) => {
    const alike = prompts.filter((other) => headOf(other) === headOf(words))
    const same = words.findIndex((word, at) => alike.some((other) => other[at] !== word))
    const part = alike.length > 1 && same > 0 ? MORE + words.slice(same, same + WORDS).join(' ') : headOf(words)
    return [part.replace(/[,;.]$/, '') || say('area $1', index + 1), areas[index].frames].filter(Boolean).join(WHEN)
  })
}
