// What the server refused of our nodes: the sentence in a message, and a sign at the widget until it is changed.
import { app } from '../../scripts/app.js'
import { calledOf, mark } from './fault_line.js'
import { after, ours, placed } from './graph.js'
import { tellError } from './toast.js'

const SECONDS = 8 // the sign stays, with the sentence
const marked = new Map() // widgets with a sign of a refusal, with the value that was refused and what takes its message away

/** Show the refusals of each run that is asked for. */
export function showRefusals() {
  const queue = app.queuePrompt
  app.queuePrompt = async function (...given) {
    const queued = await queue.apply(this, given)
    try {
      show(app.extensionManager?.lastNodeErrors ?? {})
    } catch (error) {
      console.error(error) // the run is queued, whoever asked for it
    }
    return queued
  }
}

function show(refused) {
  forget()
  for (const [path, node] of placed()) for (const error of refused[path]?.errors ?? []) tell(node, error)
}

/** Take away what is said of refusals, as when another workflow is open. */
export function forget() {
  for (const widget of marked.keys()) clear(widget)
}

function tell(node, { type, details, extra_info: about }) {
  const widget = ours(node, about?.input_name)
  if (!widget || type !== 'custom_validation_failed') return
  const reason = details.replace(`${widget.name} - `, '')
  if (!marked.has(widget)) after(widget, 'callback', (value) => cleared(widget, value))
  const away = tellError(app.extensionManager?.toast, `${node.title}: ${calledOf(widget)}`, reason, SECONDS)
  marked.set(widget, { value: widget.value, away })
  mark(widget, { column: 0, length: 0, reason })
  node.graph.setDirtyCanvas(true, true)
}

function cleared(widget, value) {
  if (marked.has(widget) && value !== marked.get(widget).value) clear(widget)
}

function clear(widget) {
  marked.get(widget).away()
  marked.delete(widget)
  mark(widget, null)
}
