"""Choose blocks of tiny transformers in ComfyUI's page: `python picker_child.py CHROMIUM URL RENDERER WORKFLOWS.json`.

RENDERER is `classic` or `vue`; the workflows are in API format, by family. It runs in ComfyUI's environment, for its
playwright, with this pack to import, and prints as JSON what was seen of each family: `drawn` (the Block Map before a
run), `status`, `report` and `maps` of a run, `picked` (address and chosen blocks in the picker after each thing done),
`wrong` (what is said of an address that the model has not), `linked` (the picker of a node whose blocks are linked),
`other` (the Block Map after another file was chosen); and `unknown` (the picker of a node without a model), `like`
(after the user chose one like it), `word` (the blocks of Region by Word) and `errors`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from attention_patchbay.tests.contract.page_child import COMMAND, FRAMES, REPORT, RUN, opened, shot
from playwright.sync_api import Page, sync_playwright

LOAD_API = "workflow => app.loadApiJson(workflow, 'tiny')"
OF = "app.graph.nodes.find((node) => node.type === type)"
CHOOSE = f"type => {{ app.canvas.deselectAll(); app.canvas.select({OF}) }}"
DRAWN = """() => {
  const { element } = app.graph.nodes.find((node) => node.type === 'PatchbayBlockMap').widgets.at(-1)
  const cells = [...element.querySelectorAll('[data-block]')]
  return cells.map((one) => [one.dataset.block, one.getAttribute('aria-checked')])
}"""
LABELS = f"""type => [...{OF}.widgets.at(-1).element.querySelectorAll('[data-label]')].map((one) => one.textContent)"""
RULES = """() => [...app.graph.nodes.find((node) => node.type === 'PatchbayBackendRules').widgets.at(-1).element
  .querySelector('[role=status]').children].map((line) => line.textContent)"""
BLOCKS = """() => { const { widgets } = app.graph.nodes.find((node) => node.type === 'PatchbayCaptureAttention')
  const blocks = widgets.find((widget) => widget.name === 'blocks')
  return [blocks.value, blocks.label ?? blocks.name, blocks.tooltip ?? ''] }"""
PANEL = """() => {
  const panel = document.querySelector('[data-patchbay]')
  const cells = [...panel.querySelectorAll('[data-block]')]
  const chosen = cells.filter((one) => one.getAttribute('aria-checked') !== 'false')
  return {
    model: panel.querySelector('select').value,
    text: panel.querySelector('input').value,
    chosen: chosen.map((one) => one.dataset.block),
    blocks: cells.length,
    closed: cells.every((one) => one.disabled),
    says: [...panel.querySelectorAll('[role=status], select + div')].map((one) => one.innerText.trim())
  }
}"""
OTHER = """file => {
  app.canvas.emitBeforeChange()
  app.graph.nodes.find((node) => node.type === 'UNETLoader').widgets[0].value = file
  app.canvas.emitAfterChange()
}"""
TYPE = """text => { const widget = app.graph.nodes.find((node) => node.type === 'PatchbayBackendRules').widgets[0]
  widget.value = text; widget.callback(text) }"""


def settle(page: Page) -> None:
    """Wait until the page has looked at what was changed."""
    page.wait_for_timeout(500)
    page.evaluate(FRAMES, 10)


def panel_of(page: Page, type: str) -> dict[str, Any]:
    """Open the picker of a node, and wait for what the server tells of its model."""
    page.evaluate(CHOOSE, type)
    page.evaluate(COMMAND, "Patchbay.ChooseBlocks")
    settle(page)
    return page.evaluate(PANEL)


def close(page: Page) -> None:
    """Close the picker."""
    page.keyboard.press("Escape")
    page.evaluate(FRAMES, 5)


def pick(page: Page) -> dict[str, Any]:
    """Use the picker of the capture: blocks, buttons, the text; return what it shows after each."""
    seen = {"opened": panel_of(page, "PatchbayCaptureAttention")}
    inside = page.locator("[data-patchbay]")
    inside.locator("[data-block='double:1']").click()
    seen["off"] = page.evaluate(PANEL)
    for name in ("none", "invert", "all"):
        inside.get_by_role("button", name=name, exact=True).click()
        seen[name] = page.evaluate(PANEL)
    inside.get_by_role("button", name="none", exact=True).click()
    inside.locator("[data-block='double:2']").click()
    seen["one"] = page.evaluate(PANEL)
    inside.locator("[data-block='double:2']").click()
    seen["last"] = page.evaluate(PANEL)
    inside.get_by_label("Address").fill("double, output:99")
    settle(page)
    seen["wrong"] = page.evaluate(PANEL) | {"widget": page.evaluate(BLOCKS)}
    shot(page, f"picker-{seen['opened']['model'].partition('.')[0]}")
    inside.get_by_label("Address").fill("double")
    settle(page)
    seen["right"] = page.evaluate(PANEL) | {"widget": page.evaluate(BLOCKS)}
    close(page)
    return seen


def family(page: Page, name: str, workflow: dict[str, Any]) -> dict[str, Any]:
    """Load the workflow of a family, run it and choose blocks in it; return what was seen."""
    page.evaluate(LOAD_API, workflow)
    settle(page)
    page.locator("[data-block]").first.wait_for(timeout=30_000)
    seen = {"drawn": page.evaluate(DRAWN), "status": page.evaluate(RUN)}
    page.evaluate(FRAMES, 20)
    seen |= {"ran": page.evaluate(DRAWN), "report": page.evaluate(REPORT)["text"]}
    seen["maps"] = page.evaluate(LABELS, "PatchbayAttentionMaps")
    shot(page, f"tiny-{name}")
    seen["picked"] = pick(page)
    page.evaluate(TYPE, "double -> split; single:99 -> split")
    settle(page)
    seen["rules"] = page.evaluate(RULES)
    seen["linked"] = panel_of(page, "PatchbayAttentionPatch")
    close(page)
    page.evaluate(OTHER, "tiny-wan.safetensors")
    settle(page)
    return seen | {"other": page.evaluate(DRAWN)}


ALONE = "type => { app.graph.clear(); app.graph.add(LiteGraph.createNode(type)) }"
HEARD = """text => { const widget = app.graph.nodes[0].widgets.find((widget) => widget.name === 'map_blocks')
  if (text) { widget.value = text; widget.callback(text) }
  return [widget.value, widget.label ?? widget.name, widget.tooltip ?? ''] }"""


def listen(page: Page) -> dict[str, Any]:
    """Choose the blocks in which a node hears a word, and write what no model has."""
    page.evaluate(ALONE, "PatchbayLiveRegion")
    seen: dict[str, Any] = {"opened": panel_of(page, "PatchbayLiveRegion")}
    page.get_by_label("Model", exact=True).select_option("SD1.5")
    page.locator("[data-patchbay] [data-block='output:3']").click()
    seen["chosen"] = page.evaluate(HEARD, "")
    shot(page, "picker-word")
    close(page)
    page.evaluate(HEARD, "outptu")
    settle(page)
    return seen | {"wrong": page.evaluate(HEARD, "")}


def main(chromium: str, url: str, renderer: str, workflows: str) -> None:
    """Set the page up and print what was seen."""
    errors: list[str] = []
    with sync_playwright() as playwright:
        page = opened(playwright, chromium, url, renderer, errors)
        page.evaluate(FRAMES, 10)
        seen: dict[str, Any] = {}
        page.evaluate(ALONE, "PatchbayBlockSkip")
        seen["unknown"] = panel_of(page, "PatchbayBlockSkip")
        page.get_by_label("Model", exact=True).select_option("Qwen-Image")
        seen["like"] = page.evaluate(PANEL)
        shot(page, "picker-qwen")
        close(page)
        seen["word"] = listen(page)
        for name, workflow in json.loads(Path(workflows).read_text()).items():
            seen[name] = family(page, name, workflow)
        page.context.close()
    json.dump(seen | {"errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
