// What the server refused of our nodes: the sentence in a message, and a sign at the widget until it is changed.
import { app } from '../../scripts/app.js'
import { mark } from './fault_line.js'
import { after, ours, placed } from './graph.js'

const SECONDS = 20
const marked = new Map() // widgets with a sign of a refusal, with the text that was refused

/** Show the refusals of each run that is asked for. */
export function showRefusals() {
  const queue = app.queuePrompt
  app.queuePrompt = async function (...given) {
    const queued = await queue.apply(this, given)
    show(app.extensionManager.lastNodeErrors ?? {})
    return queued
  }
}

function show(refused) {
  for (const widget of marked.keys()) mark(widget, null)
  marked.clear()
  for (const [path, node] of placed()) for (const error of refused[path]?.errors ?? []) tell(node, error)
}

function tell(node, { type, details, extra_info: about }) {
  const widget = ours(node, about?.input_name)
  if (!widget || type !== 'custom_validation_failed') return
  const reason = details.replace(`${widget.name} - `, '')
  if (!marked.has(widget)) after(widget, 'callback', (value) => cleared(widget, value))
  marked.set(widget, widget.value)
  mark(widget, { column: 0, length: 0, reason })
  node.graph.setDirtyCanvas(true, true)
  app.extensionManager.toast.add({ severity: 'error', summary: `${node.title}: ${widget.name}`, detail: reason, life: 1000 * SECONDS })
}

function cleared(widget, value) {
  if (!marked.has(widget) || value === marked.get(widget)) return
  marked.delete(widget)
  mark(widget, null)
}
