"""Workflows from files: JSON of either format, or an image that ComfyUI or this pack has made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engine.workflow import MAX_BYTES, Prompt, PromptError, check, problem
from .convert import is_page_format, to_api
from .page_widgets import Infos

WORKFLOW = "JSON of a workflow in API or page format, or a PNG made from one"
PNG = b"\x89PNG\r\n\x1a\n"


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
    if not path.is_file():
        raise PromptError(problem("no_prompt", "No such workflow file", str(path)))
    if path.stat().st_size > MAX_BYTES:
        raise PromptError(problem("no_prompt", "The workflow file is too large", f"{path}: over {MAX_BYTES} bytes"))
    with path.open("rb") as file:
        if file.read(len(PNG)) == PNG:
            found = metadata(path)
            if not found:
                how = "it was not made by ComfyUI, or its metadata was taken off"
                raise PromptError(problem("no_prompt", "The picture holds no workflow", f"{path}: {how}"))
            return found.get("prompt", found.get("workflow"))
    return parse_json(path.read_bytes(), str(path))


def metadata(path: Path) -> dict[str, Any]:
    """Return `prompt` and `workflow` out of an image, as far as it has them.

    Raises PromptError when it is no image or they are not JSON.
    """
    from PIL import Image, UnidentifiedImageError  # only the extra `headless` brings it

    try:
        with Image.open(path) as picture:
            texts = {**getattr(picture, "text", {}), **picture.info}  # `text` also reads what follows the pixels
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise PromptError(problem("no_prompt", "The picture cannot be read", f"{path}: {error}")) from None
    names = [name for name in ("prompt", "workflow") if isinstance(texts.get(name), str)]
    return {name: parse_json(texts[name].encode(), f"{path}: {name}") for name in names}


def parse_json(data: bytes, where: str) -> Any:
    """Return the value of JSON text.

    Raises PromptError; also for NaN and infinity, which JSON does not have, and for text nested too deep.
    """
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise PromptError(problem("no_prompt", "The workflow file is not JSON", f"{where}: {reason}")) from None


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def embedded_infos() -> Infos:
    """Return the nodes of the embedded host."""
    from ..engine.catalog import catalog  # loads torch

    return {name: cls.GET_NODE_INFO_V1() for name, cls in catalog().items()}
