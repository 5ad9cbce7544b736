"""`--compare` of `run` and `queue`: each saved picture also without the patches, and where the two differ."""

from __future__ import annotations

import argparse
from typing import Any

from ...nodes.compare import NODE, parsed, patched, patching
from ..engine.errors import USER_ERROR, Failure
from ..engine.validate import is_link
from ..engine.workflow import Prompt


def add_compare(command: argparse.ArgumentParser) -> None:
    """Add the option."""
    command.add_argument(
        "--compare",
        metavar="STRENGTHS",
        help="also save each picture as the patches at parts of their strength draw it (0: without them; such as "
        "0,0.5), as NAME_others, and where they differ, as NAME_differences",
    )


def compare(prompt: Prompt, strengths: str | None) -> None:
    """Put what is asked for behind each Save Image of a workflow whose pictures patches lead to.

    Raises Failure where there is none, and for strengths that are none.
    """
    if strengths is None:
        return
    try:
        parsed(strengths)
    except ValueError as error:
        raise Failure(f"--compare: {error}") from None
    saving = [(id, node["inputs"]) for id, node in prompt.items() if node["class_type"] == "SaveImage"]
    found = [(id, inputs) for id, inputs in saving if is_link(inputs.get("images"))]
    found = [(id, inputs) for id, inputs in found if not _of_patches(prompt, inputs["images"])]
    found = [(id, inputs) for id, inputs in found if patched(prompt, str(inputs["images"][0]))]
    if not found:
        text = "no Save Image of this workflow gets pictures of a model with patches: there is nothing to compare"
        raise Failure(text, USER_ERROR, "nothing_to_compare")
    for id, inputs in found:
        node = f"{id} compared"
        prompt[node] = {"class_type": NODE, "inputs": {"images": inputs["images"], "strengths": strengths}}
        for output, name in enumerate(("others", "differences")):
            saved = {
                **inputs,
                "images": [node, output],
                "filename_prefix": f"{inputs.get('filename_prefix', '')}_{name}",
            }
            prompt[f"{id} {name}"] = {"class_type": "SaveImage", "inputs": saved}


def _of_patches(prompt: Prompt, link: Any) -> bool:
    """Return whether pictures show what the patches did (masks, maps, differences): without them there are none."""
    for _ in prompt:  # a circle is told when the workflow is checked
        node = prompt.get(str(link[0])) if is_link(link) else None
        if node is None or node["class_type"].startswith("Patchbay"):
            return node is not None and node["class_type"] not in patching()
        link = node["inputs"].get("images", node["inputs"].get("image"))
    return False
