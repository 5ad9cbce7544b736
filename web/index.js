// What nodes show in themselves and offer for their widgets. Nothing of it is saved or sent to the server: the texts are.
import { app } from '../../scripts/app.js'
import { AttentionView } from './attention_view.js'
import { BlockMapView } from './block_map.js'
import { BlockPicker } from './block_picker.js'
import { CurveEditor } from './curve_editor.js'
import { mark } from './fault_line.js'
import { fault } from './faults.js'
import { withPoint } from './heatmap.js'
import { InspectorTab } from './inspector_tab.js'
import { KnownModels } from './known_models.js'
import { loaderOf, sourceOf } from './loader.js'
import { open } from './panel.js'
import { RuleEditor } from './rule_editor.js'
import { TextView } from './text_view.js'

const TEXTS = {
  PatchbayPatchReport: { label: 'Patch report', waiting: 'Run the workflow to see what the attention did.' },
  PatchbayPatchInspector: { label: 'Patches of the model', waiting: 'Run the workflow to list what is on the model.' },
  PatchbayTuneAttention: { label: 'Tuning', waiting: 'Run the workflow to time the attention functions.' }
}
const REPORT = 'patchbay_report'

function addText(node) {
  const { label, waiting } = TEXTS[node.comfyClass]
  const view = new TextView(label, waiting)
  addView(node, REPORT, view, 240)
  texts.set(node, view)
  node.setSize([760, 440])
}

// Views of widgets

const views = new WeakMap()
const texts = new WeakMap()

const widgetOf = (node, name) => node.widgets?.find((candidate) => candidate.name === name)

function write(node, widget, text) {
  app.canvas.emitBeforeChange() // so that it can be undone
  widget.value = text
  widget.callback?.(text)
  node.graph?.setDirtyCanvas(true, true)
  app.canvas.emitAfterChange()
}

// Do something after a function of an object, and give what the function gave.
function after(object, name, act) {
  const before = object[name]
  object[name] = function (...given) {
    const result = before?.apply(this, given)
    act(...given)
    return result
  }
}

// A view of a text widget: made with functions that read it, write it and say where it is linked from, told of each change.
function watch(node, name, View) {
  const widget = widgetOf(node, name)
  const view = new View(() => textOf(node, name), (text) => write(node, widget, text), () => linkedFrom(node, name))
  after(widget, 'callback', () => view.refresh())
  after(node, 'onConfigure', () => view.refresh()) // the saved text comes without a callback
  views.set(node, view)
  return view
}

function addView(node, name, view, height) {
  const options = { serialize: false, hideOnZoom: false, getValue: () => '', setValue: () => {}, getMinHeight: () => height }
  node.addDOMWidget(name, name, view.element, options).serialize = false
}

function addMap(node) {
  addView(node, 'patchbay_map', watch(node, 'blocks', BlockMapView), 240)
  node.setSize([430, 480])
}

function addRules(node) {
  const view = watch(node, 'rules', RuleEditor)
  addView(node, 'patchbay_rules', view, 120)
  node.setSize([400, 340])
  backends().then((names) => view.know(names))
}

function addAttention(node, waiting) {
  const view = new AttentionView(waiting, (x, y) => askFor(node, x, y))
  views.set(node, view)
  addView(node, 'patchbay_attention', view, 320)
  node.setSize([380, 620])
}

// A point of the picture goes into the points of the capture: the node's own, or that of the model it shows.
function askFor(node, x, y) {
  for (let at = node, steps = 0; at && steps < 100; at = at.getInputNode?.(0), steps++) {
    const widget = at.comfyClass === 'PatchbayCaptureAttention' && widgetOf(at, 'points')
    if (widget) return write(at, widget, withPoint(widget.value, x, y))
  }
}

// The model of a node, and where its texts come from

const models = new KnownModels((path) => app.api.fetchApi(path))
const graphs = () => [app.rootGraph, ...app.rootGraph.subgraphs.values()]
const hosts = () => graphs().flatMap((graph) => graph.nodes.filter((node) => node.subgraph))
const modelOf = (node) => models.of(loaderOf(node, hosts()))

function linkOf(node, name) {
  const slot = node.inputs?.find((one) => one.widget?.name === name && one.link !== null && one.link !== undefined)
  return slot && sourceOf(node, slot, hosts())
}

function linkedFrom(node, name) {
  const slot = node.inputs?.find((one) => one.widget?.name === name)
  return slot?.link === null || slot?.link === undefined ? '' : (linkOf(node, name)?.title ?? 'outside of the subgraph')
}

// What the own widget holds; of a linked text what a widget of the other node says, else nothing.
function textOf(node, name) {
  if (!linkedFrom(node, name)) return widgetOf(node, name).value
  const value = linkOf(node, name)?.widgets?.find((widget) => [name, 'value'].includes(widget.name))?.value
  return typeof value === 'string' ? value : ''
}

const drawn = new WeakMap() // nodes with the name of the model that their map shows

// Hold the blocks of a node against its model, and let its view know the model.
async function check(node) {
  const { name, layout } = await modelOf(node)
  if (!node.graph) return // it was taken away
  const view = views.get(node)
  view?.knowModel?.(layout)
  const fresh = node.comfyClass === 'PatchbayBlockMap' && layout && drawn.get(node) !== name
  if (fresh) view.show(layout)
  drawn.set(node, name)
  const widget = ours(node, 'blocks')
  if (!widget) return
  mark(widget, linkedFrom(node, 'blocks') ? null : fault(widget.value, layout))
  node.graph.setDirtyCanvas(true, true)
}

function checkAlways(node) {
  for (const name of ['blocks', 'rules']) if (ours(node, name)) after(ours(node, name), 'callback', checkSoon)
  after(node, 'onConnectionsChange', checkSoon)
}

let waiting
// All nodes, once a graph that is being changed has come to rest.
function checkSoon() {
  clearTimeout(waiting)
  waiting = setTimeout(() => graphs().flatMap((graph) => graph.nodes).filter(checked).forEach(check), 100)
}

let known
// The names in the choice of the other backend node; asked once a page.
function backends() {
  known ??= app.api
    .fetchApi('/object_info/PatchbayAttentionBackend')
    .then((answer) => answer.json())
    .then((info) => info.PatchbayAttentionBackend.input.required.backend[1].options)
    .catch(() => [])
  return known
}

// Results of a run

const tab = new InspectorTab(addInspector)
const tables = new WeakMap()
let lastMap

function show(node, output) {
  if (output?.map) {
    lastMap = { blocks: output.map, kinds: output.kinds ?? [] }
    views.get(node)?.show(lastMap, output.chosen)
  }
  if (output?.table && node.comfyClass === 'PatchbayPatchInspector') tables.set(node, output.table)
  if (output?.attention) views.get(node)?.show(output.attention[0])
  texts.get(node)?.show(output)
}

// Outputs are named by node id, and in a subgraph by `subgraph:node`.
function* nodes() {
  const named = [['', app.rootGraph], ...[...app.rootGraph.subgraphs].map(([id, graph]) => [`${id}:`, graph])]
  for (const [prefix, graph] of named) for (const node of graph.nodes) if (node.comfyClass in ADD) yield [prefix + node.id, node]
}

function showAll(outputs) {
  for (const [id, node] of nodes()) show(node, outputs[id])
  showTab()
}

function showTab() {
  const found = [...nodes()].filter(([, node]) => tables.has(node))
  tab.show(new Map(found.map(([id, node]) => [`${node.title} ${id}`, tables.get(node)])))
}

// While sampling. The id of a node in a subgraph is a path of ids; the last one is its own.
function showStep({ detail }) {
  const own = String(detail.node).split(':').at(-1)
  for (const [, node] of nodes()) if (String(node.id) === own && node.comfyClass === 'PatchbayCaptureAttention') views.get(node).show(detail)
}

function addInspector() {
  const node = window.LiteGraph.createNode('PatchbayPatchInspector')
  node.pos = [...app.canvas.graph_mouse]
  app.canvas.graph.add(node)
}

// Panels for widgets of any of our nodes

const BLOCKS = 'Patchbay.ChooseBlocks'
const CURVE = 'Patchbay.DrawCurve'
const checked = (node) => Boolean(ours(node, 'blocks') ?? ours(node, 'rules'))
const ours = (node, name) => (String(node?.comfyClass).startsWith('Patchbay') ? widgetOf(node, name) : undefined)

function place(node) {
  const { scale, offset } = app.canvas.ds
  const box = app.canvas.canvas.getBoundingClientRect()
  return [box.left + (node.pos[0] + node.size[0] + offset[0]) * scale + 12, box.top + (node.pos[1] + offset[1]) * scale]
}

async function chooseBlocks(node) {
  const widget = ours(node, 'blocks')
  const picker = new BlockPicker(() => textOf(node, 'blocks'), (text) => write(node, widget, text), () => linkedFrom(node, 'blocks'))
  open('Choose blocks', picker.elements, ...place(node))
  if (lastMap) picker.offer('the model of the last Block Map', lastMap)
  const { name, layout } = await modelOf(node)
  if (layout) picker.offer(name, layout)
  else if (!lastMap) picker.ask(name)
}

function drawCurve(node) {
  const widget = ours(node, 'curve')
  const editor = new CurveEditor(() => widget.value, (text) => write(node, widget, text))
  open('Draw the curve', [editor.element], ...place(node))
}

const PANELS = [
  { id: BLOCKS, widget: 'blocks', label: 'Choose blocks', icon: 'pi pi-th-large', open: chooseBlocks },
  { id: CURVE, widget: 'curve', label: 'Draw the curve', icon: 'pi pi-chart-line', open: drawCurve }
]
const selectedNode = () => [...(app.canvas.selectedItems ?? [])][0]

function panelsOf(node) {
  return PANELS.filter(({ widget }) => ours(node, widget))
}

// The extension

const ADD = {
  PatchbayBlockMap: addMap,
  PatchbayBackendRules: addRules,
  PatchbayCaptureAttention: (node) => addAttention(node, 'Maps of each step appear here while sampling. A click on one asks for the point.'),
  PatchbayAttentionMaps: (node) => addAttention(node, 'Run the workflow to see which word drew what.'),
  ...Object.fromEntries(Object.keys(TEXTS).map((name) => [name, addText]))
}

app.registerExtension({
  name: 'attention.patchbay',

  commands: PANELS.map(({ id, widget, label, icon, open }) => ({
    id,
    label,
    icon,
    function: () => ours(selectedNode(), widget) && open(selectedNode())
  })),

  getSelectionToolboxCommands: (item) => panelsOf(item).map(({ id }) => id),

  getNodeMenuItems: (node) => panelsOf(node).map(({ label, open }) => ({ content: label, callback: () => open(node) })),

  setup() {
    app.api.addEventListener('patchbay.attention', showStep)
    app.api.addEventListener('graphChanged', checkSoon) // another loader, file or link
    app.extensionManager.registerSidebarTab({
      id: 'patchbay-inspector',
      icon: 'pi pi-list-check',
      title: 'Patches',
      tooltip: 'Patches of the models',
      type: 'custom',
      render: (element) => {
        showTab()
        element.replaceChildren(tab.element)
      }
    })
  },

  nodeCreated(node) {
    if (checked(node)) checkAlways(node)
    if (!(node.comfyClass in ADD)) return
    ADD[node.comfyClass](node)
    after(node, 'onExecuted', (output) => {
      show(node, output)
      showTab()
    })
  },

  afterConfigureGraph: checkSoon,

  onNodeOutputsUpdated: showAll
})
