// The blocks of well-known models: type, number, depth, heads, head dim, latent pixels along a token.

/** @type {Record<string, [string, number, number, number, number, number][]>} */
export const MODELS = {
  'SD1.5': [
    ['input', 0, 0, 0, 0, 1], ['input', 1, 1, 8, 40, 1], ['input', 2, 1, 8, 40, 1], ['input', 3, 0, 0, 0, 2],
    ['input', 4, 1, 8, 80, 2], ['input', 5, 1, 8, 80, 2], ['input', 6, 0, 0, 0, 4], ['input', 7, 1, 8, 160, 4],
    ['input', 8, 1, 8, 160, 4], ['input', 9, 0, 0, 0, 8], ['input', 10, 0, 0, 0, 8], ['input', 11, 0, 0, 0, 8],
    ['middle', 0, 1, 8, 160, 8],
    ['output', 0, 0, 0, 0, 8], ['output', 1, 0, 0, 0, 8], ['output', 2, 0, 0, 0, 8], ['output', 3, 1, 8, 160, 4],
    ['output', 4, 1, 8, 160, 4], ['output', 5, 1, 8, 160, 4], ['output', 6, 1, 8, 80, 2], ['output', 7, 1, 8, 80, 2],
    ['output', 8, 1, 8, 80, 2], ['output', 9, 1, 8, 40, 1], ['output', 10, 1, 8, 40, 1], ['output', 11, 1, 8, 40, 1]
  ],
  'SD2': [
    ['input', 0, 0, 0, 0, 1], ['input', 1, 1, 5, 64, 1], ['input', 2, 1, 5, 64, 1], ['input', 3, 0, 0, 0, 2],
    ['input', 4, 1, 10, 64, 2], ['input', 5, 1, 10, 64, 2], ['input', 6, 0, 0, 0, 4], ['input', 7, 1, 20, 64, 4],
    ['input', 8, 1, 20, 64, 4], ['input', 9, 0, 0, 0, 8], ['input', 10, 0, 0, 0, 8], ['input', 11, 0, 0, 0, 8],
    ['middle', 0, 1, 20, 64, 8],
    ['output', 0, 0, 0, 0, 8], ['output', 1, 0, 0, 0, 8], ['output', 2, 0, 0, 0, 8], ['output', 3, 1, 20, 64, 4],
    ['output', 4, 1, 20, 64, 4], ['output', 5, 1, 20, 64, 4], ['output', 6, 1, 10, 64, 2], ['output', 7, 1, 10, 64, 2],
    ['output', 8, 1, 10, 64, 2], ['output', 9, 1, 5, 64, 1], ['output', 10, 1, 5, 64, 1], ['output', 11, 1, 5, 64, 1]
  ],
  'SDXL': [
    ['input', 0, 0, 0, 0, 1], ['input', 1, 0, 0, 0, 1], ['input', 2, 0, 0, 0, 1], ['input', 3, 0, 0, 0, 2],
    ['input', 4, 2, 10, 64, 2], ['input', 5, 2, 10, 64, 2], ['input', 6, 0, 0, 0, 4], ['input', 7, 10, 20, 64, 4],
    ['input', 8, 10, 20, 64, 4],
    ['middle', 0, 10, 20, 64, 4],
    ['output', 0, 10, 20, 64, 4], ['output', 1, 10, 20, 64, 4], ['output', 2, 10, 20, 64, 4], ['output', 3, 2, 10, 64, 2],
    ['output', 4, 2, 10, 64, 2], ['output', 5, 2, 10, 64, 2], ['output', 6, 0, 0, 0, 1], ['output', 7, 0, 0, 0, 1],
    ['output', 8, 0, 0, 0, 1]
  ],
  'SDXL refiner': [
    ['input', 0, 0, 0, 0, 1], ['input', 1, 0, 0, 0, 1], ['input', 2, 0, 0, 0, 1], ['input', 3, 0, 0, 0, 2],
    ['input', 4, 4, 12, 64, 2], ['input', 5, 4, 12, 64, 2], ['input', 6, 0, 0, 0, 4], ['input', 7, 4, 24, 64, 4],
    ['input', 8, 4, 24, 64, 4], ['input', 9, 0, 0, 0, 8], ['input', 10, 0, 0, 0, 8], ['input', 11, 0, 0, 0, 8],
    ['middle', 0, 4, 24, 64, 8],
    ['output', 0, 0, 0, 0, 8], ['output', 1, 0, 0, 0, 8], ['output', 2, 0, 0, 0, 8], ['output', 3, 4, 24, 64, 4],
    ['output', 4, 4, 24, 64, 4], ['output', 5, 4, 24, 64, 4], ['output', 6, 4, 12, 64, 2], ['output', 7, 4, 12, 64, 2],
    ['output', 8, 4, 12, 64, 2], ['output', 9, 0, 0, 0, 1], ['output', 10, 0, 0, 0, 1], ['output', 11, 0, 0, 0, 1]
  ]
}

/**
 * Return the blocks of a model as the nodes describe them.
 * @param {string} name
 * @returns {import('./block_layout.js').MapBlock[]}
 */
export function blocksOf(name) {
  return MODELS[name].map(([type, number, depth, heads, dim_head, factor]) => ({
    type, number, depth, heads, dim_head, factor, grid: null, name: type === 'middle' ? type : `${type}:${number}`
  }))
}
