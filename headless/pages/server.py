"""A ComfyUI server as the commands use it: its nodes, images onto it and results from it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..api.folders import inside
from ..engine.errors import FAILED, INTERRUPTED, USER_ERROR, Failure
from ..engine.workflow import Prompt
from .node_infos import node_infos
from .page_widgets import UPLOADS, Infos, inputs_of


@contextmanager
def connected(url: str) -> Iterator[Any]:
    """Open a client of a server, with its failures in the words and codes of the command line."""
    try:
        from .. import client as library
    except ModuleNotFoundError as error:
        raise Failure(f'{error.name} is missing; pip install "attention-patchbay[client]"') from None
    try:
        with library.Client(url) as client:
            yield client
    except (library.ServerUnreachable, ValueError) as error:
        if isinstance(error, ValueError) and not str(error).startswith(repr(url)):
            raise
        raise Failure(str(error), USER_ERROR, "unreachable") from None
    except (library.JobFailed, library.JobLost) as error:
        raise Failure(str(error), FAILED, "execution_error") from None
    except library.JobInterrupted as error:
        raise Failure(str(error), INTERRUPTED, "interrupted") from None


def server_infos(url: str) -> Infos:
    """Return the nodes of a server. Raises Failure."""
    with connected(url) as client:
        return node_infos(client.object_info(), url)


def upload(client: Any, prompt: Prompt, infos: Infos, folder: Path) -> None:
    """Put the images that nodes load onto a server that lacks them."""
    for node in prompt.values():
        for name, entry in inputs_of(infos.get(node.get("class_type", ""), {})):
            settings = entry[1] if len(entry) > 1 else {}
            value = node["inputs"].get(name)
            if not any(settings.get(kind) for kind in UPLOADS) or not isinstance(value, str):
                continue
            there = entry[0] if isinstance(entry[0], list) else settings.get("options", [])
            if value not in there and inside(folder, value).is_file():
                node["inputs"][name] = client.upload(inside(folder, value), value)
                there.append(value)  # the next workflow finds it


def download(client: Any, entries: Iterable[dict[str, str]], folder: Path) -> Iterator[Path]:
    """Write files that a job made to a folder; names that lead out of it are refused."""
    for entry in entries:
        path = inside(folder, "/".join(part for part in (entry.get("subfolder", ""), entry["filename"]) if part))
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            unfinished.write_bytes(client.fetch(entry))
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        yield path
