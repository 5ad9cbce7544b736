// Shows the text that some nodes give in the node itself. The text is neither saved nor sent to the server.
import { app } from '../../scripts/app.js'

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

function show(node, output) {
  const widget = node.widgets?.find((candidate) => candidate.name === WIDGET)
  if (widget && output?.text) widget.element.textContent = output.text.join('\n')
}

// Outputs are named by node id, and in a subgraph by `subgraph:node`.
function showAll(outputs) {
  const graphs = [['', app.rootGraph], ...[...app.rootGraph.subgraphs].map(([id, graph]) => [`${id}:`, graph])]
  for (const [prefix, graph] of graphs)
    for (const node of graph.nodes) if (node.comfyClass in NODES) show(node, outputs[prefix + node.id])
}

app.registerExtension({
  name: 'attention.patchbay',

  nodeCreated(node) {
    if (!(node.comfyClass in NODES)) return
    addText(node)
    const before = node.onExecuted
    node.onExecuted = function (output) {
      before?.call(this, output)
      show(this, output)
    }
  },

  onNodeOutputsUpdated: showAll
})
