"""Do to ComfyUI's page what surprised people: `python surprises_child.py CHROMIUM URL RENDERER EXAMPLES`.

It runs in ComfyUI's environment, for its playwright, with this pack to import, and prints as JSON what was seen:
`maps` (clicks on a heatmap, undone), `blocks` (a drag, keys, wheel and middle button on the Block Map), `panel` (undo
in an open one), `kept` (results after the page was loaded anew, the tab and its jump), `cached` (the live map of a run
that did not sample), `search` (the place of our first node), `refused` (a wrong widget), `mended` and `errors` of the
console.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from attention_patchbay.tests.contract.page_child import (
    COMMAND,
    FRAMES,
    LOAD,
    READY,
    RUN,
    SELECT,
    VIEW,
    WIDGETS,
    cell,
    opened,
    shot,
)
from playwright.sync_api import Page, sync_playwright

GO = """type => {
  const node = app.graph.nodes.find((node) => node.type === type)
  app.canvas.ds.scale = 0.9
  app.canvas.ds.offset[0] = 300 - node.pos[0]
  app.canvas.ds.offset[1] = 200 - node.pos[1]
  app.canvas.setDirty(true, true)
}"""
PLACE = """() => {
  const node = app.graph.nodes.find((node) => node.type === 'PatchbayAttentionMaps')
  const box = node.widgets.find((widget) => widget.name === 'patchbay_attention').element.querySelector('canvas')
  const { x, y, width, height } = box.getBoundingClientRect()
  return [x + width / 2, y + height / 2]
}"""
ROLES = """() => {
  const node = app.graph.nodes.find((node) => node.type === 'PatchbayAttentionMaps')
  const { element } = node.widgets.find((widget) => widget.name === 'patchbay_attention')
  const canvas = element.querySelector('canvas')
  const shown = document.querySelector(`[data-node-id="${node.id}"] [data-patchbay-view]`) ?? element
  return [canvas.getAttribute('role'), canvas.getAttribute('aria-roledescription'), shown === element]
}"""
SET = """([type, name, value]) => {
  const widget = app.graph.nodes.find((node) => node.type === type).widgets.find((widget) => widget.name === name)
  widget.value = value
  widget.callback?.(value)
}"""
BLOCKS = """() => app.graph.nodes.find((node) => node.type === 'PatchbayBlockMap').widgets[0].value"""
CANVAS = "() => [app.canvas.ds.scale, ...app.canvas.ds.offset, app.graph.nodes.length]"
SHOWN = """() => [...document.querySelectorAll('[data-patchbay-view]')]
  .filter((element) => element.getBoundingClientRect().width > 0).length"""
# Of the edge or the colour of each block, whichever is seen better, against what lies below, as they are drawn over it.
CONTRAST = """() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number)
  const light = (colour) => {
    const [r, g, b] = colour.map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const { element } = app.graph.nodes.find((node) => node.type === 'PatchbayBlockMap').widgets.at(-1)
  const below = rgb(getComputedStyle(element).backgroundColor).slice(0, 3).map((value) => value / 255)
  const contrast = ([r, g, b, alpha = 1], opacity) => {
    const drawn = [r, g, b].map((value, i) => alpha * opacity * value + (1 - alpha * opacity) * below[i])
    const [high, low] = [light(drawn), light(below)].sort().reverse()
    return (high + 0.05) / (low + 0.05)
  }
  return [...element.querySelectorAll('[data-block][aria-checked="false"]')].map((one) => {
    const style = getComputedStyle(one)
    const edge = rgb(style.borderTopColor.replace('srgb', ''))
    const fill = rgb(style.backgroundColor).map((value, i) => (i < 3 ? value / 255 : value))
    return Math.max(...[edge, fill].map((colour) => contrast(colour, Number(style.opacity))))
  })
}"""
STORE = "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s.get('nodeDef')"
SEARCH = f"""words => Object.fromEntries(words.map((word) => {{
  const found = {STORE}.nodeSearchService.searchNode(word)
  return [word, found.findIndex((node) => node.name.startsWith('Patchbay'))]
}}))"""
WORDS = ["sage", "speed", "low vram", "nan black image", "all black", "draw region", "lower cfg", "mbw"]
WORDS += ["consistent character", "freeu", "pag", "hypertile", "heatmap"]
REFUSED = """() => {
  const { id, widgets } = app.graph.nodes.find((node) => node.type === 'PatchbayCaptureAttention')
  const errors = app.extensionManager.lastNodeErrors[id].errors
  return [errors.length, widgets.map((widget) => widget.label ?? widget.name), document.body.innerText]
}"""
MEND = """() => {
  const { widgets } = app.graph.nodes.find((node) => node.type === 'PatchbayCaptureAttention')
  const heads = widgets.find((widget) => widget.name === 'heads')
  heads.callback((heads.value = 'all'))
}"""


def load(page: Page, folder: str, name: str, node: str) -> None:
    """Open an example with one of its nodes in view."""
    page.evaluate(LOAD, json.loads(Path(folder, f"{name}.json").read_text()))
    page.evaluate(FRAMES, 20)
    page.evaluate(GO, node)
    rest(page)


def rest(page: Page) -> None:
    """Wait until the page has done what it was told."""
    page.wait_for_timeout(700)
    page.evaluate(FRAMES, 10)


def click_maps(page: Page) -> dict[str, Any]:
    """Ask for a point on the picture, take it back, ask again and undo."""
    seen: dict[str, Any] = {"status": page.evaluate(RUN)}
    rest(page)

    def now() -> list[str]:
        return [page.evaluate(WIDGETS)["points"], page.evaluate(VIEW, "PatchbayAttentionMaps")["status"]]

    x, y = page.evaluate(PLACE)
    before = now()[1]
    page.mouse.move(x, y, steps=5)
    seen["quiet"] = now()[1] == before
    for name in ("asked", "taken back", "again"):
        page.mouse.click(x, y)
        rest(page)
        seen[name] = now()
    shot(page, "asked")
    page.keyboard.press("Control+z")
    rest(page)
    seen["undone"] = [*now(), page.evaluate(VIEW, "PatchbayAttentionMaps")["labels"]]
    seen["roles"] = page.evaluate(ROLES)
    seen["colours"] = [page.evaluate(VIEW, "PatchbayAttentionMaps")["left"]]
    page.evaluate(SET, ["PatchbayAttentionMaps", "opacity", 0.0])
    page.evaluate(SET, ["PatchbayAttentionMaps", "threshold", 0.0])
    seen["colours"] += [page.evaluate(VIEW, "PatchbayAttentionMaps")["left"]]
    return seen


def handle_blocks(page: Page) -> dict[str, Any]:
    """Drag over the Block Map, undo, and use keys, wheel and middle button over it."""
    page.evaluate(RUN)
    rest(page)
    seen = {"contrast": min(page.evaluate(CONTRAST)), "first": page.evaluate(BLOCKS)}
    page.mouse.move(*cell(page, "output:0"))
    page.mouse.down()
    page.mouse.move(*cell(page, "output:3"), steps=8)
    page.mouse.up()
    rest(page)
    seen["dragged"] = page.evaluate(BLOCKS)
    page.evaluate(COMMAND, "Comfy.Undo")
    rest(page)
    seen["undone"] = page.evaluate(BLOCKS)
    page.evaluate(SELECT, "PatchbayBlockMap")
    page.locator('[data-block="input:5"]').click()
    before = page.evaluate(CANVAS)
    for key in ("Delete", "Backspace"):
        page.keyboard.press(key)
    x, y = cell(page, "input:5")
    page.mouse.move(x, y)
    page.mouse.wheel(0, -100)
    rest(page)
    zoomed = page.evaluate(CANVAS)
    x, y = cell(page, "input:5")
    page.mouse.move(x, y)
    page.mouse.down(button="middle")
    page.mouse.move(x + 60, y + 40, steps=5)
    page.mouse.up(button="middle")
    rest(page)
    return seen | {"canvas": [before, zoomed, page.evaluate(CANVAS)]}


def undo_in_panel(page: Page) -> dict[str, Any]:
    """Undo while the picker is open, then look from afar."""
    page.evaluate(SELECT, "PatchbayBlockMap")
    page.evaluate(COMMAND, "Patchbay.ChooseBlocks")
    rest(page)
    inside = page.locator("[data-patchbay]")
    seen = {"before": page.evaluate(BLOCKS)}
    inside.locator("[data-block='input:3']").click()
    rest(page)
    seen["chosen"] = page.evaluate(BLOCKS)
    page.keyboard.press("Control+z")
    rest(page)
    seen["undone"] = [page.evaluate(BLOCKS), inside.get_by_label("Address").input_value()]
    inside.locator("[data-block='input:3']").click()
    seen["again"] = page.evaluate(BLOCKS)
    page.keyboard.press("Escape")
    page.evaluate("app.canvas.ds.scale = 0.2; app.canvas.setDirty(true, true)")
    rest(page)
    return seen | {"afar": page.evaluate(SHOWN)}


ROW = "() => app.canvas.selectedItems.size && [...app.canvas.selectedItems][0].type"
IDS = "() => app.graph.nodes.filter((node) => node.comfyClass?.startsWith('Patchbay')).map((node) => node.type)"


def keep(page: Page, folder: str) -> dict[str, Any]:
    """Load the page anew after a run, and open another workflow after the tab was filled."""
    page.reload()
    page.wait_for_function(READY, timeout=120_000)
    rest(page)
    seen = {name: page.evaluate(VIEW, f"Patchbay{name}")["labels"] for name in ("AttentionMaps", "CaptureAttention")}
    load(page, folder, "patch_inspector", "PatchbayPatchInspector")
    page.evaluate(RUN)
    page.evaluate(COMMAND, "Workspace.ToggleSidebarTab.patchbay-inspector")
    page.get_by_role("listitem").filter(has_text="ran").first.wait_for(timeout=30_000)
    page.get_by_role("listitem").filter(has_text="ran").get_by_title("Show the node").first.click()
    rest(page)
    seen |= {"jumped": page.evaluate(ROW), "nodes": page.evaluate(IDS)}
    shot(page, "jumped")
    load(page, folder, "block_map", "PatchbayBlockMap")
    seen["other"] = page.get_by_title("Show the node").count()
    page.evaluate(COMMAND, "Workspace.ToggleSidebarTab.patchbay-inspector")
    return seen


def main(chromium: str, url: str, renderer: str, folder: str) -> None:
    """Set the page up and print what was seen."""
    errors: list[str] = []
    seen: dict[str, Any] = {}
    with sync_playwright() as playwright:
        page = opened(playwright, chromium, url, renderer, errors)
        seen["search"] = page.evaluate(SEARCH, WORDS)
        load(page, folder, "block_map", "PatchbayBlockMap")
        seen |= {"blocks": handle_blocks(page), "panel": undo_in_panel(page)}
        load(page, folder, "attention_maps_heatmap", "PatchbayAttentionMaps")
        seen["maps"] = click_maps(page)
        seen["kept"] = keep(page, folder)
        load(page, folder, "attention_maps_heatmap", "PatchbayCaptureAttention")
        page.evaluate(RUN)
        rest(page)
        seen["cached"] = page.evaluate(VIEW, "PatchbayCaptureAttention")["labels"]
        page.evaluate(SET, ["PatchbayCaptureAttention", "heads", "none"])
        page.evaluate("() => app.queuePrompt(0, 1)")
        rest(page)
        seen["refused"] = page.evaluate(REFUSED)
        shot(page, "refused")
        page.evaluate(MEND)
        rest(page)
        seen["mended"] = page.evaluate(REFUSED)
        page.context.close()
    json.dump(seen | {"errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
