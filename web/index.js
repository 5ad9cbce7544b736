// What nodes show in themselves: the text that some give, and the map of blocks. Neither is saved or sent to the server.
import { app } from '../../scripts/app.js'
import { BlockMapView } from './block_map.js'
import { RuleEditor } from './rule_editor.js'

const NODES = {
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
  text.setAttribute('aria-label', NODES[node.comfyClass].label)
  Object.assign(text.style, STYLE)
  text.textContent = NODES[node.comfyClass].waiting
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

const MAP = 'patchbay_map'
const RULES = 'patchbay_rules'
const views = new WeakMap()

// A view of a text widget: made with a function that reads it and one that writes it, told of each change.
function watch(node, name, View) {
  const widget = node.widgets.find((candidate) => candidate.name === name)
  const write = (text) => {
    widget.value = text
    widget.callback?.(text)
    node.graph?.setDirtyCanvas(true, true)
  }
  const view = new View(() => widget.value, write)
  const typed = widget.callback
  widget.callback = function (...given) {
    const result = typed?.apply(this, given)
    view.refresh()
    return result
  }
  views.set(node, view)
  return view
}

function addView(node, name, view, height) {
  const options = { serialize: false, hideOnZoom: false, getValue: () => '', setValue: () => {}, getMinHeight: () => height }
  node.addDOMWidget(name, name, view.element, options).serialize = false
}

function addMap(node) {
  addView(node, MAP, watch(node, 'blocks', BlockMapView), 240)
  node.setSize([430, 480])
}

function addRules(node) {
  const view = watch(node, 'rules', RuleEditor)
  addView(node, RULES, view, 120)
  node.setSize([400, 340])
  backends().then((names) => view.know(names))
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

function show(node, output) {
  if (output?.map) views.get(node)?.show(output.map)
  const widget = node.widgets?.find((candidate) => candidate.name === WIDGET)
  if (widget && output?.text) widget.element.textContent = output.text.join('\n')
}

// Outputs are named by node id, and in a subgraph by `subgraph:node`.
function showAll(outputs) {
  const graphs = [['', app.rootGraph], ...[...app.rootGraph.subgraphs].map(([id, graph]) => [`${id}:`, graph])]
  for (const [prefix, graph] of graphs)
    for (const node of graph.nodes) if (node.comfyClass in ADD) show(node, outputs[prefix + node.id])
}

const ADD = { PatchbayBlockMap: addMap, PatchbayBackendRules: addRules, ...Object.fromEntries(Object.keys(NODES).map((name) => [name, addText])) }

app.registerExtension({
  name: 'attention.patchbay',

  nodeCreated(node) {
    if (!(node.comfyClass in ADD)) return
    ADD[node.comfyClass](node)
    const before = node.onExecuted
    node.onExecuted = function (output) {
      before?.call(this, output)
      show(this, output)
    }
  },

  onNodeOutputsUpdated: showAll
})
