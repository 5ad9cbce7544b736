"""Look at attention maps on ComfyUI's page: `python viewer_child.py CHROMIUM URL RENDERER MAPS REPORT`.

It runs in ComfyUI's environment, for its playwright, with this pack to import, and prints as JSON what was seen:
`live` (what came with each step), `rest` (a word that nobody captured), `copied` (the mask on the clipboard), `added`
(nodes for masks, from the maps and from the capture, undone and run), `frames` (a video), `contrast` (of the report, by
palette) and `errors`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from attention_patchbay.tests.contract.looks_child import REPORT, load
from attention_patchbay.tests.contract.page_child import COMMAND, RUN, VIEW, opened, shot
from attention_patchbay.tests.contract.surprises_child import rest
from playwright.sync_api import Page, sync_playwright

MAPS, CAPTURE = "PatchbayAttentionMaps", "PatchbayCaptureAttention"
FIND = """
  const [node] = app.graph.nodes.filter((node) => node.type === type).sort((a, b) => a.id - b.id)
  const { element } = node.widgets.find((widget) => widget.name === 'patchbay_attention')
"""
LISTEN = """() => {
  window.steps = []
  app.api.addEventListener('patchbay.attention', ({ detail }) => window.steps.push(detail))
}"""
LIVE = """() => Promise.all(window.steps.map(async ({ step, others, images }) => {
  const image = new Image()
  image.src = images[0]
  await image.decode()
  const canvas = Object.assign(document.createElement('canvas'), { width: 16, height: 16 })
  const pen = canvas.getContext('2d')
  pen.drawImage(image, 0, 0)
  return [step, others.labels, [image.naturalWidth, image.naturalHeight], pen.getImageData(8, 14, 1, 1).data[0]]
}))"""
POINT = f"""([type, word]) => {{ {FIND}
  const every = [...element.querySelectorAll('button')]
  every.find((one) => one.textContent === word).dispatchEvent(new Event('pointerenter'))
}}"""
PRESS = f"""([type, name]) => {{ {FIND}
  const every = [...element.querySelectorAll('button')]
  every.find((one) => one.textContent === name).click()
}}"""
TOLD = f"(type) => {{ {FIND} return element.querySelector('[role=status]').textContent }}"
REST = f"""(type) => {{ {FIND}
  const every = [...element.querySelectorAll('[aria-label="Other words of the prompt"] button')]
  return every.map((one) => [one.textContent, one.getAttribute('aria-pressed')])
}}"""
CLIPBOARD = """async () => {
  const [item] = await navigator.clipboard.read()
  const bitmap = await createImageBitmap(await item.getType('image/png'))
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height)
  const pen = canvas.getContext('2d')
  pen.drawImage(bitmap, 0, 0)
  const { data } = pen.getImageData(0, 0, bitmap.width, bitmap.height)
  const values = [...new Set(data.filter((_, i) => i % 4 === 0))].sort((a, b) => a - b)
  const at = (x, y) => data[4 * (Math.floor(y * bitmap.height) * bitmap.width + Math.floor(x * bitmap.width))]
  return { size: [bitmap.width, bitmap.height], values, left: at(0.25, 0.5), right: at(0.75, 0.5) }
}"""
NODES = """() => app.graph.nodes.filter(({ type }) => type === 'PatchbayAttentionMaps').sort((a, b) => a.id - b.id).map(
  (node) => [
  node.title, node.widgets.find(({ name }) => name === 'word').value, node.inputs.map(({ link }) => link !== null)
])"""
WORDS = """() => app.graph.nodes.find(({ type }) => type === 'PatchbayCaptureAttention')
  .widgets.find(({ name }) => name === 'words').value"""
# Three frames of a map whose highest value moves from left to right.
# The lowest contrast of texts, and of edges of buttons, with what lies below them.
CONTRAST = """(type) => {
  const node = app.graph.nodes.find((node) => node.type === type)
  const { element } = node.widgets.find((widget) => widget.element?.dataset.patchbayView)
  const pen = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d', {
    willReadFrequently: true
  })
  const light = (...colours) => {
    for (const colour of colours) Object.assign(pen, { fillStyle: colour }).fillRect(0, 0, 1, 1)
    const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map((value) => {
      const part = value / 255
      return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
    })
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const below = getComputedStyle(element).backgroundColor
  const apart = (colour) => {
    const [high, low] = [light(below, colour), light(below)].sort((a, b) => b - a)
    return (high + 0.05) / (low + 0.05)
  }
  const every = [...element.querySelectorAll('*')]
  const texts = every.filter((one) => [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
  const edges = every.filter((one) => one.tagName === 'BUTTON' && getComputedStyle(one).borderStyle !== 'none')
  return [
    Math.min(...texts.map((one) => apart(getComputedStyle(one).color))),
    Math.min(...edges.map((one) => apart(getComputedStyle(one).borderTopColor)))
  ]
}"""
VIDEO = f"""(type) => {{ {FIND}
  const maps = btoa(String.fromCharCode(255, 0, 0, 0, 255, 0, 0, 0, 255))
  const layer = {{ labels: ['cat'], pictures: 3, height: 1, width: 3, low: [[0, 0, 0]], high: [[0.1, 0.2, 0.3]], maps }}
  const detail = {{ ...layer, words: 1, others: null, frames: 3, shown: [1, 2, 3], images: [], step: 4 }}
  app.api.dispatchCustomEvent('patchbay.attention', {{ ...detail, node: String(node.id) }})
}}"""
FRAME = f"""([type, value]) => {{ {FIND}
  const slider = element.querySelector('input[type=range]')
  slider.value = value
  slider.dispatchEvent(new Event('input'))
  const canvas = element.querySelector('canvas')
  const pen = canvas.getContext('2d')
  const column = (x) => [...pen.getImageData(x * canvas.width, canvas.height / 2, 1, 1).data].slice(0, 3)
  return [slider.parentElement.textContent, column(0.05), column(0.5), column(0.95)]
}}"""


def see(page: Page, example: str) -> dict[str, Any]:
    """Run the example, and do with its maps what a person does."""
    load(page, example, MAPS)
    page.evaluate(LISTEN)
    seen: dict[str, Any] = {"status": page.evaluate(RUN)}
    rest(page)
    shot(page, "maps")
    seen["live"] = page.evaluate(LIVE)
    page.evaluate(POINT, [MAPS, "left"])
    seen["rest"] = [page.evaluate(REST, MAPS), page.evaluate(VIEW, MAPS)["labels"]]
    shot(page, "rest")
    page.evaluate(POINT, [MAPS, "circle"])
    page.evaluate(PRESS, [MAPS, "copy mask"])
    rest(page)
    seen["copied"] = [page.evaluate(VIEW, MAPS)["status"], page.evaluate(CLIPBOARD)]
    return seen


def add(page: Page) -> dict[str, Any]:
    """Add masks of a captured and of another word, undo and redo the second, and run them."""
    page.evaluate(PRESS, [MAPS, "mask node"])
    rest(page)
    seen: dict[str, Any] = {"maps": [page.evaluate(NODES), page.evaluate(TOLD, MAPS)]}
    page.evaluate(POINT, [CAPTURE, "left"])
    page.evaluate(PRESS, [CAPTURE, "mask node"])
    rest(page)
    seen["capture"] = [page.evaluate(NODES), page.evaluate(WORDS), page.evaluate(TOLD, CAPTURE)]
    page.evaluate(COMMAND, "Comfy.Undo")
    rest(page)
    seen["undone"] = [page.evaluate(NODES), page.evaluate(WORDS)]
    page.evaluate(COMMAND, "Comfy.Redo")
    rest(page)
    shot(page, "mask nodes")
    seen["status"] = page.evaluate(RUN)
    rest(page)
    shot(page, "mask nodes run")
    return seen


def play(page: Page) -> list[Any]:
    """Show a video in the capture, and move its slider."""
    page.evaluate(VIDEO, CAPTURE)
    return [page.evaluate(FRAME, [CAPTURE, str(frame)]) for frame in (0, 2)]


def contrasts(page: Page, report: str) -> dict[str, list[float]]:
    """Run the example of the report, and measure it on each palette."""
    load(page, report, REPORT)
    page.evaluate(RUN)
    seen = {}
    for palette in ("light", "dark"):
        page.evaluate("(name) => app.extensionManager.setting.set('Comfy.ColorPalette', name)", palette)
        rest(page)
        seen[palette] = page.evaluate(CONTRAST, REPORT)
        shot(page, f"report {palette}")
    return seen


def main(chromium: str, url: str, renderer: str, example: str, report: str) -> None:
    """Set the page up and print what was seen."""
    errors: list[str] = []
    with sync_playwright() as playwright:
        page = opened(playwright, chromium, url, renderer, errors)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        seen = {**see(page, example), "added": add(page), "frames": play(page), "contrast": contrasts(page, report)}
        page.context.close()
    json.dump({**seen, "errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
