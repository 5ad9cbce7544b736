// The blocks of well-known models: type, number, depth, heads, head dim, latent pixels along a token.

/** @type {Record<string, [string, number, number, number, number, number][]>} */
const UNETS = {
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
 * How many blocks of each type, heads and head dim of transformers; whether text and picture attend together.
 * @type {Record<string, [Record<string, number>, number, number, boolean]>}
 */
const TRANSFORMERS = {
  'Flux': [{ double: 19, single: 38 }, 24, 128, true],
  'Flux 2': [{ double: 8, single: 48 }, 48, 128, true],
  'Chroma': [{ double: 19, single: 38 }, 24, 128, true],
  'Qwen-Image': [{ double: 60 }, 24, 128, true],
  'Z-Image': [{ double: 30 }, 30, 128, true],
  'Lumina 2': [{ double: 26 }, 24, 96, true],
  'SD3.5 large': [{ double: 38 }, 38, 64, true],
  'SD3.5 medium': [{ double: 24 }, 24, 64, true],
  'Krea2': [{ single: 28 }, 48, 128, true],
  'HunyuanVideo': [{ double: 20, single: 40 }, 24, 128, true],
  'Wan 14B': [{ double: 40 }, 40, 128, false],
  'Wan 5B': [{ double: 30 }, 24, 128, false],
  'Wan 1.3B': [{ double: 30 }, 12, 128, false],
  'LTX-Video 2B': [{ block: 28 }, 32, 64, false],
  'Cosmos-Predict2 2B': [{ block: 28 }, 16, 128, false],
  'Anima': [{ block: 28 }, 16, 128, false]
}

export const MODELS = [...Object.keys(UNETS), ...Object.keys(TRANSFORMERS)]

/** @typedef {{ blocks: import('./block_layout.js').MapBlock[], kinds: string[] }} Layout */

/**
 * Return the blocks of a model as the nodes describe them, and its kinds of attention.
 * @param {string} name
 * @returns {Layout}
 */
export function layoutOf(name) {
  if (name in UNETS) return { blocks: UNETS[name].map((row) => block(...row)), kinds: ['self', 'cross'] }
  const [counts, heads, width, joint] = TRANSFORMERS[name]
  const blocks = Object.entries(counts).flatMap(([type, count]) => [...Array(count).keys()].map((i) => block(type, i, 1, heads, width, 0)))
  return { blocks, kinds: joint ? ['self'] : ['self', 'cross'] }
}

/**
 * @param {string} type
 * @param {number} number
 * @param {number} depth
 * @param {number} heads
 * @param {number} dim_head
 * @param {number} factor
 * @returns {import('./block_layout.js').MapBlock}
 */
function block(type, number, depth, heads, dim_head, factor) {
  return { type, number, depth, heads, dim_head, factor, grid: null, name: type === 'middle' ? type : `${type}:${number}` }
}
