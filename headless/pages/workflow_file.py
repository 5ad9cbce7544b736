"""Workflows from files: JSON of either format, or an image that ComfyUI or this pack has made."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engine.errors import Failure
from ..engine.workflow import MAX_BYTES, Prompt, PromptError, check, decoded, problem
from .convert import is_page_format, to_api
from .node_infos import node_infos
from .page_widgets import Infos
from .picture_texts import PNG, texts_in

WORKFLOW = "JSON of a workflow in API or page format, a picture made from one, or - for standard input"
STDIN = Path("-")
PICTURES = (PNG, b"\xff\xd8\xff", b"RIFF")  # how PNG, JPEG and WebP begin


def load(path: Path, infos: Callable[[], Infos], unknown: bool = False) -> Prompt:
    """Read a workflow in API format from a file; `infos` gives the nodes where it has to be converted.

    Raises PromptError when the file is none, too large, or no workflow; for nodes that there are not unless `unknown`.
    """
    data = read(path)
    return check(to_api(data, infos(), unknown) if is_page_format(data) else data)


def read(path: Path) -> Any:
    """Return the data of a workflow file in whatever format: of a PNG its prompt, else its page format.

    Raises PromptError.
    """
    data = read_bytes(path)
    where = "standard input" if path == STDIN else str(path)
    if not data.startswith(PICTURES):
        return parse_json(data, where)
    found = metadata(data, where)
    if not found:
        how = "it was not made by ComfyUI, or its metadata was taken off"
        raise PromptError(problem("no_prompt", "The picture holds no workflow", f"{where}: {how}"))
    return found.get("prompt", found.get("workflow"))


def read_bytes(path: Path) -> bytes:
    """Return what a file holds, or standard input. Raises PromptError."""
    if path == STDIN:
        data = sys.stdin.buffer.read(MAX_BYTES + 1) if sys.stdin is not None else b""
    elif path.is_dir() or not path.exists():
        raise PromptError(problem("no_prompt", "No such workflow file", str(path)))
    else:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise PromptError(problem("no_prompt", "The workflow file is too large", f"{path}: over {MAX_BYTES} bytes"))
    return data


def metadata(data: bytes, where: str) -> dict[str, Any]:
    """Return `prompt` and `workflow` out of a picture, as far as it has them.

    Raises PromptError when it is no picture or they are not JSON.
    """
    try:
        texts = texts_in(data)
    except ValueError as error:
        raise PromptError(problem("no_prompt", "The picture cannot be read", f"{where}: {error}")) from None
    names = [name for name in ("prompt", "workflow") if name in texts]
    return {name: parse_json(texts[name].encode("utf-8", "replace"), f"{where}: {name}") for name in names}


def parse_json(data: bytes, where: str) -> Any:
    """Return the value of JSON text.

    Raises PromptError; also for NaN and infinity, which JSON does not have, and for text nested too deep. ComfyUI
    writes NaN as what a node says of whether it changed, which is no part of the workflow and left out.
    """
    constants: list[str] = []
    try:
        value = json.loads(decoded(data), parse_constant=constants.append)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise PromptError(problem("no_prompt", "The file is not JSON", f"{where}: {reason}")) from None
    if len(constants) > _constants_of_changes(value):
        reason = f"{constants[0]} is no JSON value"
        raise PromptError(problem("no_prompt", "The file is not JSON", f"{where}: {reason}"))
    return value


def _constants_of_changes(value: Any) -> int:
    """Take out of a workflow what nodes say of whether they changed, and return how much of it no JSON has.

    That is None by now, as no workflow has it there.
    """
    found = 0
    nodes = value.get("prompt", value) if isinstance(value, dict) else {}
    for node in nodes.values() if isinstance(nodes, dict) else ():
        if isinstance(node, dict) and "class_type" in node:
            changed = node.pop("is_changed", None)
            found += sum(one is None for one in changed) if isinstance(changed, list) else 0
    return found


def infos_in(path: Path) -> Infos:
    """Return the nodes of a ComfyUI out of a file, for `--nodes`. Raises Failure and PromptError."""
    if not path.is_file():
        raise Failure(f"--nodes {path}: no such file; write there what URL/object_info of the ComfyUI gives")
    return node_infos(parse_json(path.read_bytes(), str(path)), f"--nodes {path}")


def embedded_infos() -> Infos:
    """Return the nodes of the embedded host."""
    from ..engine.catalog import catalog  # loads torch

    return {name: cls.GET_NODE_INFO_V1() for name, cls in catalog().items()}
