// Colours that are told apart on dark and light pages, one for each thing in a row.

const COLOURS = ['#ff6b6b', '#4dabf7', '#ffd43b', '#69db7c', '#da77f2', '#ffa94d', '#38d9a9', '#f783ac']

/** @param {number} index @returns {string} */
export const colourOf = (index) => COLOURS[index % COLOURS.length]
