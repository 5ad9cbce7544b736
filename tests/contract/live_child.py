"""Look at live masks on ComfyUI's page: `python live_child.py CHROMIUM URL RENDERER REGIONS WORDS`.

It runs in ComfyUI's environment, for its playwright, with this pack to import. The last two are workflows of the page
with two Region by Word and with a Word Mask by Word. Prints as JSON what was seen: `regions` (what came with each step,
and what each node then said), `shown` (both nodes after the run), `cached` (after the page was loaded anew),
`batch` (two pictures and a second pass), `renamed` (a node with another title, a run that is interrupted, and one whose
node is taken away), `late` (a run that is faster than the answer on the one before), `hints` (what a node says
before any run, of a moved threshold and of another word), `script` (messages of a run that no page sent) and `errors`
of the console.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from attention_patchbay.tests.contract.page_child import FRAMES, LOAD, PROMPT, READY, RUN, opened, shot
from attention_patchbay.tests.contract.surprises_child import GO, SET, rest
from playwright.sync_api import Page, sync_playwright

REGION, WORDS, SAMPLER = "PatchbayLiveRegion", "PatchbayLiveWordMask", "KSampler"
OF = """(node) => node.widgets.find(({ name }) => name === 'patchbay_live_mask').element"""
# What comes in each step, and what its node says then.
LISTEN = f"""() => {{
  const of = {OF}
  window.masks = []
  if (window.listens) return
  window.listens = true
  app.api.addEventListener('patchbay.attention', ({{ detail }}) => {{
    const {{ node, step, since, covers, labels, images, pictures }} = detail
    const found = app.graph.getNodeById(Number(node))
    const told = found && of(found).querySelector('[role=status]').textContent
    window.masks.push({{ node, step, since, covers, labels, images: images.length, pictures, told }})
    window.each?.(detail)
  }})
}}"""
SEEN = "() => window.masks"
SHOWN = f"""(type) => {{
  const of = {OF}
  return app.graph.nodes.filter((node) => node.type === type).sort((a, b) => a.id - b.id).map((node) => {{
    const element = of(node)
    const canvas = element.querySelector('canvas')
    const {{ width, height }} = canvas.getBoundingClientRect()
    const pen = canvas.getContext('2d')
    const light = canvas.width ? [...pen.getImageData(0, 0, canvas.width, canvas.height).data] : []
    const colours = new Set(light.filter((_, i) => i % 4 === 0)).size
    const buttons = [...element.querySelectorAll('button')].map((one) => one.textContent)
    const told = element.querySelector('[role=status]').textContent
    return {{ told, size: [canvas.width, canvas.height], box: [width, height], colours, buttons }}
  }})
}}"""
ALL = """() => {
  app.canvas.ds.scale = 0.75
  app.canvas.ds.offset = [-250, 40]
  app.canvas.setDirty(true, true)
}"""
STEPS = """(steps) => {
  const { widgets } = app.graph.nodes.find((node) => node.type === 'KSampler')
  widgets.find(({ name }) => name === 'steps').value = steps
}"""
AT = """([step, what]) => {
  const [node] = app.graph.nodes.filter((node) => node.type === 'PatchbayLiveWordMask')
  window.each = (detail) => {
    if (detail.step < step) return
    window.each = null
    if (what === 'rename') node.title = 'A circle'
    if (what === 'remove') app.graph.remove(node)
    if (what === 'interrupt') app.api.interrupt(null)
  }
}"""
RUN_TO_AN_END = """async () => {
  const end = new Promise((done) => {
    const names = ['execution_success', 'execution_error', 'execution_interrupted']
    for (const name of names) app.api.addEventListener(name, () => done(name))
  })
  return (await app.queuePrompt(0, 1)) === false ? 'refused' : await end
}"""
# A second sampler behind the first, on the same model, with twice the pixels.
SECOND = """() => {
  const find = (type) => app.graph.nodes.find((node) => node.type === type)
  const sampler = find('KSampler')
  const second = window.LiteGraph.createNode('KSampler')
  const larger = window.LiteGraph.createNode('LatentUpscaleBy')
  for (const node of [second, larger]) app.graph.add(node)
  larger.widgets.find(({ name }) => name === 'scale_by').value = 2
  const value = { steps: 3, seed: 3, cfg: 4, denoise: 0.6, sampler_name: 'euler', scheduler: 'normal' }
  for (const widget of second.widgets) if (widget.name in value) widget.value = value[widget.name]
  sampler.connect(0, larger, 0)
  larger.connect(0, second, second.findInputSlot('latent_image'))
  for (const name of ['model', 'positive', 'negative']) {
    const link = app.graph.getLink(sampler.inputs[sampler.findInputSlot(name)].link)
    app.graph.getNodeById(link.origin_id).connect(link.origin_slot, second, second.findInputSlot(name))
  }
  const decode = find('VAEDecode')
  second.connect(0, decode, 0)
  const shown = /Report|LiveMasks|Compare|Preview/
  for (const node of app.graph.nodes.filter(({ type }) => shown.test(type))) app.graph.remove(node)
}"""
# The answer on what an earlier run showed a node comes late.
HOLD = """() => {
  const { api } = app
  const ask = api.fetchApi
  const held = new Promise((done) => { window.answer = done })
  api.fetchApi = async (path, ...others) => {
    const answer = await ask.call(api, path, ...others)
    if (!path.startsWith('/patchbay/attention?node')) return answer
    api.fetchApi = ask
    window.late = (await answer.clone().json()).length
    await held
    return answer
  }
}"""
# The node anew, as of a page that has seen no run.
FORGET = """(type) => {
  const old = app.graph.nodes.find((node) => node.type === type)
  const fresh = window.LiteGraph.createNode(type)
  app.graph.add(fresh)
  fresh.pos = [...old.pos]
  for (const [i, { name, value }] of old.widgets.entries()) {
    if (!name.startsWith('patchbay_')) fresh.widgets[i].value = value
  }
  for (const [i, { link }] of old.inputs.entries()) {
    const from = link && app.graph.getLink(link)
    if (from) app.graph.getNodeById(from.origin_id).connect(from.origin_slot, fresh, i)
  }
  for (const id of [...old.outputs[0].links]) {
    const { target_id, target_slot } = app.graph.getLink(id)
    fresh.connect(0, app.graph.getNodeById(target_id), target_slot)
  }
  app.graph.remove(old)
}"""
COPY = f"""(type) => {{
  const of = {OF}
  const buttons = [...of(app.graph.nodes.find((node) => node.type === type)).querySelectorAll('button')]
  buttons.find((one) => one.textContent === 'copy mask').click()
}}"""
# The part of the drawn picture that is nearly black: what is outside of the mask.
DARK = f"""(type) => {{
  const of = {OF}
  const canvas = of(app.graph.nodes.find((node) => node.type === type)).querySelector('canvas')
  const {{ data }} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
  let dark = 0
  for (let i = 0; i < data.length; i += 4) dark += Math.max(data[i], data[i + 1], data[i + 2]) < 72
  return dark / (data.length / 4)
}}"""
NARROW = """(type) => {
  const node = app.graph.nodes.find((node) => node.type === type)
  node.setSize([200, node.size[1] + 60])
  app.canvas.setDirty(true, true)
}"""
# How many lines of a node's text lie out of sight, and whether all of it is told on hovering.
CUT = f"""(type) => {{
  const of = {OF}
  const status = of(app.graph.nodes.find((node) => node.type === type)).querySelector('[role=status]')
  const lines = status.parentElement
  return [lines.scrollWidth - lines.clientWidth, lines.title === status.textContent]
}}"""
SCRIPT = """async (prompt) => {
  window.masks = []
  const sampler = Object.values(prompt).find((node) => node.class_type === 'KSampler')
  sampler.inputs.seed = 977
  const end = new Promise((done) => {
    for (const name of ['execution_success', 'execution_error']) app.api.addEventListener(name, () => done(name))
  })
  const body = JSON.stringify({ prompt, client_id: app.api.clientId })
  await app.api.fetchApi('/prompt', { method: 'POST', body, headers: { 'Content-Type': 'application/json' } })
  return [await end, window.masks.length]
}"""


def regions(page: Page, path: str) -> dict[str, Any]:
    """Run two regions by a word each, and open the workflow again on a page loaded anew."""
    page.evaluate(LOAD, json.loads(Path(path).read_text()))
    page.evaluate(FRAMES, 20)
    page.evaluate(ALL)
    rest(page)
    waiting = page.evaluate(SHOWN, REGION)
    shot(page, "live waiting")
    page.evaluate(LISTEN)
    seen: dict[str, Any] = {"waiting": waiting, "status": page.evaluate(RUN)}
    rest(page)
    shot(page, "live regions")
    seen |= {"regions": page.evaluate(SEEN), "shown": page.evaluate(SHOWN, REGION)}
    seen["again"] = reopened(page, REGION)
    return seen


def reopened(page: Page, of: str) -> Any:
    """Load the page anew and return what nodes show."""
    page.reload()
    page.wait_for_function(READY, timeout=120_000)
    rest(page)
    return page.evaluate(SHOWN, of)


def batch(page: Page, path: str) -> dict[str, Any]:
    """Run two pictures, and a second pass behind them."""
    load_words(page, path)
    page.evaluate(SET, ["EmptyLatentImage", "batch_size", 2])
    page.evaluate(STEPS, 4)
    page.evaluate(SECOND)
    page.evaluate(LISTEN)
    status = page.evaluate(RUN)
    rest(page)
    shot(page, "live batch")
    return {"status": status, "live": page.evaluate(SEEN), "shown": page.evaluate(SHOWN, WORDS)}


def load_words(page: Page, path: str) -> None:
    """Open the workflow of Word Mask by Word with that node in view."""
    page.evaluate(LOAD, json.loads(Path(path).read_text()))
    page.evaluate(FRAMES, 20)
    page.evaluate(GO, WORDS)
    rest(page)


def change(page: Page, path: str) -> dict[str, Any]:
    """Rename a node, interrupt its run, and take it away, each while it runs."""
    seen: dict[str, Any] = {}
    for what, seed in (("rename", 21), ("interrupt", 22), ("remove", 23)):
        load_words(page, path)
        page.evaluate(SET, [SAMPLER, "seed", seed])
        page.evaluate(STEPS, 60 if what == "interrupt" else 6)
        page.evaluate(LISTEN)
        page.evaluate(AT, [3, what])
        status = page.evaluate(RUN_TO_AN_END)
        rest(page)
        shot(page, f"live {what}")
        seen[what] = {"status": status, "live": page.evaluate(SEEN), "shown": page.evaluate(SHOWN, WORDS)}
        if what == "interrupt":
            seen[what]["again"] = reopened(page, WORDS)
    return seen


def late(page: Page, path: str) -> dict[str, Any]:
    """Open the workflow and run it, with what is cached, before the page knows what an earlier run showed."""
    load_words(page, path)
    page.evaluate(HOLD)
    page.evaluate(SET, [SAMPLER, "seed", 24])
    page.evaluate(STEPS, 4)
    status = page.evaluate(RUN)
    page.evaluate("() => window.answer()")
    rest(page)
    return {"status": status, "late": page.evaluate("() => window.late"), "shown": page.evaluate(SHOWN, WORDS)}


def hints(page: Page, path: str) -> dict[str, Any]:
    """Ask for a mask before any run, then move the threshold and change the word of one."""
    load_words(page, path)
    page.evaluate(FORGET, WORDS)
    page.evaluate(COPY, WORDS)
    before = page.evaluate(SHOWN, WORDS)[0]["told"]
    page.evaluate(SET, [SAMPLER, "seed", 31])
    page.evaluate(STEPS, 6)
    seen: dict[str, Any] = {"before": before, "status": page.evaluate(RUN)}
    rest(page)
    shot(page, "live hints run")
    seen["run"] = page.evaluate(SHOWN, WORDS)[0]["told"]
    seen["dark"] = page.evaluate(DARK, WORDS)
    page.evaluate(SET, [WORDS, "threshold", 0.1])
    seen["threshold"] = page.evaluate(SHOWN, WORDS)[0]["told"]
    seen["less dark"] = page.evaluate(DARK, WORDS)
    shot(page, "live hints threshold")
    page.evaluate(SET, [WORDS, "word", "square"])
    page.evaluate(NARROW, WORDS)
    rest(page)
    seen["word"] = page.evaluate(SHOWN, WORDS)[0]["told"]
    seen["cut"] = page.evaluate(CUT, WORDS)
    shot(page, "live hints word")
    return seen


def main(chromium: str, url: str, renderer: str, example: str, words: str) -> None:
    """Set the page up and print what was seen."""
    errors: list[str] = []
    with sync_playwright() as playwright:
        page = opened(playwright, chromium, url, renderer, errors)
        seen = {**regions(page, example), "batch": batch(page, words), "changed": change(page, words)}
        seen["late"] = late(page, words)
        seen["hints"] = hints(page, words)
        load_words(page, words)
        page.evaluate(LISTEN)
        seen["script"] = page.evaluate(SCRIPT, page.evaluate(PROMPT))
        page.context.close()
    json.dump({**seen, "errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
