"""Load pictures with ComfyUI's LoadImage and with this pack's readers: `python picture_child.py RESULT.json`.

The pictures are those of the folder `input` beside the result. For each: how far ours are, or the words of both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(result: str) -> None:
    """Write what both make of the pictures."""
    from comfy.cli_args import args

    args.cpu = True
    import folder_paths
    from attention_patchbay.headless.nodes import pictures

    import nodes

    folder = Path(result).with_name("input")
    folder_paths.set_input_directory(str(folder))

    def loaded(read: Any, name: Any) -> Any:
        try:
            return read(name)
        except Exception as error:
            return str(error)

    found = {}
    for path in sorted(folder.iterdir()):
        theirs = loaded(nodes.LoadImage().load_image, path.name)
        found[path.name] = {}
        for reader, module in (("av", pictures.av), ("pillow", None)):
            before, pictures.av = pictures.av, module
            found[path.name][reader] = compared(theirs, loaded(pictures.read_picture, path))
            pictures.av = before
    Path(result).write_text(json.dumps(found))


def compared(theirs: Any, ours: Any) -> Any:
    """Return how far two pictures and their masks are in levels of 255, or what both are."""
    if isinstance(theirs, str) or isinstance(ours, str):
        return [one if isinstance(one, str) else "a picture" for one in (theirs, ours)]
    if any(one.shape != other.shape for one, other in zip(theirs, ours, strict=True)):
        return [[list(part.shape) for part in one] for one in (theirs, ours)]
    return [255 * float((one - other).abs().max()) for one, other in zip(theirs, ours, strict=True)]


if __name__ == "__main__":
    main(*sys.argv[1:])
