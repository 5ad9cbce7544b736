"""Open ComfyUI's page with the example workflows: `python page_child.py CHROMIUM URL RENDERER FOLDER`.

RENDERER is `classic` or `vue`. It runs in ComfyUI's environment, for its playwright, and prints as JSON: `api` (each
example as the page would send it), `boxes` (the nodes of each on the screen), `status` and `report` of a run of the
last one, `map` (the address after each thing done on the block map, and the blocks it shows as chosen), `rules` (what
the rule editor shows while a rule is written), `maps` (the viewer of attention maps, and the panels), `inspector` (its
tab), `carried` (undo, copy and subgraph) and `errors` of the console.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Page, Playwright, sync_playwright

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
  const whole = [...element.querySelectorAll('button')].find((button) => button.textContent === 'text')
  whole?.click()
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


def shot(page: Page, name: str) -> None:
    """Keep a picture of the page for a human to look at, where PATCHBAY_SCREENSHOTS names a folder."""
    if "PATCHBAY_SCREENSHOTS" in os.environ:
        page.screenshot(path=Path(os.environ["PATCHBAY_SCREENSHOTS"], f"{name}.png"))


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
    shot(page, "map")
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
    page.get_by_role("button", name="sage3").or_(page.locator("[role=status]:visible")).first.wait_for(timeout=30_000)
    page.evaluate(FOCUS)
    page.keyboard.type("; mid")
    seen = {"begun": page.evaluate(EDITOR)}
    page.get_by_role("button", name="middle", exact=True).click()
    page.keyboard.type(" -> xform")
    seen["wrong"] = page.evaluate(EDITOR)
    shot(page, "rules")
    for _ in "orm":
        page.keyboard.press("Backspace")
    page.evaluate(FRAMES, 5)
    page.get_by_role("button", name="xformers", exact=True).click()
    return seen | {"chosen": page.evaluate(EDITOR)}


WIDGETS = """() => Object.fromEntries(app.graph.nodes.flatMap((node) => node.type === 'PatchbayCaptureAttention'
  ? node.widgets.filter((widget) => widget.serialize !== false).map((widget) => [widget.name, widget.value]) : []))"""
VIEW = """type => {
  const node = app.graph.nodes.find((node) => node.type === type)
  const { element } = node.widgets.find((widget) => widget.name === 'patchbay_attention')
  const canvas = element.querySelector('canvas')
  const labels = [...element.querySelectorAll('[aria-label="Words and points"] [data-label]')]
  const pen = canvas.getContext('2d')
  const pixel = (x, y) => [...pen.getImageData(Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data]
  return {
    labels: labels.map((one) => [one.textContent, one.getAttribute('aria-pressed')]),
    status: element.querySelector('[role=status]').textContent,
    left: canvas.width && pixel(0.25, 0.5),
    right: canvas.width && pixel(0.75, 0.5),
    box: [canvas.getBoundingClientRect().width, canvas.getBoundingClientRect().height]
  }
}"""
SELECT = """type => {
  const node = app.graph.nodes.find((node) => node.type === type)
  app.canvas.deselectAll()
  app.canvas.select(node)
}"""
COMMAND = "id => app.extensionManager.command.execute(id)"
STEPS = """() => {
  window.steps = []
  app.api.addEventListener('patchbay.attention', ({ detail }) => window.steps.push([detail.step, detail.labels]))
}"""


def look(page: Page, example: Path) -> dict[str, Any]:
    """Run the example of the maps, point at words and places, and use the panels; return what was seen."""
    page.evaluate(LOAD, json.loads(example.read_text()))
    page.evaluate(STEPS)
    seen: dict[str, Any] = {"status": page.evaluate(RUN)}
    page.locator("[data-label='1']").last.wait_for(timeout=30_000)
    page.evaluate(FRAMES, 10)
    seen["steps"] = page.evaluate("window.steps")
    seen["live"] = page.evaluate(VIEW, "PatchbayCaptureAttention")
    for number, word in enumerate(("circle", "square")):
        page.locator(f"[data-label='{number}']").last.focus()
        page.evaluate(FRAMES, 5)
        seen[word] = page.evaluate(VIEW, "PatchbayAttentionMaps")
    canvas = page.locator("canvas[aria-roledescription=heatmap]").last
    canvas.focus()
    page.keyboard.press("ArrowRight")
    shot(page, "maps")
    seen["moved"] = page.evaluate(VIEW, "PatchbayAttentionMaps")["status"]
    page.keyboard.press("Enter")
    seen["asked"] = page.evaluate(WIDGETS)["points"]
    page.evaluate(SELECT, "PatchbayCaptureAttention")
    page.evaluate(COMMAND, "Patchbay.DrawCurve")
    page.get_by_role("button", name="linear", exact=True).click()
    page.locator("[data-point='1']").focus()
    page.keyboard.press("ArrowUp")
    seen["curve"] = page.evaluate(WIDGETS)["curve"]
    page.keyboard.press("Escape")
    page.evaluate(COMMAND, "Patchbay.ChooseBlocks")
    page.get_by_label("Model", exact=True).select_option("SD1.5")
    page.locator("[data-patchbay] [data-block='middle']").click()
    page.locator("[data-patchbay] [data-block='output:3']").click()
    seen["blocks"] = page.evaluate(WIDGETS)["blocks"]
    page.keyboard.press("Escape")
    seen["panels"] = page.locator("[data-patchbay]").count()
    saved = page.evaluate("() => app.rootGraph.serialize()")
    page.evaluate(LOAD, saved)
    page.evaluate(FRAMES, 10)
    return seen | {"reloaded": page.evaluate(WIDGETS)}


PASTE = """async () => {
  const node = app.graph.nodes.find((node) => node.type === 'PatchbayCaptureAttention')
  app.canvas.copyToClipboard(new Set([node]))
  app.canvas.pasteFromClipboard()
  const copy = app.graph.nodes.filter((other) => other.type === node.type && other !== node)
  const kept = copy[0].widgets.filter((widget) => widget.serialize !== false)
  const values = kept.map((widget) => [widget.name, widget.value])
  const views = copy[0].widgets.filter((widget) => widget.name === 'patchbay_attention').length
  copy.forEach((other) => app.graph.remove(other))
  return [copy.length, views, Object.fromEntries(values)]
}"""
WRAP = """() => {
  const node = app.graph.nodes.find((node) => node.type === 'PatchbayCaptureAttention')
  const { subgraph } = app.graph.convertToSubgraph(new Set([node]))
  window.inner = subgraph.nodes.find((node) => node.type === 'PatchbayCaptureAttention')
}"""
INNER = """() => window.inner.widgets.find((widget) => widget.name === 'patchbay_attention').element
  .querySelector('[role=status]').textContent"""
CURVE_OF = """() => app.graph.nodes.find((node) => node.type === 'PatchbayCaptureAttention')
  .widgets.find((widget) => widget.name === 'curve').value"""


def carry(page: Page, example: Path) -> dict[str, Any]:
    """Undo a curve, copy the node, and put it into a subgraph and run it there; return what was seen."""
    page.evaluate(LOAD, json.loads(example.read_text()))
    page.evaluate(FRAMES, 20)
    page.evaluate(SELECT, "PatchbayCaptureAttention")
    page.evaluate(COMMAND, "Patchbay.DrawCurve")
    page.get_by_role("button", name="linear", exact=True).click()
    page.keyboard.press("Escape")
    page.evaluate(FRAMES, 20)
    seen = {"drawn": page.evaluate(CURVE_OF)}
    page.evaluate(COMMAND, "Comfy.Undo")
    page.evaluate(FRAMES, 20)
    seen |= {"undone": page.evaluate(CURVE_OF), "pasted": page.evaluate(PASTE)}
    page.evaluate(WRAP)
    page.evaluate(FRAMES, 10)
    sent = page.evaluate(PROMPT).values()
    (seen["sent"],) = [node["inputs"] for node in sent if node["class_type"] == "PatchbayCaptureAttention"]
    return seen | {"status": page.evaluate(RUN), "inner": page.evaluate(INNER)}


def inspect(page: Page, example: Path) -> dict[str, Any]:
    """Run the example of the inspector and open its tab; return the rows of the table."""
    page.evaluate(LOAD, json.loads(example.read_text()))
    status = page.evaluate(RUN)
    page.evaluate(FRAMES, 10)
    page.evaluate(COMMAND, "Workspace.ToggleSidebarTab.patchbay-inspector")
    page.get_by_role("listitem").filter(has_text="ran").first.wait_for(timeout=30_000)
    rows = "() => [...document.querySelectorAll('li')].map((row) => [...row.children].map((line) => line.textContent))"
    seen = {"status": status, "rows": page.evaluate(rows)}
    shot(page, "inspector")
    page.evaluate(COMMAND, "Workspace.ToggleSidebarTab.patchbay-inspector")
    return seen


def visit(page: Page, examples: list[Path]) -> dict[str, Any]:
    """Load every example into the page, run the last one, and return what was seen."""
    seen: dict[str, Any] = {"api": {}, "boxes": {}}
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
    shot(page, "report")
    (maps_example,) = [path for path in examples if path.stem == "attention_maps_heatmap"]
    (inspector_example,) = [path for path in examples if path.stem == "patch_inspector"]
    seen |= {"map": choose(page, map_example), "rules": edit(page, rules_example)}
    seen |= {"maps": look(page, maps_example), "inspector": inspect(page, inspector_example)}
    return seen | {"carried": carry(page, maps_example)}


def opened(playwright: Playwright, chromium: str, url: str, renderer: str, errors: list[str]) -> Page:
    """Open the page in a rendering; errors that come from a pack are appended."""
    settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": renderer == "vue"}
    request = urllib.request.Request(
        f"{url}/api/settings", json.dumps(settings).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and "/extensions/" in (message.location or {}).get("url", ""):
            errors.append(message.text)

    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.on("console", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    page.wait_for_function(READY, timeout=120_000)
    return page


def main(chromium: str, url: str, renderer: str, folder: str) -> None:
    """Set the page up and print what was seen."""
    errors: list[str] = []
    with sync_playwright() as playwright:
        page = opened(playwright, chromium, url, renderer, errors)
        seen = visit(page, sorted(Path(folder).glob("*.json")))
        page.context.close()
    json.dump(seen | {"errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
