// What nodes show in themselves and offer for their widgets. Nothing of it is saved or sent to the server: the texts are.
import { app } from '../../scripts/app.js'
import { AttentionView } from './attention_view.js'
import { BlockMapView } from './block_map.js'
import { CurveEditor } from './curve_editor.js'
import { withPoint } from './heatmap.js'
import { InspectorTab } from './inspector_tab.js'
import { MODELS, blocksOf } from './models.js'
import { open } from './panel.js'
import { RuleEditor } from './rule_editor.js'

const TEXTS = {
  PatchbayPatchReport: { label: 'Patch report', waiting: 'Run the workflow to see what the attention did.' },
  PatchbayPatchInspector: { label: 'Patches of the model', waiting: 'Run the workflow to list what is on the model.' },
  PatchbayTuneAttention: { label: 'Tuning', waiting: 'Run the workflow to time the attention functions.' }
}
const WIDGET = 'patchbay_report'
const SIZE = [760, 440]

const STYLE = {
  boxSizing: 'border-box',
  contain: 'size', // its place decides how large it is, not the text
  minHeight: '220px',
  width: '100%',
  margin: '0',
  padding: '6px 8px',
  overflow: 'auto',
  font: '11px/1.4 monospace',
  whiteSpace: 'pre',
  userSelect: 'text',
  color: 'var(--input-text)',
  background: 'var(--comfy-input-bg)',
  borderRadius: '6px'
}

function addText(node) {
  const text = document.createElement('pre')
  text.tabIndex = 0
  text.setAttribute('aria-label', TEXTS[node.comfyClass].label)
  Object.assign(text.style, STYLE)
  text.textContent = TEXTS[node.comfyClass].waiting
  const widget = node.addDOMWidget(WIDGET, WIDGET, text, {
    serialize: false,
    hideOnZoom: false,
    getValue: () => text.textContent,
    setValue: () => {},
    getMinHeight: () => 240
  })
  widget.serialize = false
  node.setSize(SIZE)
}

// Views of widgets

const views = new WeakMap()

const widgetOf = (node, name) => node.widgets?.find((candidate) => candidate.name === name)

function write(node, widget, text) {
  app.canvas.emitBeforeChange() // so that it can be undone
  widget.value = text
  widget.callback?.(text)
  node.graph?.setDirtyCanvas(true, true)
  app.canvas.emitAfterChange()
}

// A view of a text widget: made with a function that reads it and one that writes it, told of each change.
function watch(node, name, View) {
  const widget = widgetOf(node, name)
  const view = new View(() => widget.value, (text) => write(node, widget, text))
  const typed = widget.callback
  widget.callback = function (...given) {
    const result = typed?.apply(this, given)
    view.refresh()
    return result
  }
  const configured = node.onConfigure // the saved text comes without a callback
  node.onConfigure = function (...given) {
    configured?.apply(this, given)
    view.refresh()
  }
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
    lastMap = output.map
    views.get(node)?.show(output.map)
  }
  if (output?.table && node.comfyClass === 'PatchbayPatchInspector') tables.set(node, output.table)
  if (output?.attention) views.get(node)?.show(output.attention[0])
  const element = widgetOf(node, WIDGET)?.element
  if (element && output?.text) element.textContent = output.text.join('\n')
  if (element && output?.picture) element.append('\n\n', picture(output.picture[0]))
}

function picture(source) {
  const image = new Image()
  image.src = source
  image.alt = 'The times of each function'
  image.style.maxWidth = '100%'
  return image
}

// Outputs are named by node id, and in a subgraph by `subgraph:node`.
function* nodes() {
  const graphs = [['', app.rootGraph], ...[...app.rootGraph.subgraphs].map(([id, graph]) => [`${id}:`, graph])]
  for (const [prefix, graph] of graphs) for (const node of graph.nodes) if (node.comfyClass in ADD) yield [prefix + node.id, node]
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
const ours = (node, name) => (String(node?.comfyClass).startsWith('Patchbay') ? widgetOf(node, name) : undefined)

function place(node) {
  const { scale, offset } = app.canvas.ds
  const box = app.canvas.canvas.getBoundingClientRect()
  return [box.left + (node.pos[0] + node.size[0] + offset[0]) * scale + 12, box.top + (node.pos[1] + offset[1]) * scale]
}

function chooseBlocks(node) {
  const widget = ours(node, 'blocks')
  const view = new BlockMapView(() => widget.value, (text) => write(node, widget, text))
  Object.assign(view.element.style, { contain: 'none', width: '420px', height: '380px' })
  const select = document.createElement('select')
  select.setAttribute('aria-label', 'Model')
  for (const name of [...(lastMap ? ['the model of the last Block Map'] : []), ...Object.keys(MODELS)]) select.add(new Option(name))
  const choose = () => view.show(select.value in MODELS ? blocksOf(select.value) : lastMap)
  select.addEventListener('change', choose)
  choose()
  open('Choose blocks', [select, view.element], ...place(node))
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
    if (!(node.comfyClass in ADD)) return
    ADD[node.comfyClass](node)
    const before = node.onExecuted
    node.onExecuted = function (output) {
      before?.call(this, output)
      show(this, output)
      showTab()
    }
  },

  onNodeOutputsUpdated: showAll
})
