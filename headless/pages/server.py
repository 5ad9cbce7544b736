"""A ComfyUI server as the commands use it: its nodes, images onto it and results from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ...ldm_patched.files.whole import write_new
from ..api.folders import inside
from ..engine.errors import FAILED, INTERRUPTED, USER_ERROR, Failure, missing
from ..engine.workflow import Prompt, one_line, short
from .node_infos import node_infos
from .page_widgets import UPLOADS, Infos, inputs_of

SERVICES = ("sdk+", "runpod+")  # before the address: the Comfy API v2 by comfy-sdk, and endpoints such as RunPod's
INPUT, ELSEWHERE = "[input]", ("[output]", "[temp]")  # ends of names that the mask editor writes


@dataclass(frozen=True)
class Access:
    """What a server is told of who asks, and whether its certificate is checked. Headers are secret."""

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    insecure: bool = False

    def client(self, url: str) -> Any:
        """Return a client of a server. Raises Failure."""
        try:
            from .. import client as library
        except ModuleNotFoundError as error:
            raise Failure(missing(error.name), FAILED) from None
        try:
            return library.Client(url, headers=dict(self.headers), insecure=self.insecure)
        except library.WrongAddress as error:
            raise Failure(str(error), USER_ERROR, "unreachable") from None

    def service(self, url: str) -> Any:
        """Return the service at an address with the name of its kind before it; keys are those of the environment.

        Raises Failure.
        """
        kind, _, address = url.partition("+")
        try:
            from ..client import WrongAddress

            if kind == "sdk":
                from ..client.comfy_api import ComfyApi

                return ComfyApi(address, insecure=self.insecure)
            from ..client.runpod import RunPod

            return RunPod(address, insecure=self.insecure)
        except ModuleNotFoundError as error:
            raise Failure(missing(error.name), FAILED) from None
        except WrongAddress as error:
            raise Failure(str(error), USER_ERROR, "unreachable") from None


NOBODY = Access()


def is_service(url: str) -> bool:
    """Return whether an address is that of a service, and not of a ComfyUI."""
    return url.startswith(SERVICES)


@contextmanager
def connected(url: str, access: Access) -> Iterator[Any]:
    """Open a client of a server, with its failures in the words and codes of the command line."""
    with access.client(url) as client:
        from .. import client as library

        try:
            yield client
        except library.ServerUnreachable as error:
            raise Failure(str(error), USER_ERROR, "unreachable") from None
        except (library.JobFailed, library.JobLost) as error:
            raise Failure(str(error), FAILED, "execution_error") from None
        except library.JobInterrupted as error:
            raise Failure(str(error), INTERRUPTED, "interrupted") from None


def server_infos(url: str, access: Access) -> Infos:
    """Return the nodes of a server. Raises Failure."""
    with connected(url, access) as client:
        return node_infos(client.object_info(), client.url)


def upload(client: Any, prompt: Prompt, infos: Infos, folder: Path, known: dict[Any, str] | None = None) -> None:
    """Put the files that nodes load from a folder onto a server, and name them as it does.

    The server keeps what it has: other content under the same name gets another name there.

    Args:
        known: files that went there before, and their names.
    """
    known = {} if known is None else known
    for node in prompt.values():
        info = infos.get(str(node.get("class_type")), {})
        for name, entry in inputs_of(info):
            settings = entry[1] if len(entry) > 1 else {}
            value = node["inputs"].get(name)
            if not any(settings.get(kind) for kind in UPLOADS) or not isinstance(value, str):
                continue
            path = _local(folder, value)
            if path is not None and path.is_file():
                status = path.stat()
                file = path, status.st_size, status.st_mtime_ns
                known[file] = known.get(file) or client.upload(path, value.removesuffix(INPUT).rstrip())
                node["inputs"][name] = known[file]


def _local(folder: Path, value: str) -> Path | None:
    """Return where a file of the input folder lies here; None for those of other folders of the server."""
    if value.endswith(ELSEWHERE):
        return None
    try:
        return inside(folder, value.removesuffix(INPUT).rstrip())
    except ValueError as error:
        raise Failure(str(error)) from None


def download(client: Any, entries: Iterable[dict[str, Any]], folder: Path) -> Iterator[Path]:
    """Write files that a job made to a folder. No file is replaced: what is there already has the name, or its content.

    Raises Failure for names that lead out of the folder.
    """
    for entry in entries:
        name = "/".join(part for part in (str(entry.get("subfolder") or ""), str(entry["filename"])) if part)
        try:
            path = inside(folder, one_line(name))
        except ValueError as error:
            raise Failure(str(error)) from None
        if path == folder.resolve():
            raise Failure(f"the server names a file {short(name)!r}, which is no name")
        data = client.fetch(entry)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise Failure(f"the server names a file in {short(name)!r}, whose folder is a file already") from None
        same = [other for other in itertools.takewhile(Path.exists, _numbered(path)) if _holds(other, data)]
        yield same[0] if same else write_new(_numbered(path), partial(_put, data))


def _numbered(path: Path) -> Iterator[Path]:
    """Give the path, then others like it that are numbered."""
    yield path
    for number in itertools.count(1):
        yield path.with_name(f"{path.stem} ({number}){path.suffix}")


def _put(data: bytes, file: BinaryIO) -> None:
    file.write(data)


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
