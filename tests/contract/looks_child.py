"""Look at displays on ComfyUI's page: `python looks_child.py CHROMIUM URL RENDERER REPORT COMPARISON AREAS DASHBOARD`.

It runs in ComfyUI's environment, for its playwright, with this pack to import. The last four are workflows of the page
with a Patch Report, a With and Without Patches, a Draw Regional Prompts, and a Block Map and a Patch Inspector. Prints
as JSON what was seen: `report` (the patches and each view), `compared` (the slider after a run, and after cached runs
on a page loaded anew and of another workflow), `drawn` (areas moved, drawn, undone and taken off), `dashboard` (the map
of blocks before and after a run, and each view of the inspector) and `errors`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from attention_patchbay.tests.contract.page_child import COMMAND, FRAMES, LOAD, READY, RUN, opened, shot
from attention_patchbay.tests.contract.surprises_child import GO, rest
from playwright.sync_api import Page, sync_playwright

FIND = """
  const node = app.graph.nodes.find((node) => node.type === type)
  const { element } = node.widgets.find((widget) => widget.element?.dataset.patchbayView)
"""
TEXT = f"(type) => {{ {FIND} return element.innerText }}"
PRESS = f"""([type, name]) => {{ {FIND}
  const every = [...element.querySelectorAll('button, th, [role=button]')]
  every.find((one) => one.textContent.startsWith(name)).click()
  return element.innerText
}}"""
ROWS = f"(type) => {{ {FIND} return [...element.querySelectorAll('tr')].map((row) => row.innerText.split('\\t')) }}"
FATES = f"(type) => {{ {FIND} return [...element.querySelectorAll('li')].map((one) => one.textContent) }}"
CELLS = f"""(type) => {{ {FIND}
  const first = (text, end) => text.split(end)[0]
  return [...element.querySelectorAll('[title]')].map((one) => [first(one.textContent, ' '), first(one.title, '\\n')])
}}"""
PICTURE = f"""(type) => {{ {FIND}
  const canvas = element.querySelector('canvas')
  const {{ x, y, width, height }} = canvas.getBoundingClientRect()
  const buttons = [...element.querySelectorAll('button')]
  const pressed = buttons.map((one) => [one.textContent, one.getAttribute('aria-pressed')])
  const pen = canvas.getContext('2d')
  const column = (at) => canvas.width ? [...pen.getImageData(at * canvas.width, canvas.height / 2, 1, 1).data] : []
  return {{
    box: [x, y, width, height], size: [canvas.width, canvas.height], pressed, now: canvas.getAttribute('aria-valuenow'),
    told: element.querySelector('[role=status]').textContent, left: column(0.2), right: column(0.8)
  }}
}}"""
SIDEBAR = "() => app.extensionManager.sidebarTab.activeSidebarTabId"
DRAWN = f"""(type) => {{ {FIND}
  const {{ x, y, width, height }} = element.querySelector('canvas').getBoundingClientRect()
  const chips = [...element.querySelectorAll('button')].map((one) => one.textContent)
  const {{ value }} = node.widgets.find((widget) => widget.name === 'regions')
  return {{ box: [x, y, width, height], chips, text: value.split('\\n'), nodes: app.graph.nodes.length }}
}}"""
TOLD = f"(type) => {{ {FIND} return element.querySelector('[role=status]').textContent }}"
WRITE = """([type, text]) => {
  const { widgets } = app.graph.nodes.find((node) => node.type === type)
  const widget = widgets.find((one) => one.name === 'regions')
  widget.callback((widget.value = text))
}"""
NAMED = f"""([type, text]) => {{ {FIND}
  const input = element.querySelector('input:not([type=range])')
  input.value = text
  input.dispatchEvent(new Event('input'))
  input.dispatchEvent(new Event('change'))
}}"""
WIDE = f"""([type, text]) => {{ {FIND}
  const range = element.querySelector('input[type=range]')
  range.value = text
  range.dispatchEvent(new Event('input'))
}}"""
MAPPED = f"""(type) => {{ {FIND}
  const cells = [...element.querySelectorAll('[data-block]')]
  const style = (one) => getComputedStyle(one).backgroundColor
  const stripes = cells.map((one) => [one.dataset.block, [...one.lastChild.children].map(style)])
  const buttons = [...element.querySelectorAll('button:not([data-block])')]
  const hot = cells.filter((one) => one.style.color.startsWith('rgb'))
  return {{
    chips: buttons.map((one) => one.textContent),
    heat: Object.fromEntries(hot.map((one) => [one.dataset.block, style(one)])),
    on: buttons.filter((one) => one.getAttribute('aria-pressed') === 'true').map((one) => one.textContent),
    legend: [...element.querySelector('[role=list]').children].map((one) => one.textContent),
    stripes: Object.fromEntries(stripes), text: element.innerText
  }}
}}"""
CHIPS = f"(type) => {{ {FIND} return [...element.querySelectorAll('button')].map((one) => one.textContent) }}"
POINTED = f"""(type) => {{ {FIND}
  const {{ width, height, hidden, previousSibling }} = element.querySelector('canvas')
  return {{ lines: previousSibling.innerText.split('\\n'), map: hidden ? [] : [width, height] }}
}}"""
REPORT, COMPARE, DRAW = "PatchbayPatchReport", "PatchbayCompare", "PatchbayDrawnRegions"
MAP, INSPECTOR = "PatchbayBlockMap", "PatchbayPatchInspector"


def load(page: Page, path: str, node: str) -> None:
    """Open a workflow with one of its nodes in view."""
    page.evaluate(LOAD, json.loads(Path(path).read_text()))
    page.evaluate(FRAMES, 20)
    page.evaluate(GO, node)
    rest(page)


def read_report(page: Page) -> dict[str, Any]:
    """Run, and look at each view of the report."""
    seen: dict[str, Any] = {"waiting": page.evaluate(TEXT, REPORT), "status": page.evaluate(RUN)}
    rest(page)
    seen |= {"fates": page.evaluate(FATES, REPORT), "rows": page.evaluate(ROWS, REPORT)}
    shot(page, "report")
    page.evaluate(PRESS, [REPORT, "calls"])
    seen["sorted"] = page.evaluate(ROWS, REPORT)
    page.evaluate(PRESS, [REPORT, "\u25be Input blocks"])
    seen["folded"] = page.evaluate(ROWS, REPORT)
    page.evaluate(PRESS, [REPORT, "map"])
    seen["map"] = page.evaluate(CELLS, REPORT)
    shot(page, "report map")
    page.evaluate(PRESS, [REPORT, "steps"])
    seen["steps"] = page.evaluate(ROWS, REPORT)
    seen["text"] = page.evaluate(PRESS, [REPORT, "text"])
    return seen


def compare(page: Page, path: str) -> dict[str, Any]:
    """Run, slide by the mouse, look at the difference; run once more on a page loaded anew, and in another workflow."""
    load(page, path, COMPARE)
    seen: dict[str, Any] = {"status": page.evaluate(RUN)}
    rest(page)
    x, y, width, height = page.evaluate(PICTURE, COMPARE)["box"]
    page.mouse.move(x + width / 2, y + height / 2)
    page.mouse.move(x + width * 0.75, y + height / 2, steps=3)
    seen["slid"] = page.evaluate(PICTURE, COMPARE)
    shot(page, "compared")
    page.evaluate(PRESS, [COMPARE, "difference"])
    seen["difference"] = page.evaluate(PICTURE, COMPARE)
    shot(page, "difference")
    page.reload()
    page.wait_for_function(READY, timeout=120_000)
    load(page, path, COMPARE)
    seen["again"] = page.evaluate(RUN)
    rest(page)
    seen["cached"] = page.evaluate(PICTURE, COMPARE)
    page.evaluate(COMMAND, "Comfy.NewBlankWorkflow")
    rest(page)
    page.evaluate(LOAD, {**json.loads(Path(path).read_text()), "id": "00000000-0000-4000-8000-aaaaaaaaaaaa"})
    page.evaluate(FRAMES, 20)
    seen["copied"] = {"before": page.evaluate(PICTURE, COMPARE)["size"], "status": page.evaluate(RUN)}
    rest(page)
    return {**seen, "copied": {**seen["copied"], **page.evaluate(PICTURE, COMPARE)}}


def draw(page: Page, path: str) -> dict[str, Any]:
    """Move an area and undo it, draw and name a box, paint and erase, undo that, and take an area off by a key."""
    load(page, path, DRAW)
    seen: dict[str, Any] = {"first": page.evaluate(DRAWN, DRAW)}

    def drag(*places: tuple[float, float]) -> Any:
        x, y, width, height = page.evaluate(DRAWN, DRAW)["box"]
        side = min(width, height)  # the picture is square
        points = [(x + (width - side) / 2 + a * side, y + (height - side) / 2 + b * side) for a, b in places]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=4)
        page.mouse.up()
        rest(page)
        return page.evaluate(DRAWN, DRAW)

    seen["moved"] = drag((0.25, 0.5), (0.45, 0.5))
    page.keyboard.press("Control+z")
    rest(page)
    seen["undone"] = page.evaluate(DRAWN, DRAW)
    seen["box"] = drag((0.8, 0.1), (0.95, 0.4))
    page.keyboard.press("Control+z")
    rest(page)
    seen["no box"] = page.evaluate(DRAWN, DRAW)
    drag((0.8, 0.1), (0.95, 0.4))
    page.keyboard.type("wrq")
    rest(page)
    seen["typed"] = page.evaluate(DRAWN, DRAW) | {"sidebar": page.evaluate(SIDEBAR)}
    page.evaluate("document.activeElement.blur()")
    page.evaluate(NAMED, [DRAW, "a green cross"])
    seen["named"] = page.evaluate(DRAWN, DRAW)
    page.evaluate(PRESS, [DRAW, "brush"])
    seen["stroke"] = drag((0.2, 0.2), (0.6, 0.3))
    page.evaluate(WIDE, [DRAW, "20"])
    seen["more"] = drag((0.6, 0.3), (0.7, 0.5), (0.4, 0.6))
    shot(page, "drawn")
    page.evaluate(PRESS, [DRAW, "erase"])
    seen["erased"] = drag((0.4, 0.25))
    shot(page, "erased")
    page.keyboard.press("Control+z")
    rest(page)
    seen["back"] = page.evaluate(DRAWN, DRAW)
    seen["again"] = drag((0.5, 0.3), (0.52, 0.32))
    page.keyboard.press("Delete")
    rest(page)
    seen["deleted"] = page.evaluate(DRAWN, DRAW)
    prompt = page.get_by_label("Prompt of the chosen area")
    prompt.fill("a cross")
    page.get_by_role("button", name="a red circle", exact=True).click()  # it ends what is written, and chooses
    seen["chosen"] = prompt.input_value()
    page.keyboard.press("ArrowRight")
    rest(page)
    seen["by key"] = page.evaluate(DRAWN, DRAW)
    page.evaluate(PRESS, [DRAW, "erase"])  # off
    page.evaluate(WRITE, [DRAW, "left frames 0-50% -> a\nleft frames 50%- -> b"])
    page.get_by_role("button", name="a \u00b7 0-50%", exact=True).click()
    seen["by button"] = drag((0.2, 0.5), (0.4, 0.5))
    shot(page, "by button")
    frames = page.get_by_label("When in a video the chosen area holds")
    seen["frames"] = [frames.input_value()]
    for text in ("12-5", "0-25% fade 2"):
        frames.fill(text)
        found = page.evaluate(DRAWN, DRAW)["text"], page.evaluate(TOLD, DRAW), frames.get_attribute("aria-invalid")
        seen["frames"].append(found)
    frames.press("Tab")
    shot(page, "frames")
    page.evaluate(COMMAND, "Comfy.Undo")
    rest(page)
    seen["frames"].append(page.evaluate(DRAWN, DRAW)["text"])
    return seen


def look_at_map(page: Page, path: str) -> dict[str, Any]:
    """Look at the map of blocks before a run and after it, and point at a block; load the page anew."""
    load(page, path, MAP)
    page.wait_for_timeout(500)  # it has asked for the blocks of the model
    seen: dict[str, Any] = {"before": page.evaluate(MAPPED, MAP)}
    shot(page, "map before")
    seen["status"] = page.evaluate(RUN)
    rest(page)
    seen["after"] = page.evaluate(MAPPED, MAP)
    page.locator('[data-block="output:1"]').hover()
    seen["pointed"] = page.evaluate(POINTED, MAP)
    shot(page, "map after")
    page.evaluate(PRESS, [MAP, "entropy"])
    seen["entropy"] = page.evaluate(MAPPED, MAP)
    shot(page, "map entropy")
    seen["inspector"] = inspect(page)
    page.reload()
    page.wait_for_function(READY, timeout=120_000)
    load(page, path, MAP)
    page.wait_for_timeout(500)
    return seen | {"restored": page.evaluate(MAPPED, MAP)}


def inspect(page: Page) -> dict[str, Any]:
    """Look at each view of the inspector, sort and fold."""
    seen: dict[str, Any] = {"owner": page.evaluate(ROWS, INSPECTOR)}
    seen["chips"] = page.evaluate(CHIPS, INSPECTOR)
    shot(page, "inspector")
    page.evaluate(PRESS, [INSPECTOR, "calls"])
    seen["sorted"] = page.evaluate(ROWS, INSPECTOR)
    page.evaluate(PRESS, [INSPECTOR, "by slot"])
    seen["slot"] = page.evaluate(ROWS, INSPECTOR)
    shot(page, "inspector by slot")
    page.evaluate(PRESS, [INSPECTOR, "\u25be attn2:"])
    seen["folded"] = page.evaluate(ROWS, INSPECTOR)
    seen["text"] = page.evaluate(PRESS, [INSPECTOR, "text"])
    return seen


def main(chromium: str, url: str, renderer: str, report: str, comparison: str, areas: str, dashboard: str) -> None:
    """Set the page up and print what was seen."""
    errors: list[str] = []
    with sync_playwright() as playwright:
        page = opened(playwright, chromium, url, renderer, errors)
        load(page, report, REPORT)
        seen = {"report": read_report(page), "compared": compare(page, comparison), "drawn": draw(page, areas)}
        seen["dashboard"] = look_at_map(page, dashboard)
        page.context.close()
    json.dump({**seen, "errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
