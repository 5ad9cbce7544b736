import assert from 'node:assert/strict'
import { test } from 'node:test'
import { KnownModels } from '../../web/known_models.js'
import { loaderOf, sourceOf } from '../../web/loader.js'

/** A graph of nodes with links [id, from, slot, to, input]. */
function graph(nodes, links, outputs = []) {
  const made = { nodes, outputs, getLink: (id) => made.links.get(id), getNodeById: (id) => nodes.find((node) => node.id === id) ?? null }
  made.links = new Map(links.map(([id, origin_id, origin_slot]) => [id, { origin_id, origin_slot }]))
  for (const node of nodes) node.graph = made
  for (const [id, , , to, input] of links) if (to !== undefined) nodes.find((node) => node.id === to).inputs[input].link = id
  return made
}
const slot = (type = 'MODEL', name = 'model') => ({ name, type, link: null })
const patch = (id) => ({ id, comfyClass: 'PatchbayAttentionPatch', title: 'patch', inputs: [{ ...slot('CLIP', 'clip') }, slot()], widgets: [] })
const loader = (id, name = 'unet_name', value = 'flux.safetensors') => ({ id, title: 'loader', inputs: [], widgets: [{ name: 'dtype', value: 'x' }, { name, value }] })

test('the links of the model are followed to the loader', () => {
  const [first, second, file, turn] = [patch(1), patch(2), loader(3), { id: 4, type: 'Reroute', inputs: [slot('*', '')], widgets: [] }]
  graph([first, second, file, turn], [[10, 3, 0, 4, 0], [11, 4, 0, 2, 1], [12, 2, 0, 1, 1]])
  assert.deepEqual(loaderOf(first, []), { input: 'unet_name', file: 'flux.safetensors' })
})

test('nothing is known without a loader of a file', () => {
  const [alone, after, odd] = [patch(1), patch(2), loader(3, 'model_name')]
  graph([alone, after, odd], [[10, 3, 0, 2, 1]])
  assert.equal(loaderOf(alone, []), null)
  assert.equal(loaderOf(after, []), null)
})

test('a file that comes by a link is not known', () => {
  const [node, file] = [patch(1), loader(2)]
  file.inputs = [{ name: 'unet_name', type: 'COMBO', link: 5, widget: { name: 'unet_name' } }]
  graph([node, file], [[10, 2, 0, 1, 1]])
  assert.equal(loaderOf(node, []), null)
})

test('the demo model has no file to name', () => {
  const [node, demo] = [patch(1), { id: 2, comfyClass: 'PatchbayLoadDemoModel', inputs: [], widgets: [] }]
  graph([node, demo], [[10, 2, 0, 1, 1]])
  assert.equal(loaderOf(node, []).input, 'demo')
})

test('subgraphs are gone into and out of', () => {
  const [inner, outer, file, deep] = [patch(1), patch(2), loader(3, 'ckpt_name', 'a/sdxl.safetensors'), loader(4)]
  const inside = graph([inner], [[20, -10, 0, 1, 1]])
  const loading = graph([deep], [[30, 4, 0]], [{ linkIds: [30] }])
  const host = { id: 5, title: 'sub', inputs: [slot()], subgraph: inside, widgets: [] }
  const source = { id: 6, title: 'loads', inputs: [], subgraph: loading, widgets: [] }
  graph([outer, file, host, source], [[10, 3, 0, 5, 0], [11, 6, 0, 2, 1]])
  assert.deepEqual(loaderOf(inner, [host, source]), { input: 'ckpt_name', file: 'a/sdxl.safetensors' })
  assert.deepEqual(loaderOf(outer, [host, source]), { input: 'unet_name', file: 'flux.safetensors' })
  assert.equal(sourceOf(inner, inner.inputs[1], [host]).title, 'loader')
})

test('a circle of links ends', () => {
  const [one, two] = [patch(1), patch(2)]
  graph([one, two], [[10, 1, 0, 2, 1], [11, 2, 0, 1, 1]])
  assert.equal(loaderOf(one, []), null)
})

const block = { type: 'double', number: 0, depth: 1, heads: 24, dim_head: 128, factor: 0, grid: null, name: 'double:0' }
const answer = { family: 'Flux', kinds: ['self'], blocks: { double: 19, single: 38 }, map: [block] }

test('the server is asked once for what it knows, and again for what it does not', async () => {
  const asked = []
  const models = new KnownModels(async (path) => {
    asked.push(path)
    return { json: async () => (path.includes('flux') ? answer : { error: 'no loader has it' }) }
  })
  const [flux, none] = [{ input: 'unet_name', file: 'a b/flux.safetensors' }, { input: 'unet_name', file: 'x.gguf' }]
  for (const turn of [1, 2]) {
    assert.deepEqual(await models.of(flux), { name: 'a b/flux.safetensors: Flux, 19 double, 38 single', layout: { blocks: [block], kinds: ['self'] } })
    const { name, layout } = await models.of(none)
    assert.ok(layout === null && name.startsWith('x.gguf: no loader has it.'), turn)
  }
  assert.equal(asked.length, 3)
  assert.equal(asked[0], '/patchbay/blocks?input=unet_name&file=a+b%2Fflux.safetensors')
})

test('what cannot be asked is not known', async () => {
  const models = new KnownModels(() => Promise.reject(new Error('gone')))
  assert.equal((await models.of({ input: 'demo', file: 'demo model' })).layout, null)
  assert.equal((await models.of(null)).layout, null)
})
