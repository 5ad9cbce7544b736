// Panels for widgets of any of our nodes: the choice of blocks and the curve.
import { app } from '../../scripts/app.js'
import { BlockPicker } from './block_picker.js'
import { CurveEditor } from './curve_editor.js'
import { lasting, linkedFrom, modelOf, ours, textOf, valueOf, widgetOf, write } from './graph.js'
import { open } from './panel.js'
import { lastMap } from './results.js'
import { say } from './say.js'

let shown = null // the panel that is open: its node, how it shows the text again, and how it is shut

/** Open a panel on a widget; it stays with its node when undo loads the graph anew. */
function openFor(node, name, title, make) {
  const here = lasting(node)
  const access = {
    read: () => (here() ? textOf(here(), name) : ''),
    store: (text, goesOn) => here() && write(here(), widgetOf(here(), name), text, goesOn),
    linked: () => (here() ? linkedFrom(here(), name) : '')
  }
  const { view, elements } = make(access)
  const { scale, offset } = app.canvas.ds
  const box = app.canvas.canvas.getBoundingClientRect()
  const [x, y] = [node.pos[0] + node.size[0] + offset[0], node.pos[1] + offset[1]]
  const { shut } = open(title, elements, box.left + x * scale + 12, box.top + y * scale)
  shown = { here, view, shut }
  return view
}

/** After the graph was loaded anew: show what the widget says now; without its node the panel goes. */
export function refreshPanel() {
  if (shown?.here()) shown.view.refresh()
  else shown?.shut()
}

// A node that only listens for a word has the blocks of its map alone.
const blocksOf = (node) => ['blocks', 'map_blocks'].find((name) => ours(node, name))

async function chooseBlocks(node) {
  const picker = openFor(node, blocksOf(node), say('Choose blocks'), ({ read, store, linked }) => {
    const view = new BlockPicker(read, store, linked)
    return { view, elements: view.elements }
  })
  const last = lastMap()
  if (last) picker.offer(say('the model of the last Block Map'), last)
  const { name, layout } = await modelOf(node)
  if (layout) picker.offer(name, layout)
  else if (!last) picker.ask(name)
}

function drawCurve(node) {
  openFor(node, 'curve', say('Draw the curve'), ({ read, store }) => {
    const end = (name, otherwise) => (typeof valueOf(node, name) === 'number' ? valueOf(node, name) : otherwise)
    const view = new CurveEditor(read, store, () => [end('start_percent', 0), end('end_percent', 1)])
    return { view, elements: [view.element] }
  })
}

const PANELS = [
  { id: 'Patchbay.ChooseBlocks', widget: blocksOf, label: 'Choose blocks', icon: 'pi pi-th-large', open: chooseBlocks },
  { id: 'Patchbay.DrawCurve', widget: (node) => ours(node, 'curve'), label: 'Draw the curve', icon: 'pi pi-chart-line', open: drawCurve }
]
const selectedNode = () => [...(app.canvas.selectedItems ?? [])][0]

export const panelsOf = (node) => PANELS.filter(({ widget }) => widget(node))

export const commands = PANELS.map(({ id, widget, label, icon, open }) => ({
  id,
  label,
  icon,
  function: () => widget(selectedNode()) && open(selectedNode())
}))
