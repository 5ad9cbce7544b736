"""Look at attention maps on ComfyUI's page: `python viewer_child.py CHROMIUM URL RENDERER EXAMPLE`.

It runs in ComfyUI's environment, for its playwright, with this pack to import, and prints as JSON what was seen:
`live` (what came with each step), `rest` (a word that nobody captured), `copied` (the mask on the clipboard), `added`
(nodes for masks, from the maps and from the capture, undone and run), `frames` (a video) and `errors`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from attention_patchbay.tests.contract.looks_child import load
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
  return [step, others.labels, [image.naturalWidth, image.naturalHeight]]
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


def add(page: Page, example: str) -> dict[str, Any]:
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


def main(chromium: str, url: str, renderer: str, example: str) -> None:
    """Set the page up and print what was seen."""
    errors: list[str] = []
    with sync_playwright() as playwright:
        page = opened(playwright, chromium, url, renderer, errors)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        seen = {**see(page, example), "added": add(page, example), "frames": play(page)}
        page.context.close()
    json.dump({**seen, "errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
