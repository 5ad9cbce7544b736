"""Draw the pictures of the help pages with the demo model: `python -m attention_patchbay.tools.help_pictures`.

Names of nodes behind it draw only theirs. help_pictures.json says of which example each is made. Pictures of a node on
ComfyUI's page are made by tests/contract/help_shots.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..headless.api.folders import Folders
from ..headless.api.session import Session
from ..headless.commands.compare import compare
from ..headless.engine.api_graph import Executor
from ..headless.engine.catalog import catalog
from ..headless.engine.workflow import Prompt
from ..ldm_patched.ldm.modules.backends import registry
from ..ldm_patched.ldm.modules.backends.kernel import Backend
from .examples import FOLDER
from .help_page import DOCS

CHOICES = Path(__file__).with_suffix(".json")
WIDTH, GAP, PAPER = 560, 8, (40, 40, 40)  # twice the panel, for screens of twice the dots
LOOKS = ("SaveImage", "PreviewImage", "PatchbayCompare", "PatchbayPatchReport", "PatchbayPatchInspector")
BROKEN = "overflowing"  # an attention function whose results are not finite, for the page of the NaN guard


def rows_of(choice: Mapping[str, Any]) -> list[list[Image.Image]]:
    """Return the rows of pictures that an entry of help_pictures.json asks for.

    `example` names the workflow, `set` changes inputs of it (`ID.INPUT`), `bypass` takes nodes out, `add` adds some.
    Without `runs` and `show` the first row is without the patches; `runs` are changes of their own, a row for each;
    `show` are the outputs to show in place of the saved picture.
    """
    prompt = json.loads((FOLDER / "api" / f"{choice['example']}.json").read_text())
    if "runs" not in choice and "show" not in choice:
        return _drawn(_saving(changed(prompt, choice), [], "0"))
    runs = [(run, changed(prompt, {**choice, **run})) for run in choice.get("runs", [{}])]
    rows = [_drawn(_saving(run, one.get("show", choice.get("show", [])))) for one, run in runs]
    return [[picture for part in row for picture in part] for row in rows]


def changed(prompt: Prompt, choice: Mapping[str, Any]) -> Prompt:
    """Return a workflow with the changes of an entry."""
    changed = json.loads(json.dumps({**prompt, **choice.get("add", {})}))
    for place, value in choice.get("set", {}).items():
        id, _, name = place.partition(".")
        changed[id]["inputs"][name] = value
    for id in choice.get("bypass", []):
        before = changed.pop(id)["inputs"]["model"]
        for node in changed.values():
            node["inputs"] = {name: before if value == [id, 0] else value for name, value in node["inputs"].items()}
    return changed


def _saving(prompt: Prompt, show: list[Any], strengths: str | None = None) -> Prompt:
    """Return a workflow that saves what is to be shown, in this order, and nothing else."""
    found = [node["inputs"]["images"] for node in prompt.values() if node["class_type"] == "SaveImage"]
    saving = {id: node for id, node in prompt.items() if node["class_type"] not in LOOKS}
    for place, link in enumerate(show or found):
        saving[f"shown {place}"] = {
            "class_type": "SaveImage",
            "inputs": {"images": link, "filename_prefix": f"{place}"},
        }
    compare(saving, strengths)
    return saving


def _drawn(prompt: Prompt) -> list[list[Image.Image]]:
    """Run a workflow and return its pictures by what saved them; those without the patches first."""
    with tempfile.TemporaryDirectory() as folder:
        Executor(catalog(), Session(Folders(output=Path(folder)))).run(prompt)
        files = sorted(file for file in Path(folder).glob("*.png") if "differences" not in file.name)
        names = sorted({file.name[:-11] for file in files}, key=lambda name: ("others" not in name, name))
        return [[Image.open(file).convert("RGB") for file in files if file.name[:-11] == name] for name in names]


def laid_out(rows: list[list[Image.Image]]) -> Image.Image:
    """Return rows of pictures as one; rows of one picture each stand side by side."""
    rows = [[picture for row in rows for picture in row]] if all(len(row) == 1 for row in rows) else rows
    columns = max(len(row) for row in rows)
    width = (WIDTH - GAP * (columns - 1)) // columns
    sized = [
        [picture.resize((width, round(width * picture.height / picture.width))) for picture in row] for row in rows
    ]
    heights = [max(picture.height for picture in row) for row in sized]
    page = Image.new("RGB", (columns * (width + GAP) - GAP, sum(heights) + GAP * (len(rows) - 1)), PAPER)
    for number, row in enumerate(sized):
        for column, picture in enumerate(row):
            page.paste(picture, (column * (width + GAP), sum(heights[:number]) + number * GAP))
    return page


def _overflow(q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return torch.full_like(q, torch.nan)


def main(nodes: list[str]) -> None:
    """Write the pictures of some nodes, or of all."""
    choices = json.loads(CHOICES.read_text())
    registry.register(Backend(BROKEN, _overflow))  # no picture may tune attention: this one is no choice
    for node in nodes or choices:
        laid_out(rows_of(choices[node])).save(DOCS / f"{node}.webp", quality=85, method=6)


if __name__ == "__main__":
    main(sys.argv[1:])
