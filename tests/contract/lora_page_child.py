"""Write LoRA rules in ComfyUI's page: `python lora_page_child.py CHROMIUM URL RENDERER WORKFLOW.json`.

RENDERER is `classic` or `vue`; the workflow is in API format. It runs in ComfyUI's environment, for its playwright,
with this pack to import, and prints as JSON what was seen: `map` (of each block how it is coloured and what it says) at
first, after the norms were chosen (`norms`), after a preset was clicked (`preset`, with the rules then); what stands
below the rules (`told`), also below `wrong` blocks and a wrong `number`; and `errors`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from attention_patchbay.tests.contract.page_child import FRAMES, opened, shot
from playwright.sync_api import Page, sync_playwright

LOAD = "workflow => app.loadApiJson(workflow, 'lora')"
OF = "app.graph.nodes.find((node) => node.type === type)"
MAP = """() => [...document.querySelectorAll('[data-patchbay-view=patchbay_map] [data-block]')]
  .map((one) => [one.dataset.block, one.style.background, one.title])"""
TEXTS = f"""([type, which]) => [...{OF}.widgets.at(-1).element.querySelectorAll(which)].map((one) => one.textContent)"""
RULES = f"type => {OF}.widgets.find((widget) => widget.name === 'rules').value"
TYPE = f"""([type, text]) => {{ const widget = {OF}.widgets.find((widget) => widget.name === 'rules')
  widget.value = text; widget.callback(text) }}"""
CLICK = """name => [...document.querySelectorAll('[data-patchbay-view] button')]
  .find((one) => one.textContent === name).click()"""
PLACE = """() => {
  let x = 0
  const shown = ['PatchbayLoraRules', 'PatchbayBlockMap']
  for (const type of shown) {
    const node = app.graph.nodes.find((one) => one.type === type)
    node.pos = [x, 0]
    x += node.size[0] + 40
  }
  for (const node of app.graph.nodes) if (!shown.includes(node.type)) node.pos = [0, 900]
  app.canvas.ds.scale = 1.3
  app.canvas.ds.offset = [60, 90]
  app.graph.setDirtyCanvas(true, true)
}"""
NODE, LINES = "PatchbayLoraRules", "[role=status] div"


def settle(page: Page) -> None:
    """Wait until the page has looked at what was changed."""
    page.wait_for_timeout(800)
    page.evaluate(FRAMES, 10)


def main(chromium: str, url: str, renderer: str, workflow: str) -> None:
    """Set the page up and print what was seen."""
    errors: list[str] = []
    with sync_playwright() as playwright:
        page = opened(playwright, chromium, url, renderer, errors)
        page.evaluate(LOAD, json.loads(Path(workflow).read_text()))
        page.evaluate(PLACE)
        page.locator("[data-block]").first.wait_for(timeout=30_000)
        settle(page)
        seen: dict[str, Any] = {"map": page.evaluate(MAP), "told": page.evaluate(TEXTS, [NODE, LINES])}
        seen["chips"] = page.evaluate(TEXTS, [NODE, "[role=group] button"])
        shot(page, f"lora-strength-{renderer}")
        page.evaluate(CLICK, "norm: Load LoRA by Rules")
        settle(page)
        seen["norms"] = page.evaluate(MAP)
        shot(page, f"lora-norm-{renderer}")
        page.evaluate(CLICK, "strength: Load LoRA by Rules")
        page.evaluate(CLICK, "late")
        settle(page)
        seen["preset"] = [page.evaluate(RULES, NODE), page.evaluate(MAP)]
        page.evaluate(TYPE, [NODE, "* -> 0.5\ninput:77 -> 1"])
        settle(page)
        seen["wrong"] = page.evaluate(TEXTS, [NODE, LINES])
        page.evaluate(TYPE, [NODE, "* -> much"])
        settle(page)
        seen["number"] = page.evaluate(TEXTS, [NODE, LINES])
        shot(page, f"lora-wrong-{renderer}")
        page.context.close()
    json.dump(seen | {"errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
