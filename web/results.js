// What runs gave, in the nodes and in the tab: of the run that ended, and of the last one when a workflow is opened again.
import { app } from '../../scripts/app.js'
import { placed, upstream } from './graph.js'
import { InspectorTab } from './inspector_tab.js'
import { sameIn } from './same_run.js'
import { say } from './say.js'

// Nodes that are shown something in each step: captures, masks of words, and maps of blocks whose model goes on.
const MASKS = ['PatchbayLiveRegion', 'PatchbayLiveWordMask']
const isLive = ({ comfyClass, outputs }) => ['PatchbayCaptureAttention', ...MASKS].includes(comfyClass) || (comfyClass === 'PatchbayBlockMap' && outputs[2]?.links?.length > 0)
export const ENDINGS = ['execution_interrupted', 'execution_error'] // of runs that ended early
const RUNS = 32 // of the history, to look for the last one of the workflow

export const views = new WeakMap() // of nodes that show maps, by node
export const texts = new WeakMap()
const tables = new WeakMap()
let map
/** The blocks that the last Block Map showed. */
export const lastMap = () => map

export function show(node, output) {
  if (output?.map && node.comfyClass === 'PatchbayBlockMap') {
    map = { blocks: output.map, kinds: output.kinds ?? [] }
    views.get(node)?.show(map, output.chosen)
    if (output.values?.length) views.get(node)?.measured(output.values)
  }
  if (output?.table && node.comfyClass === 'PatchbayPatchInspector') tables.set(node, { rows: output.table, makers: output.makers ?? [] })
  if (output?.attention && node.comfyClass !== 'PatchbayCompare') views.get(node)?.show(output.attention[0]) // those that a comparison draws again are not its own
  if (output?.compare) views.get(node)?.show(output.compare[0])
  texts.get(node)?.show(output)
}

const our = () => [...placed()].filter(([, node]) => String(node.comfyClass).startsWith('Patchbay'))

// The page keeps outputs by node id, and in a subgraph by `subgraph:node`.
const kept = (node, outputs) => outputs[node.graph === app.rootGraph ? node.id : `${node.graph.id}:${node.id}`]

/** The address of the last picture that a node of the graph saved or previewed. */
export function lastPicture() {
  const made = Object.values(app.nodeOutputs ?? {}).flatMap((output) => output?.images ?? []).filter(({ filename }) => filename)
  const last = made[made.length - 1]
  return last ? app.api.apiURL(`/view?${new URLSearchParams(last)}`) : null
}

export function showAll(outputs) {
  for (const [, node] of our()) show(node, kept(node, outputs))
  showTab()
}

/** Show what the last run of the workflow gave, as after the page was loaded anew or another workflow was opened. */
export async function restore() {
  showAll(app.nodeOutputs ?? {})
  remount()
  const { id } = app.rootGraph
  if (!our().length) return
  const asked = heard
  const mine = await runsOf(id)
  if (id !== app.rootGraph.id) return // another workflow was opened meanwhile
  const last = mine[0]
  for (const [path, node] of our()) if (!kept(node, app.nodeOutputs ?? {})) show(node, given(mine, path))
  const cached = last?.status?.messages?.find(([name]) => name === 'execution_cached')
  await restoreSteps({ workflow: id })
  if (cached) await showCached({ detail: cached[1] })
  if (last?.status?.messages?.some(([name]) => ENDINGS.includes(name))) stopMasks(asked)
  showTab()
}

const lastRuns = async () => Object.values(await ask(`/history?max_items=${RUNS}`, {})).reverse()

/** The runs that have not ended, as the history will tell them. */
const running = async () => ((await ask('/queue', {})).queue_running ?? []).map((prompt) => ({ prompt, outputs: {} }))

/** The runs of a workflow, the last one first. */
const runsOf = async (id) => (await lastRuns()).filter(({ prompt }) => prompt[3]?.extra_pnginfo?.workflow?.id === id)

/** What the last run gave for a node; of a node that others were put in the place of, as of one that was cached, what those gave. */
function given([last, ...earlier], path) {
  const found = shownAt(last, path)
  const cached = last?.status?.messages?.find(([name]) => name === 'execution_cached')
  return found || !cached?.[1].nodes.includes(path) ? found : earlier.map((run) => shownAt(run, path)).find(Boolean)
}

function shownAt(run, path) {
  const [at] = Object.entries(run?.meta ?? {}).find(([id, { display_node }]) => display_node === path && run.outputs[id]) ?? [path]
  return run?.outputs[at]
}

/** A run whose sampling was cached shows the maps of the run that it came from. */
export async function showCached({ detail }) {
  const live = our().filter(([path, node]) => isLive(node) && detail.nodes.includes(path))
  for (const [path, node] of live) if (!views.get(node)?.maps && !views.get(node)?.values?.length) await restoreSteps({ node: path })
  const compared = our().filter(([path, node]) => node.comfyClass === 'PatchbayCompare' && detail.nodes.includes(path))
  const runs = compared.length ? [...(await running()), ...(await lastRuns())] : []
  for (const [path, node] of compared) show(node, sameIn(runs, detail.prompt_id, path).map((one) => shownAt(...one)).find(Boolean))
}

async function restoreSteps(of) {
  const asked = heard
  for (const detail of await ask(`/patchbay/attention?${new URLSearchParams(of)}`, [])) showStep({ ...detail, workflow: of.workflow }, asked)
}

const ask = (path, otherwise) =>
  app.api
    .fetchApi(path)
    .then((answer) => (answer.ok ? answer.json() : otherwise))
    .catch(() => otherwise)

// Nodes 2.0 keeps the display of a node that was there before the graph was loaded anew, as by undo.
function remount() {
  for (const [, node] of our()) {
    for (const widget of node.widgets?.filter((one) => one.element?.dataset.patchbayView) ?? []) {
      const { element } = widget
      const old = document.querySelector(`[data-node-id="${node.id}"] [data-patchbay-view="${element.dataset.patchbayView}"]`)
      if (old && old !== element && node.graph === app.canvas.graph) old.replaceWith(element)
    }
  }
}

let heard = 0 // steps that runs told
const newest = new WeakMap() // the last of these that a view showed, by view
const isOlder = (view, asked) => (newest.get(view) ?? 0) > asked // than what the view shows: an answer to what was asked then

/** While sampling: the maps or the mask of one step, for the node that makes them, or what the blocks did, for their map. */
export function hearStep({ detail }) {
  heard += 1
  const view = showStep(detail, heard)
  if (view) newest.set(view, heard)
}

/** Show a step in the view that it is of, and return that; what was asked for before a run told the view more is left. */
function showStep(detail, asked) {
  if (detail.workflow && detail.workflow !== app.rootGraph.id) return null
  const found = our().find(([path, node]) => path === String(detail.node) && shows(node, detail)) // a preset can name a node of another workflow
  const view = found && views.get(found[1])
  if (!view || isOlder(view, asked)) return null
  if (detail.blocks) view.measured(detail.blocks)
  else view.show(detail)
  if (view.stop) made.add(view)
  return view
}

const made = new Set() // views of masks that the run shows
export const beginRun = () => made.clear()

/** Where a run ended early, its masks say so. */
export const stopRun = () => stopMasks(heard)

const stopMasks = (asked) => made.forEach((view) => isOlder(view, asked) || view.stop())

function shows({ comfyClass }, { blocks, covers }) {
  if (blocks) return comfyClass === 'PatchbayBlockMap'
  return covers ? MASKS.includes(comfyClass) : comfyClass === 'PatchbayCaptureAttention'
}

// The tab

const tab = new InspectorTab(addInspector, jump)

export function showTab() {
  const found = our().filter(([, node]) => tables.has(node))
  tab.show(found.map(([id, node]) => ({ name: `${node.title} ${id}`, node, ...rowsOf(node) })))
}

function rowsOf(inspector) {
  const { rows, makers } = tables.get(inspector)
  return { rows, from: (row) => makerOf(inspector, makers[rows.indexOf(row)] ?? ['', 0]) }
}

// What the node of a method is called where it is not what the run calls it.
const NODES = {
  Capture: ['PatchbayCaptureAttention'],
  PointCapture: ['PatchbayCaptureAttention'],
  BlockWatch: ['PatchbayBlockMap'],
  PatchbayAttentionBackend: ['PatchbayAttentionBackend', 'PatchbayBackendRules']
}

/** The node on the way of the model that made a patch; nothing where it cannot be told, as of a preset. */
function makerOf(inspector, [kind, earlier]) {
  const acts = (node) => (NODES[kind] ?? [kind]).includes(node.comfyClass) && node.mode === 0
  const found = [...upstream(inspector)].filter(acts).reverse()
  return found[earlier] ?? (found.length === 1 ? found[0] : null)
}

function addInspector() {
  const node = window.LiteGraph.createNode('PatchbayPatchInspector')
  node.pos = [...app.canvas.graph_mouse]
  app.canvas.graph.add(node)
}

function jump(node) {
  if (app.canvas.graph !== node.graph) app.canvas.setGraph(node.graph)
  app.canvas.deselectAll()
  app.canvas.select(node)
  app.canvas.centerOnNode(node)
}

export const sidebar = () => ({
  id: 'patchbay-inspector',
  icon: 'pi pi-list-check',
  title: say('Patches'),
  tooltip: say('Patches of the models'),
  type: 'custom',
  render: (element) => {
    showTab()
    element.replaceChildren(tab.element)
  }
})
