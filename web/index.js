// What nodes show in themselves and offer for their widgets. Nothing of it is saved or sent to the server: the texts are.
import { app } from '../../scripts/app.js'
import { AreasView } from './areas_view.js'
import { AttentionView } from './attention_view.js'
import { BlockMapView } from './block_map.js'
import { share } from './canvas_events.js'
import { mark } from './fault_line.js'
import { CompareView } from './compare_view.js'
import { curveFault, fault, pointsFault } from './faults.js'
import { framesFault } from './frames.js'
import { after, graphs, latentSize, linkedFrom, modelOf, ours, relatives, textOf, upstream, valueOf, widgetOf, write } from './graph.js'
import { InspectorView } from './inspector_view.js'
import { LoraEditor } from './lora_editor.js'
import { read as loraRulesIn } from './lora_rules.js'
import { LiveMaskView } from './live_mask_view.js'
import { addMask, linksOf } from './mask_node.js'
import { commands, panelsOf, refreshPanel } from './panels.js'
import { pointsOf, toggled } from './points.js'
import { forget, showRefusals } from './refusals.js'
import { ReportView } from './report_view.js'
import { ENDINGS, beginRun, hearStep, lastPicture, restore, show, showAll, showCached, showTab, sidebar, stopRun, texts, views } from './results.js'
import { RuleEditor } from './rule_editor.js'
import { read as rulesIn } from './rules.js'
import { SharesView } from './shares_view.js'
import { TextView } from './text_view.js'
import { say, speak } from './say.js'

// Displays

// A view of a text widget: made with functions that read it, write it and say where it is linked from, told of each change.
function watch(node, name, View) {
  const widget = widgetOf(node, name)
  const store = (text, goesOn) => write(node, widget, text, goesOn)
  const view = new View(() => textOf(node, name), store, () => linkedFrom(node, name))
  after(widget, 'callback', () => view.refresh())
  after(node, 'onConfigure', () => view.refresh()) // the saved text comes without a callback
  views.set(node, view)
  return view
}

const setting = (id) => app.extensionManager?.setting?.get?.(id)

function addView(node, name, view, height) {
  const options = { serialize: false, hideOnZoom: true, hideInPanel: true, getValue: () => '', setValue: () => {}, getMinHeight: () => height }
  view.element.dataset.patchbayView = name
  node.addDOMWidget(name, name, view.element, options).serialize = false
  share(view.element, () => app.canvas, () => setting('LiteGraph.Pointer.TrackpadGestures'), () => setting('Comfy.VueNodes.Enabled'))
}

function addText(node, view) {
  addView(node, 'patchbay_report', view, 240)
  texts.set(node, view)
  node.setSize([760, 440])
}

function addShares(node) {
  const view = new SharesView(say('Run the workflow to see what each word got and brought.'))
  addView(node, 'patchbay_shares', view, 160)
  texts.set(node, view)
  node.setSize([380, 360])
}

function addMap(node) {
  addView(node, 'patchbay_map', watch(node, 'blocks', BlockMapView), 240)
  node.setSize([430, 560])
}

function addRules(node) {
  const view = watch(node, 'rules', RuleEditor)
  addView(node, 'patchbay_rules', view, 120)
  node.setSize([400, 340])
  backends().then((names) => view.know(names))
}

function addLora(node) {
  addView(node, 'patchbay_rules', watch(node, 'rules', LoraEditor), 140)
  for (const name of ['lora_name', 'strength']) after(widgetOf(node, name), 'callback', checkSoon)
  node.setSize([420, 440])
}

const norms = new Map() // of LoRA files, by their names
// The relative norm of what a LoRA adds to each block; asked once a page, and again where there was none.
function normsOf(file) {
  if (!norms.has(file)) {
    const asked = app.api
      .fetchApi(`/patchbay/lora?${new URLSearchParams({ file })}`)
      .then((answer) => answer.json())
      .then((answer) => answer.norms ?? null)
      .catch(() => null)
    norms.set(file, asked)
    asked.then((found) => found || norms.delete(file))
  }
  return norms.get(file)
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

function addAttention(node, waiting) {
  const number = (name, otherwise) => {
    const value = valueOf(node, name) ?? widgetOf(node, name)?.value
    return typeof value === 'number' ? value : otherwise
  }
  const view = new AttentionView(waiting, {
    points: () => pointsOf(pointsWidget(node)?.value ?? ''),
    ask: (at, near) => ask(node, at, near),
    opacity: () => number('opacity', 0.5),
    threshold: () => number('threshold', 0),
    add: (word, isCaptured, threshold) => addWordMask(node, word, isCaptured, threshold)
  })
  views.set(node, view)
  addView(node, 'patchbay_attention', view, 320)
  for (const name of ['opacity', 'threshold']) if (widgetOf(node, name)) after(widgetOf(node, name), 'callback', () => view.draw())
  if (widgetOf(node, 'points')) after(widgetOf(node, 'points'), 'callback', drawAttention)
  node.setSize([380, 620])
}

function addLiveMask(node) {
  const threshold = () => {
    const value = valueOf(node, 'threshold')
    if (typeof value !== 'number' || !value) return 0
    return textOf(node, 'against').trim() ? 0.5 : value // the line between two words
  }
  const view = new LiveMaskView(say('The mask of the word appears here while sampling.'), threshold, () => textOf(node, 'word'))
  views.set(node, view)
  addView(node, 'patchbay_live_mask', view, 220)
  for (const name of ['word', 'threshold', 'against']) after(widgetOf(node, name), 'callback', () => view.draw())
  node.setSize([320, node.computeSize()[1]])
}

const brushes = new Map() // what was chosen in the drawings of areas, which undo makes anew

function addAreas(node) {
  const widget = widgetOf(node, 'regions')
  const view = new AreasView({
    read: () => textOf(node, 'regions'),
    store: (text, goesOn) => write(node, widget, text, goesOn),
    linked: () => linkedFrom(node, 'regions'),
    size: () => latentSize(node),
    picture: lastPicture,
    soft: () => (typeof valueOf(node, 'soft') === 'number' ? valueOf(node, 'soft') : 0)
  })
  after(widgetOf(node, 'soft'), 'callback', () => view.draw())
  after(widget, 'callback', () => view.refresh())
  after(node, 'onConfigure', () => {
    const place = `${node.graph?.id} ${node.id}`
    brushes.set(place, (view.state = brushes.get(place) ?? view.state))
    view.refresh() // the saved text comes without a callback
  })
  after(node, 'onConnectionsChange', () => view.refresh())
  views.set(node, view)
  addView(node, 'patchbay_areas', view, 320)
  node.setSize([420, 820])
}

function addComparison(node) {
  const view = new CompareView(say('Run the workflow to see the picture with and without the patches.'))
  views.set(node, view)
  addView(node, 'patchbay_comparison', view, 320)
  node.setSize([380, 520])
}

// The points that a picture is asked for: those of the capture itself, or of the last one on the model that is shown.

const captureOf = (node) => [...upstream(node)].find((one) => one.comfyClass === 'PatchbayCaptureAttention')
const pointsWidget = (node) => captureOf(node) && widgetOf(captureOf(node), 'points')

const drawAll = (kind) => {
  for (const graph of graphs()) for (const node of graph.nodes) if (views.get(node) instanceof kind) views.get(node).draw()
}
const drawAttention = () => drawAll(AttentionView)
const drawAreas = () => drawAll(AreasView)

/** Ask for a point or take it back, and say what was done to which node. */
function ask(node, at, near) {
  const capture = captureOf(node)
  if (!capture) return say('No Capture Attention is on this model: nothing can be asked for.')
  const source = linkedFrom(capture, 'points')
  if (source) return say('The points of $1 come by a link from $2; write them there.', capture.title, source)
  const { text, point, added } = toggled(widgetOf(capture, 'points').value, at, near)
  write(capture, widgetOf(capture, 'points'), text)
  const count = pointsOf(text).length
  const told = added ? say('$1 asked for.', point.join(' ')) : say('$1 taken back.', point.join(' '))
  return `${told} ${say('Points of $1 on the next run: $2.', capture.title, count)}`
}

/** Add a node for the mask of a word and, where the word is not captured, the word to the capture; one step of undo. Say what was done. */
function addWordMask(node, word, isCaptured, threshold) {
  const links = linksOf(node)
  if (!links?.model || !links.latent) return say('No sampler was found behind this node: add Attention Maps by hand.')
  const capture = captureOf(node)
  const source = !isCaptured && linkedFrom(capture, 'words')
  if (source) return say('The words of $1 come by a link from $2; write $3 there first.', capture.title, source, word)
  app.canvas.emitBeforeChange?.()
  const made = addMask(node, word, threshold, (type) => window.LiteGraph.createNode(type), links)
  if (!isCaptured) {
    const words = widgetOf(capture, 'words')
    words.value = [words.value.trim().replace(/,$/, ''), word].filter(Boolean).join(', ')
  }
  app.canvas.emitAfterChange?.()
  return [say('$1 is added; its masks output gives it.', made.title), isCaptured ? '' : say('$1 captures $2 from the next run on.', capture.title, word)].join(' ').trim()
}

// Texts, read as they are typed; blocks are held against the model of their node

const FAULTS = { blocks: fault, map_blocks: fault, curve: curveFault, points: pointsFault, frames: framesFault }
const drawn = new WeakMap() // nodes with the name of the model that their map shows
const READ = [...Object.keys(FAULTS), 'rules']
const checked = (node) => READ.some((name) => ours(node, name))

// Nodes that take whole blocks, with or without attention, and the widgets that say so of others.
const WHOLE = ['PatchbayFreeU', 'PatchbayBlockScale']
const takesWhole = (node) => WHOLE.includes(node.comfyClass) || valueOf(node, 'kind') === 'block' || textOf(node, 'slot').startsWith('block.')

/** What a LoRA node chose, with its strengths and the norms of its file. */
async function loraOf(node) {
  const { rules, faults } = loraRulesIn(textOf(node, 'rules'))
  const [file, strength] = [valueOf(node, 'lora_name'), valueOf(node, 'strength')]
  const lora = { rules, factor: typeof strength === 'number' ? strength : 1, norms: file && file !== 'none' ? await normsOf(file) : null }
  return { title: node.title, addresses: rules.map(({ address }) => address || 'all'), whole: true, lora, fault: faults[0] }
}

/** What a node chose of its model, as a map shows it; nothing of one that chooses no blocks. */
async function otherOf(node) {
  if (node.comfyClass === 'PatchbayBlockMap') return []
  if (node.comfyClass === 'PatchbayLoraRules') return [await loraOf(node)]
  if (ours(node, 'rules')) {
    const { rules, faults } = rulesIn(textOf(node, 'rules'))
    return [{ title: node.title, addresses: rules.map(({ address }) => address || 'all'), whole: false, fault: faults[0] }]
  }
  return ours(node, 'blocks') ? [{ title: node.title, addresses: [textOf(node, 'blocks')], whole: takesWhole(node) }] : []
}

async function check(node) {
  const { name, layout } = await modelOf(node)
  if (!node.graph) return // it was taken away
  const view = views.get(node)
  view?.knowModel?.(layout)
  const fresh = node.comfyClass === 'PatchbayBlockMap' && layout && drawn.get(node) !== name
  if (fresh) view.show(layout)
  drawn.set(node, name)
  if (node.comfyClass === 'PatchbayBlockMap') view.know((await Promise.all(relatives(node).map(otherOf))).flat())
  for (const [name, read] of Object.entries(FAULTS)) {
    const widget = ours(node, name)
    if (widget) mark(widget, linkedFrom(node, name) ? null : read(widget.value, layout))
  }
  node.graph.setDirtyCanvas(true, true)
}

function checkAlways(node) {
  for (const name of READ) if (ours(node, name)) after(ours(node, name), 'callback', checkSoon)
  after(node, 'onConnectionsChange', checkSoon)
}

let waiting
// All nodes, once a graph that is being changed has come to rest.
function checkSoon() {
  clearTimeout(waiting)
  waiting = setTimeout(() => graphs().flatMap((graph) => graph.nodes).filter(checked).forEach(check), 100)
}

// The extension

const ADD = {
  PatchbayBlockMap: addMap,
  PatchbayBackendRules: addRules,
  PatchbayLoraRules: addLora,
  PatchbayPatchReport: (node) => addText(node, new ReportView(say('Run the workflow to see what the attention did.'))),
  PatchbayPatchInspector: (node) => addText(node, new InspectorView(say('Run the workflow to list what is on the model.'))),
  PatchbayDrawnRegions: addAreas,
  PatchbayCompare: addComparison,
  PatchbayCaptureAttention: (node) => addAttention(node, say('Maps of each step appear here while sampling. A click on one asks for the point.')),
  PatchbayLiveRegion: addLiveMask,
  PatchbayLiveWordMask: addLiveMask,
  PatchbayAttentionMaps: (node) => addAttention(node, say('Run the workflow to see which word drew what.')),
  PatchbayWordShares: addShares,
  PatchbayTuneAttention: (node) => addText(node, new TextView(say('Tuning'), say('Run the workflow to time the attention functions.')))
}

app.registerExtension({
  name: 'attention.patchbay',

  commands,

  async init() {
    const answer = await app.api.fetchApi('/i18n').catch(() => null)
    if (answer?.ok) speak(await answer.json(), setting('Comfy.Locale'))
  },

  getSelectionToolboxCommands: (item) => panelsOf(item).map(({ id }) => id),

  getNodeMenuItems: (node) => panelsOf(node).map(({ label, open }) => ({ content: say(label), callback: () => open(node) })),

  setup() {
    showRefusals()
    app.api.addEventListener('patchbay.attention', hearStep)
    app.api.addEventListener('execution_cached', showCached)
    app.api.addEventListener('execution_start', beginRun)
    for (const end of ENDINGS) app.api.addEventListener(end, stopRun)
    for (const act of [checkSoon, drawAttention, showTab]) app.api.addEventListener('graphChanged', act) // another loader, file, link or node
    app.api.addEventListener('executed', () => setTimeout(drawAreas)) // when the page has kept it
    app.extensionManager?.registerSidebarTab?.(sidebar())
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

  afterConfigureGraph() {
    forget()
    checkSoon()
    refreshPanel()
    restore()
  },

  onNodeOutputsUpdated(outputs) {
    showAll(outputs)
    drawAreas()
  }
})
