"""Draw the thumbnails of the examples with the embedded host: `python -m attention_patchbay.tools.thumbnails`.

An example that compares shows the pictures without the patches, then those with them; what needs models, its title.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..headless.api.folders import Folders
from ..headless.api.session import Session
from ..headless.commands.compare import compare
from ..headless.engine.api_graph import Executor
from ..headless.engine.catalog import catalog
from ..headless.engine.workflow import Prompt
from .examples import FOLDER, TEXTS

SIDE, GAP = 256, 8
INK, PAPER = (40, 40, 40), (235, 235, 235)
OTHERS, DIFFERENCES = "_others", "_differences"  # what `compare` puts behind the names of files


def drawn(prompt: Prompt) -> list[Image.Image]:
    """Run an example and return its pictures; those without the patches first, where it compares."""
    if any(node["class_type"] == "PatchbayCompare" for node in prompt.values()):
        prompt = {id: node for id, node in prompt.items() if node["class_type"] != "PatchbayCompare"}
        compare(prompt, "0")
    with tempfile.TemporaryDirectory() as folder:
        Executor(catalog(), Session(Folders(output=Path(folder)))).run(prompt)
        files = [file for file in sorted(Path(folder).rglob("*.png")) if DIFFERENCES not in file.name]
        return [Image.open(file).convert("RGB") for file in sorted(files, key=lambda file: OTHERS not in file.name)]


def side_by_side(pictures: list[Image.Image]) -> Image.Image:
    """Return square pictures in one row."""
    square = [picture for picture in pictures if picture.width == picture.height]
    row = Image.new("RGB", (len(square) * (SIDE + GAP) - GAP, SIDE), INK)
    for place, picture in enumerate(square):
        row.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (place * (SIDE + GAP), 0))
    return row


def titled(title: str) -> Image.Image:
    """Return a card with the title of an example whose picture nobody has drawn yet."""
    card = Image.new("RGB", (2 * SIDE + GAP, SIDE), PAPER)
    pen, lines = ImageDraw.Draw(card), [""]
    for word in title.split():
        lines += [""] if len(lines[-1]) + len(word) > 24 else []
        lines[-1] = f"{lines[-1]} {word}".strip()
    pen.text((32, 64), "\n".join(lines), INK, ImageFont.load_default(32))
    pen.text((32, SIDE - 48), "Not tried on the real weights", INK, ImageFont.load_default(18))
    return card


def thumbnail(name: str, own: dict[str, Any]) -> Image.Image:
    """Return what stands for an example."""
    prompt = json.loads((FOLDER / "api" / f"{name}.json").read_text())
    return titled(own["title"]) if own.get("untried") else side_by_side(drawn(prompt))


def main(names: list[str]) -> None:
    """Write the thumbnails of some examples, or of all."""
    examples = json.loads(TEXTS.read_text())["examples"]
    for name in names or examples:
        thumbnail(name, examples[name]).save(FOLDER / f"{name}.jpg", quality=90)


if __name__ == "__main__":
    main(sys.argv[1:])
