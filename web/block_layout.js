// Where the blocks of a model stand on its map: the U of a UNet, or rows for the columns of a transformer.
import { say } from './say.js'

/**
 * @typedef {import('./address.js').Block & { heads: number, dim_head: number, factor: number, grid: number[] | null, prefers?: string }} MapBlock
 * @typedef {{ block: MapBlock, label: string, x: number, y: number, width: number, height: number }} Cell
 * @typedef {{ cells: Cell[], titles: { text: string, x: number, y: number }[], width: number, height: number }} Layout
 */

const ROW = 24
const GAP = 4
const WIDE = 168
const INDENT = 8 // so that four levels fit into a node as it is made
const SMALL = 36
const PER_ROW = 10

/**
 * Place every block.
 * @param {MapBlock[]} blocks
 * @returns {Layout}
 */
export function place(blocks) {
  return blocks.some((block) => block.type === 'input') ? unet(blocks) : columns(blocks)
}

/**
 * A UNet: down on the left, up on the right, further in where tokens are larger.
 * @param {MapBlock[]} blocks
 * @returns {Layout}
 */
function unet(blocks) {
  const deepest = Math.max(...blocks.map(level))
  const rows = Math.max(...['input', 'output'].map((type) => blocks.filter((block) => block.type === type).length))
  const right = WIDE + deepest * INDENT * 2 + GAP
  const width = right + WIDE
  const cells = blocks.map((block) => {
    const indent = level(block) * INDENT
    const size = { width: WIDE, height: ROW - GAP, block, label: label(block) }
    if (block.type === 'middle') return { ...size, x: (width - WIDE) / 2, y: rows * ROW }
    if (block.type === 'input') return { ...size, x: indent, y: block.number * ROW }
    return { ...size, x: right - indent, y: (rows - 1 - block.number) * ROW }
  })
  return { cells, titles: [], width, height: (rows + 1) * ROW }
}

/** @param {MapBlock} block */
function level(block) {
  return Math.log2(Math.max(1, block.factor))
}

/**
 * @param {MapBlock} block
 * @returns {string}
 */
export function label(block) {
  if (!block.depth) return block.name
  const heads = block.heads ? `${block.heads}x${block.dim_head}` : ''
  const depth = block.depth > 1 ? say('$1 deep', block.depth) : ''
  const tokens = block.grid ? block.grid.join('x') : block.factor > 1 ? `1/${block.factor}` : ''
  return [block.name, heads, tokens, depth].filter(Boolean).join('  ')
}

/**
 * Say in words what the label of a block with attention says in numbers.
 * @param {MapBlock} block
 * @returns {string}
 */
export function about({ name, heads, dim_head, grid, depth }) {
  const headed = heads ? say('$1 heads of $2 channels', heads, dim_head) : ''
  const tokens = grid ? say('$1 tokens', grid.join(' x ')) : ''
  const deep = depth > 1 ? say('$1 deep', depth) : ''
  const parts = [headed, tokens, deep].filter(Boolean).join(', ')
  return parts ? `${name}: ${parts}` : name
}

/**
 * Another transformer: a field of numbers for each type.
 * @param {MapBlock[]} blocks
 * @returns {Layout}
 */
function columns(blocks) {
  /** @type {Cell[]} */
  const cells = []
  const titles = []
  let top = 0
  for (const type of new Set(blocks.map((block) => block.type))) {
    const here = blocks.filter((block) => block.type === type)
    const { heads, dim_head } = here[0]
    titles.push({ text: heads ? `${type}  ${heads}x${dim_head}` : type, x: 0, y: top })
    here.forEach((block, i) => {
      const x = (i % PER_ROW) * SMALL
      const y = top + ROW * (1 + Math.floor(i / PER_ROW))
      cells.push({ block, label: String(block.number), x, y, width: SMALL - GAP, height: ROW - GAP })
    })
    top += ROW * (1 + Math.ceil(here.length / PER_ROW)) + GAP
  }
  return { cells, titles, width: SMALL * PER_ROW, height: top }
}
