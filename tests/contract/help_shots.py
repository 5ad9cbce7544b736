"""Make the pictures of the help pages that show a node on ComfyUI's page.

COMFYUI_PATH=... python -m attention_patchbay.tests.contract.help_shots [NODE ...]: the Python of ComfyUI's environment,
with playwright, and with this pack to import.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from attention_patchbay.tests.contract.comfyui_server import FRONTENDS, ROOT, Server
from attention_patchbay.tests.contract.page_child import FRAMES, LOAD, RUN, opened
from attention_patchbay.tests.contract.surprises_child import rest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

DOCS, EXAMPLES = ROOT / "web" / "docs", ROOT / "example_workflows"
# The first two nodes of some types, one below the other, alone in view and as large as given; returns their place.
FRAME = """([types, size]) => {
  const nodes = app.graph.nodes.filter((node) => types.includes(node.type)).sort((a, b) => a.id - b.id).slice(0, 2)
  for (const other of app.graph.nodes) if (!nodes.includes(other)) other.pos = [9000, 9000]
  app.graph.groups.splice(0)
  let y = 0
  for (const node of nodes) {
    node.pos = [0, y]
    node.setSize([size[0], size[1] || node.size[1]])
    y += node.size[1] + 60
  }
  app.canvas.ds.scale = 1
  app.canvas.ds.offset = [300, 150]
  app.canvas.deselectAll()
  app.canvas.setDirty(true, true)
  return { x: 300, y: 120, width: size[0], height: y - 30 }
}"""


class Shot(NamedTuple):
    """What a picture shows: one or two nodes of an example, after a run or as they are opened.

    Args:
        size: of each node in pixels; a height of 0 is the node's own.
    """

    example: str
    types: tuple[str, ...]
    run: bool
    size: tuple[int, int]


LORAS = ("anna", "bert", "style")  # what the examples name; nothing reads them
SHOTS = {
    "PatchbayAttentionBackend": Shot("attention_backend", ("PatchbayPatchReport",), True, (430, 420)),
    "PatchbayBackendRules": Shot("backend_rules", ("PatchbayBackendRules",), False, (330, 300)),
    "PatchbayLoraRules": Shot("lora_by_rules", ("PatchbayLoraRules",), False, (330, 400)),
    "PatchbayPatchInspector": Shot("patch_inspector", ("PatchbayPatchInspector",), True, (430, 300)),
    "PatchbayRegionLora": Shot("two_characters_two_loras", ("PatchbayRegion", "PatchbayRegionLora"), False, (300, 0)),
    "PatchbayTuneAttention": Shot("tune_attention", ("PatchbayTuneAttention",), True, (430, 540)),
}


def take(page: Page, shot: Shot) -> Image.Image:
    """Return the picture of some nodes."""
    page.evaluate(LOAD, json.loads((EXAMPLES / f"{shot.example}.json").read_text()))
    page.evaluate(FRAMES, 20)
    page.evaluate(FRAME, [shot.types, shot.size])
    if shot.run:
        assert page.evaluate(RUN) == "execution_success"
    rest(page)
    clip: Any = page.evaluate(FRAME, [shot.types, shot.size])
    rest(page)
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def main(nodes: list[str]) -> None:
    """Write the pictures of some nodes, or of all."""
    chromium = shutil.which("chromium")
    assert chromium is not None, "needs Chromium"
    frontend = ("--front-end-root", FRONTENDS[0]) if FRONTENDS else ()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        waiting = Server(Path(folder) / "base", *frontend)
        (waiting.base / "models" / "loras").mkdir()
        for name in LORAS:
            (waiting.base / "models" / "loras" / f"{name}.safetensors").touch()
        with waiting as server:
            errors: list[str] = []
            page = opened(playwright, chromium, server.url, "classic", errors)
            for node in nodes or SHOTS:
                take(page, SHOTS[node]).save(DOCS / f"{node}.webp", quality=85, method=6)
            page.context.close()
    assert not errors, errors


if __name__ == "__main__":
    main(sys.argv[1:])
