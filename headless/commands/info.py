"""`patchbay info`: what is in a model file or in an image."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..engine.errors import Failure
from ..engine.workflow import shown
from ..pages.convert import dumps
from ..pages.workflow_file import PICTURES, STDIN, metadata, read_bytes


def add_info(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `patchbay info`."""
    command.add_argument("file", type=Path, help="a .safetensors file, or a picture made by ComfyUI or patchbay")
    command.add_argument("--prompt", action="store_true", help="print the API format that a picture was made from")
    command.add_argument("--workflow", action="store_true", help="print the page format that a picture was made from")
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    command.set_defaults(run=info)


def info(args: argparse.Namespace) -> int:
    """Run `patchbay info`."""
    if args.file != STDIN and not args.file.is_file():
        raise Failure(f"no such file: {args.file}")
    found = _texts(args.file)
    for wanted in ("prompt", "workflow"):
        if getattr(args, wanted):
            if wanted not in (found or {}):
                raise Failure(f"{args.file} holds no {wanted}; it holds {', '.join(found or {}) or 'none of both'}")
            print(dumps((found or {})[wanted]), end="")
            return 0
    if found is not None:
        print(json.dumps(found) if args.json else _summary(args.file, found))
        return 0
    from ...ldm_patched.files.checkpoint import CheckpointError  # torch comes with it, which a picture does not need
    from .model_info import info_text, model_info

    try:
        about = model_info(args.file)
    except CheckpointError as error:
        other = "" if args.file.suffix == ".safetensors" else "; it is no PNG, WebP or JPEG either"
        raise Failure(f"{error}{other}") from None
    print(json.dumps(about, indent=1) if args.json else info_text(about))
    return 0


def _texts(path: Path) -> dict[str, Any] | None:
    """Return what a picture holds; None for another file."""
    if path == STDIN:
        data = read_bytes(path)
        if not data.startswith(PICTURES):
            raise Failure("standard input holds no picture; give a model file by its name")
        return metadata(data, "standard input")
    with path.open("rb") as file:
        if not file.read(max(map(len, PICTURES))).startswith(PICTURES):
            return None
    return metadata(read_bytes(path), str(path))


def _summary(path: Path, found: dict[str, Any]) -> str:
    prompt = found.get("prompt")
    if not isinstance(prompt, dict):
        return f"{path}: {'a workflow of the page' if 'workflow' in found else 'no workflow'}"
    lines = [f"{path}: a workflow of {len(prompt)} nodes"]
    for id, node in prompt.items():
        inputs = node.get("inputs", {}) if isinstance(node, dict) else {}
        values = ", ".join(f"{name}={value!r}" for name, value in inputs.items() if not isinstance(value, list))
        lines.append(
            f"  {id} {node.get('class_type') if isinstance(node, dict) else '?'} {shown(values[:150])}".rstrip()
        )
    return "\n".join(lines)
