"""Load workflows into ComfyUI's page: `python convert_child.py CHROMIUM URL EVERY`.

It runs in ComfyUI's environment, for its playwright and its templates, and writes as JSON for every EVERY-th template:
the file, the workflow as the page saves it, and the API format as the page sends it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import comfyui_workflow_templates_json
from page_child import FRAMES, LOAD, READY
from playwright.sync_api import sync_playwright

# What the page saves, with the version that its files tell, and what it sends.
BOTH = """async () => {
  const saved = app.rootGraph.serialize()
  const { output, workflow } = await app.graphToPrompt()
  return { saved: { ...saved, extra: { ...saved.extra, ...workflow.extra } }, sent: output }
}"""
FOLDER = Path(comfyui_workflow_templates_json.__path__[0]) / "templates"


def main(chromium: str, url: str, every: str) -> None:
    """Write what the page makes of the templates."""
    files = [path for path in sorted(FOLDER.glob("*.json")) if "nodes" in json.loads(path.read_text(encoding="utf-8"))]
    found = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.goto(url)
        page.wait_for_function(READY, timeout=120_000)
        for path in files[:: int(every)]:
            workflow = json.loads(path.read_text(encoding="utf-8"))
            page.evaluate(LOAD, workflow)
            page.evaluate(FRAMES, 3)
            found[path.stem] = {"file": workflow, **page.evaluate(BOTH)}
        browser.close()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
