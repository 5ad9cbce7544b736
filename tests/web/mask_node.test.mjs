import assert from 'node:assert/strict'
import { test } from 'node:test'
import { addMask, linksOf } from '../../web/mask_node.js'

// A graph as LiteGraph has it, as far as this needs it.
function graphOf(wires) {
  const graph = { nodes: [], wires, getLink: (id) => wires[id], getNodeById: (id) => graph.nodes.find((one) => one.id === id), add: (node) => graph.nodes.push(node) }
  return graph
}

function place(graph, id, comfyClass, inputs, outputs, pos = [0, 0]) {
  const slot = ([name, type]) => {
    const link = graph.wires.findIndex((wire) => wire.target_id === id && wire.name === name)
    return { name, type, link: link < 0 ? null : link }
  }
  const links = (at) => [...graph.wires.keys()].filter((link) => graph.wires[link].origin_id === id && graph.wires[link].origin_slot === at)
  graph.nodes.push({ id, comfyClass, graph, pos, size: [100, 100], inputs: inputs.map(slot), outputs: outputs.map((type, at) => ({ type, links: links(at) })), widgets: [] })
}

const wire = (origin_id, origin_slot, target_id, name) => ({ origin_id, origin_slot, target_id, name })

test('behind a capture is the latent of its sampler, and the model that the sampler got', () => {
  const graph = graphOf([wire(1, 0, 2, 'model'), wire(2, 0, 3, 'model'), wire(3, 0, 4, 'guider')])
  place(graph, 1, 'PatchbayCaptureAttention', [], ['MODEL'])
  place(graph, 2, 'Other', [['model', 'MODEL']], ['MODEL'])
  place(graph, 3, 'CFGGuider', [['model', 'MODEL']], ['GUIDER'])
  place(graph, 4, 'SamplerCustomAdvanced', [['guider', 'GUIDER']], ['LATENT', 'LATENT'])
  const { model, latent } = linksOf(graph.nodes[0])
  assert.deepEqual([model.node.id, model.slot, latent.node.id, latent.slot], [2, 0, 4, 0])
})

test('without a sampler there is nothing to link to', () => {
  const graph = graphOf([])
  place(graph, 1, 'PatchbayCaptureAttention', [], ['MODEL'])
  assert.equal(linksOf(graph.nodes[0]), null)
})

test('a mask node has the links of the maps, the word, and a place where nothing lies', () => {
  const graph = graphOf([wire(1, 0, 9, 'model'), wire(2, 0, 9, 'latent'), wire(3, 0, 9, 'images')])
  for (const id of [1, 2, 3]) place(graph, id, 'Source', [], ['ANY'], [-300, 0])
  place(graph, 9, 'PatchbayAttentionMaps', [['model', 'MODEL'], ['latent', 'LATENT'], ['images', 'IMAGE']], [])
  place(graph, 10, 'InTheWay', [], [], [150, 20])
  const made = { comfyClass: '', pos: [0, 0], size: [100, 100], inputs: [{ name: 'model' }, { name: 'latent' }, { name: 'images' }], widgets: [{ name: 'word' }, { name: 'threshold' }, { name: 'opacity', value: 0.7 }] }
  const linked = []
  for (const { id } of graph.nodes) graph.getNodeById(id).connect = (slot, node, at) => linked.push([id, slot, node === made, at])
  addMask(graph.getNodeById(9), 'cat', 0.4, () => made, linksOf(graph.getNodeById(9)))
  assert.deepEqual(linked, [[1, 0, true, 0], [2, 0, true, 1], [3, 0, true, 2]])
  assert.deepEqual(made.widgets.map(({ value }) => value), ['cat', 0.4, 0.7])
  assert.ok(made.pos[0] >= 140 && made.pos[1] >= 160)
})
