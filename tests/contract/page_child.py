"""Open ComfyUI's page with the example workflows: `python page_child.py CHROMIUM URL RENDERER FOLDER`.

RENDERER is `classic` or `vue`. It runs in ComfyUI's environment, for its playwright, and prints as JSON: `api` (each
example as the page would send it), `boxes` (the nodes of each on the screen), `status` and `report` of a run of the
last one, `map` (the address after each thing done on the block map, and the blocks it shows as chosen), `rules` (what
the rule editor shows while a rule is written) and `errors` of the console.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Page, sync_playwright

READY = "() => window.app?.isGraphReady && app.canvas?.canvas && app.extensionManager?.spinner === false"
FRAMES = "n => new Promise(done => { const next = () => (n-- ? requestAnimationFrame(next) : done()); next() })"
LOAD = "ui => app.loadGraphData(ui)"
PROMPT = "async () => (await app.graphToPrompt()).output"
# Every node in pixels of the graph: in Nodes 2.0 its element, else what litegraph draws.
BOXES = """() => app.graph.nodes.map((node) => {
  const element = document.querySelector(`[data-node-id="${node.id}"]`)
  const { scale } = app.canvas.ds
  const [width, height] = element
    ? [element.getBoundingClientRect().width / scale, element.getBoundingClientRect().height / scale - 30]
    : node.size
  return [node.pos[0], node.pos[1], width, height]
})"""
RUN = """async () => {
  const end = new Promise((done) => {
    for (const name of ['execution_success', 'execution_error']) app.api.addEventListener(name, () => done(name))
  })
  return (await app.queuePrompt(0, 1)) === false ? 'refused' : await end
}"""
REPORT = """() => {
  const { element } = app.graph.nodes.find((node) => node.type === 'PatchbayPatchReport').widgets.at(-1)
  const { width, height } = element.getBoundingClientRect()
  const { scale } = app.canvas.ds
  return { text: element.textContent, width: width / scale, height: height / scale }
}"""

ADDRESS = """() => {
  const node = app.graph.nodes.find((node) => node.type === 'PatchbayBlockMap')
  const chosen = [...document.querySelectorAll('[data-block][aria-checked="true"]')]
  return [node.widgets.find((widget) => widget.name === 'blocks').value, chosen.map((cell) => cell.dataset.block)]
}"""
WRITE = """text => {
  const node = app.graph.nodes.find((node) => node.type === 'PatchbayBlockMap')
  const widget = node.widgets.find((widget) => widget.name === 'blocks')
  widget.value = text
  widget.callback(text)
}"""


def cell(page: Page, name: str) -> tuple[float, float]:
    """Return the middle of a block on the screen."""
    box = page.locator(f'[data-block="{name}"]').bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def choose(page: Page, example: Path) -> dict[str, Any]:
    """Use the block map with mouse, keyboard and text; return the address and the chosen blocks after each."""
    page.evaluate(LOAD, json.loads(example.read_text()))
    seen = {"status": page.evaluate(RUN)}
    page.locator('[data-block="middle"]').wait_for(timeout=30_000)
    seen["loaded"] = page.evaluate(ADDRESS)
    page.mouse.move(*cell(page, "output:2"))
    page.mouse.down()
    page.mouse.move(*cell(page, "output:3"), steps=5)
    page.mouse.up()
    page.mouse.move(*cell(page, "input:3"), steps=5)
    seen["dragged"] = page.evaluate(ADDRESS)
    page.locator('[data-block="middle"]').click()
    seen["clicked"] = page.evaluate(ADDRESS)
    page.locator('[data-block="input:5"]').focus()
    page.keyboard.press("Space")
    seen["pressed"] = page.evaluate(ADDRESS)
    page.evaluate(WRITE, "input self")
    seen["written"] = page.evaluate(ADDRESS)
    page.locator('[data-block="input:3"]').click()
    seen["kept"] = page.evaluate(ADDRESS)
    sent = page.evaluate(PROMPT)
    seen["sent"] = [node["inputs"]["blocks"] for node in sent.values() if node["class_type"] == "PatchbayBlockMap"]
    return seen


FOCUS = """() => {
  const node = app.graph.nodes.find((node) => node.type === 'PatchbayBackendRules')
  const { value } = node.widgets.find((widget) => widget.name === 'rules')
  const field = [...document.querySelectorAll('textarea')].find((field) => field.value === value)
  field.focus()
  field.setSelectionRange(value.length, value.length)
}"""
EDITOR = """() => {
  const node = app.graph.nodes.find((node) => node.type === 'PatchbayBackendRules')
  const { element } = node.widgets.find((widget) => widget.name === 'patchbay_rules')
  const chips = [...element.querySelectorAll('button')].map((chip) => chip.textContent)
  const text = node.widgets.find((widget) => widget.name === 'rules').value
  return { text, chips, lines: [...element.lastChild.children].map((line) => line.textContent) }
}"""


def edit(page: Page, example: Path) -> dict[str, Any]:
    """Write a rule with the keyboard and by suggestions; return what the editor shows after each."""
    page.evaluate(LOAD, json.loads(example.read_text()))
    page.get_by_role("button", name="sage3").or_(page.locator("[role=status]")).first.wait_for(timeout=30_000)
    page.evaluate(FOCUS)
    page.keyboard.type("; mid")
    seen = {"begun": page.evaluate(EDITOR)}
    page.get_by_role("button", name="middle", exact=True).click()
    page.keyboard.type(" -> xform")
    seen["wrong"] = page.evaluate(EDITOR)
    for _ in "orm":
        page.keyboard.press("Backspace")
    page.evaluate(FRAMES, 5)
    page.get_by_role("button", name="xformers", exact=True).click()
    return seen | {"chosen": page.evaluate(EDITOR)}


def visit(page: Page, url: str, examples: list[Path]) -> dict[str, Any]:
    """Load every example into the page, run the last one, and return what was seen."""
    seen: dict[str, Any] = {"api": {}, "boxes": {}}
    page.goto(url)
    page.wait_for_function(READY, timeout=120_000)
    for path in examples:
        page.evaluate(LOAD, json.loads(path.read_text()))
        page.evaluate(FRAMES, 20)
        seen["api"][path.stem] = page.evaluate(PROMPT)
        seen["boxes"][path.stem] = page.evaluate(BOXES)
    seen["status"] = page.evaluate(RUN)
    page.evaluate(FRAMES, 20)
    (map_example,) = [path for path in examples if path.stem == "block_map"]
    (rules_example,) = [path for path in examples if path.stem == "backend_rules"]
    seen["report"] = page.evaluate(REPORT)
    return seen | {"map": choose(page, map_example), "rules": edit(page, rules_example)}


def main(chromium: str, url: str, renderer: str, folder: str) -> None:
    """Set the page up and print what was seen."""
    settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": renderer == "vue"}
    request = urllib.request.Request(
        f"{url}/api/settings", json.dumps(settings).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()
    errors: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and "/extensions/" in (message.location or {}).get("url", ""):
            errors.append(message.text)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.on("console", note)
        page.on("pageerror", lambda error: errors.append(str(error)))
        seen = visit(page, url, sorted(Path(folder).glob("*.json")))
        browser.close()
    json.dump(seen | {"errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
