// Nodes, widgets and links of the graph that is open: what they say, where it comes from, and changes that can be undone.
import { app } from '../../scripts/app.js'
import { KnownModels } from './known_models.js'
import { loaderOf, sourceOf } from './loader.js'
import { say } from './say.js'

export const widgetOf = (node, name) => node.widgets?.find((candidate) => candidate.name === name)
export const ours = (node, name) => (String(node?.comfyClass).startsWith('Patchbay') ? widgetOf(node, name) : undefined)

/** Write a widget; a change that goes on, as of a drag, is a step of undo with its last write only. */
export function write(node, widget, text, goesOn = false) {
  widget.value = text
  widget.callback?.(text)
  node.graph?.setDirtyCanvas(true, true)
  if (goesOn) return
  app.canvas.emitBeforeChange?.()
  app.canvas.emitAfterChange?.()
}

// Do something after a function of an object, and give what the function gave.
export function after(object, name, act) {
  const before = object[name]
  object[name] = function (...given) {
    const result = before?.apply(this, given)
    act(...given)
    return result
  }
}

// Graphs

export const graphs = () => [app.rootGraph, ...app.rootGraph.subgraphs.values()]
export const hosts = () => graphs().flatMap((graph) => graph.nodes.filter((node) => node.subgraph))

/** Every node as a run names it: a node in a subgraph has the ids of the nodes that hold it before its own. */
export function* placed(graph = app.rootGraph, prefix = '') {
  for (const node of graph.nodes) {
    yield [prefix + node.id, node]
    if (node.subgraph) yield* placed(node.subgraph, `${prefix}${node.id}:`)
  }
}

/** A node that is found again when the graph was loaded anew, as undo does; nothing where it is gone. */
export function lasting({ graph, id, comfyClass }) {
  const home = graph.id
  return () => {
    const found = graphs().find((one) => one.id === home)?.getNodeById(id)
    return found?.comfyClass === comfyClass ? found : null
  }
}

// Links

const models = new KnownModels((path) => app.api.fetchApi(path))
export const modelOf = (node) => models.of(loaderOf(node, hosts()))

function linkOf(node, name) {
  const slot = node.inputs?.find((one) => one.widget?.name === name && one.link !== null && one.link !== undefined)
  return slot && sourceOf(node, slot, hosts())
}

export function linkedFrom(node, name) {
  const slot = node.inputs?.find((one) => one.widget?.name === name)
  return slot?.link === null || slot?.link === undefined ? '' : (linkOf(node, name)?.title ?? say('outside of the subgraph'))
}

/** Width and height of the pictures of the latent that a node gets, where the node that made it says so. */
export function latentSize(node) {
  const slot = node.inputs?.find((one) => one.name === 'latent' && one.link !== null && one.link !== undefined)
  const made = slot && sourceOf(node, slot, hosts())
  const size = ['width', 'height'].map((name) => made?.widgets?.find((one) => one.name === name)?.value)
  return size.every((length) => length > 0) ? size : null
}

/** What a widget holds; of a linked one what a widget of the other node says, nothing where no widget does. */
export function valueOf(node, name) {
  if (!linkedFrom(node, name)) return widgetOf(node, name)?.value
  return linkOf(node, name)?.widgets?.find((widget) => [name, 'value'].includes(widget.name))?.value
}

export function textOf(node, name) {
  const value = valueOf(node, name)
  return typeof value === 'string' ? value : ''
}

/** The node and all from which its model comes, the nearest first. */
export function* upstream(node) {
  for (let at = node, steps = 0; at && steps < 200; steps++) {
    yield at
    const slot = at.type === 'Reroute' ? at.inputs[0] : at.inputs?.find((one) => one.type === 'MODEL')
    at = slot ? sourceOf(at, slot, hosts()) : null
  }
}

/** The nodes of this pack on the way to a node's model, and all behind where that comes from, in the order of the page. */
export function relatives(node) {
  const before = [...upstream(node)].slice(1)
  const source = before.find((one) => one.type !== 'Reroute')
  const belongs = (other) => before.includes(other) || [...upstream(other)].slice(1).includes(source)
  const nodes = [...placed()].map(([, other]) => other)
  return nodes.filter((other) => other !== node && String(other.comfyClass).startsWith('Patchbay') && other.mode === 0 && source && belongs(other))
}
