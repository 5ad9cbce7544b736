// A node that gives the mask of one word: Attention Maps on the same run.
import { say } from './say.js'

/**
 * @typedef {{ node: Node, slot: number }} Output
 * @typedef {{ origin_id: number, origin_slot: number, target_id: number, target_slot: number, type: string }} Link
 * @typedef {{ nodes: Node[], getLink: (id: number) => Link | undefined, getNodeById: (id: number) => Node | null, add: (node: Node) => void }} Graph
 * @typedef {{ id: number, comfyClass: string, graph: Graph, pos: number[], size: number[], title: string, inputs: { name: string, type: string, link: number | null }[], outputs: { type: string, links: number[] | null }[], widgets: { name: string, value: unknown }[], connect: (slot: number, node: Node, at: number) => void }} Node
 */

const MAPS = 'PatchbayAttentionMaps'
const CARRIED = ['MODEL', 'GUIDER'] // what leads from a capture to its sampler
const GAP = 40

/**
 * Return what Attention Maps has to be linked to for the maps that a node shows: the links of an Attention Maps, or the model and latent of the sampler
 * behind a capture.
 * @param {Node} node
 * @returns {Record<string, Output> | null} by the name of the input; null where no sampler is behind a capture
 */
export function linksOf(node) {
  return node.comfyClass === MAPS ? own(node) : behind(node)
}

/** @param {Node} node */
function own(node) {
  const found = node.inputs.filter(({ name, link }) => ['model', 'latent', 'images'].includes(name) && link !== null && link !== undefined)
  return Object.fromEntries(found.map(({ name, link }) => [name, from(node.graph, /** @type {number} */ (link))]))
}

/**
 * @param {Graph} graph
 * @param {number} id
 * @returns {Output}
 */
function from(graph, id) {
  const link = /** @type {Link} */ (graph.getLink(id))
  return { node: /** @type {Node} */ (graph.getNodeById(link.origin_id)), slot: link.origin_slot }
}

/**
 * @param {Node} capture
 * @returns {Record<string, Output> | null}
 */
function behind(capture) {
  const { graph } = capture
  /** @type {{ node: Node, model: Output | null }[]} */
  const open = [{ node: capture, model: null }]
  const seen = new Set([capture])
  for (let at = open.shift(); at; at = open.shift()) {
    const latent = at.node.outputs.findIndex(({ type }) => type === 'LATENT')
    if (at.model && latent >= 0) return { model: at.model, latent: { node: at.node, slot: latent } }
    for (const [slot, output] of at.node.outputs.entries()) {
      for (const link of CARRIED.includes(output.type) ? (output.links ?? []) : []) {
        const next = graph.getNodeById(/** @type {Link} */ (graph.getLink(link)).target_id)
        if (!next || seen.has(next)) continue
        seen.add(next)
        open.push({ node: next, model: output.type === 'MODEL' ? { node: at.node, slot } : at.model })
      }
    }
  }
  return null
}

/**
 * Put an Attention Maps for one word beside a node.
 * @param {Node} node that shows the maps
 * @param {string} word
 * @param {number} threshold
 * @param {(type: string) => Node} create
 * @param {Record<string, Output>} links of `linksOf`
 * @returns {Node}
 */
export function addMask(node, word, threshold, create, links) {
  const made = create(MAPS)
  made.title = say('Mask of $1', word)
  node.graph.add(made)
  made.pos = free(node, made)
  const values = /** @type {Record<string, unknown>} */ ({ word, threshold })
  for (const widget of made.widgets) if (widget.name in values) widget.value = values[widget.name]
  for (const [name, { node: source, slot }] of Object.entries(links)) source.connect(slot, made, made.inputs.findIndex((one) => one.name === name))
  return made
}

/**
 * Return a place to the right of a node where another covers nothing.
 * @param {Node} node
 * @param {Node} made
 */
function free(node, made) {
  const x = node.pos[0] + node.size[0] + GAP
  const apart = (/** @type {Node} */ one, /** @type {number} */ y) =>
    one.pos[0] >= x + made.size[0] + GAP || one.pos[0] + one.size[0] + GAP <= x || one.pos[1] >= y + made.size[1] + GAP || one.pos[1] + one.size[1] + GAP <= y
  const others = node.graph.nodes.filter((one) => one !== made)
  const below = others.map((one) => one.pos[1] + one.size[1] + 2 * GAP).sort((a, b) => a - b)
  return [x, [node.pos[1], ...below].find((y) => y >= node.pos[1] && others.every((one) => apart(one, y))) ?? node.pos[1]]
}
