// Which loader a node's model comes from: up the links, through subgraphs, to the file that a widget names.

/**
 * @typedef {{ input: string, file: string }} Loader the widget that names a file, or `demo`, and the file
 * @typedef {{ name: string, type: string, link: number | null, widget?: { name: string } }} Slot
 * @typedef {{ linkIds: number[] }} Exit
 * @typedef {{ origin_id: number | string, origin_slot: number }} Link
 * @typedef {{ nodes: Node[], getLink: (id: number) => Link | undefined, getNodeById: (id: any) => Node | null, outputs?: Exit[] }} Graph
 * @typedef {{ comfyClass?: string, type?: string, title: string, graph: Graph, inputs: Slot[], subgraph?: Graph, widgets?: { name: string, value: unknown }[] }} Node
 */

const FILES = ['ckpt_name', 'unet_name']
const OUTSIDE = -10 // the id from which a subgraph's inputs come
const FURTHEST = 200

/**
 * Follow the model of a node to where it was loaded.
 * @param {Node} node
 * @param {Node[]} hosts the nodes of the page that hold a subgraph
 * @returns {Loader | null} null where no loader of a file is found
 */
export function loaderOf(node, hosts) {
  /** @type {Node | null} */
  let at = node
  let slot = modelOf(at)
  for (let steps = 0; slot && steps < FURTHEST; steps++) {
    const found = sourceOf(at, slot, hosts)
    if (!found) return null
    at = found
    slot = modelOf(at)
  }
  return slot ? null : named(at)
}

/** @param {Node} node */
function modelOf(node) {
  return node.type === 'Reroute' ? node.inputs[0] : node.inputs?.find((one) => one.type === 'MODEL')
}

/**
 * Return the node that a link into a node comes from, outside or inside of subgraphs.
 * @param {Node} node
 * @param {Slot} slot
 * @param {Node[]} hosts
 * @returns {Node | null}
 */
export function sourceOf(node, slot, hosts) {
  let [graph, id] = [node.graph, slot.link]
  for (let steps = 0; id !== null && id !== undefined && steps < FURTHEST; steps++) {
    const link = graph.getLink(id)
    if (!link) return null
    const host = Number(link.origin_id) === OUTSIDE ? hosts.find((one) => one.subgraph === graph) : null
    if (host) {
      graph = host.graph
      id = host.inputs[link.origin_slot]?.link ?? null
      continue
    }
    const source = graph.getNodeById(link.origin_id)
    if (!source?.subgraph) return source
    graph = source.subgraph
    id = graph.outputs?.[link.origin_slot]?.linkIds[0] ?? null
  }
  return null
}

/**
 * @param {Node} node
 * @returns {Loader | null}
 */
function named(node) {
  if (node.comfyClass === 'PatchbayLoadDemoModel') return { input: 'demo', file: 'demo model' }
  const widget = node.widgets?.find((one) => FILES.includes(one.name))
  const linked = widget && node.inputs?.some((slot) => slot.widget?.name === widget.name && slot.link !== null && slot.link !== undefined)
  return widget && !linked && typeof widget.value === 'string' ? { input: widget.name, file: widget.value } : null
}
