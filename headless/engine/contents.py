"""What the result of a node depends on, by content: one name in every process, another when anything differs."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...ldm_patched.demo import CHECKPOINT
from ...ldm_patched.ldm.modules.backends.registry import usable
from ...ldm_patched.modules.model_management import get_torch_device
from ..api.comfy_io import ComfyNode
from ..api.session import current
from ..nodes.pictures import decoders
from .brought import declared
from .file_digests import FileDigests
from .older_results import SAMPLED
from .validate import Catalog, is_link
from .workflow import Prompt

PACK = Path(__file__).parents[2]
ROOMS = ("headless", "ldm_patched", "nodes")


class Contents:
    """Names results by class, values, the files that are read, this pack, torch and the machine."""

    def __init__(self, catalog: Catalog, digests: FileDigests) -> None:
        self.catalog, self.digests = catalog, digests

    def key(self, nodes: Prompt, id: str, known: dict[str, str | None]) -> str | None:
        """Return the name of a node's result; None where something behind it was sampled, or depends on more.

        Args:
            known: the names of nodes that were asked for, sources first; it grows.
        """
        waiting = [] if id in known else [id]
        while waiting:
            node = nodes[waiting[-1]]
            given = declared(self.catalog[node["class_type"]], node)
            missing = [value[0] for value in given.values() if is_link(value) and value[0] not in known]
            if missing:
                waiting.append(missing[0])
            else:
                known[waiting.pop()] = self._own(node["class_type"], given, known)
        return known[id]

    def _own(self, kind: str, given: Mapping[str, Any], known: Mapping[str, str | None]) -> str | None:
        cls = self.catalog[kind]
        sources = {name: [known[value[0]], value[1]] for name, value in given.items() if is_link(value)}
        if not _is_pure(cls) or any(key is None for key, _ in sources.values()):
            return None
        values = {name: value for name, value in given.items() if name not in sources}
        try:
            files = [self.digests.of(path) for path in self._files(cls, values)]
        except (KeyError, OSError, ValueError):  # a name from another node, or of what is no single file
            return None
        return _digest([kind, values, sources, files, self._surroundings()])

    @staticmethod
    def _files(cls: type[ComfyNode], values: Mapping[str, Any]) -> list[Path]:
        """Return the files that a node reads, and those that a text encoder reads where a prompt names them."""
        folders = current().folders
        found = files_read(cls, values)
        if any(output.io_type == "CLIP" for output in cls.GET_SCHEMA().outputs):
            found += [folders.model("embeddings", name) for name in folders.model_names("embeddings")]
        return found

    def _surroundings(self) -> list[Any]:
        dtype = current().unet_dtype
        return [*machine(), self.pack, str(dtype), torch.get_num_threads()]

    @functools.cached_property
    def pack(self) -> str:
        """Return the version of the pack: what its code and its demo model hold."""
        found = hashlib.sha256(self.digests.of(CHECKPOINT).encode())
        for path in sorted(path for room in ROOMS for path in (PACK / room).rglob("*.py")):
            found.update(f"{path.relative_to(PACK).as_posix()}\0".encode() + path.read_bytes())
        return found.hexdigest()


def files_read(cls: type[ComfyNode], values: Mapping[str, Any]) -> list[Path]:
    """Return the files that a node reads.

    Raises KeyError for a name that comes from another node, OSError and ValueError for one of no file.
    """
    folders = current().folders
    return [path for name, kind in cls.reads.items() for path in folders.files(kind, values[name])]


def prints(cls: type[ComfyNode], values: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return size and time of the files that a node reads, so that a new one under the same name is read again."""
    try:
        found = [path.stat() for path in files_read(cls, values)]
    except (KeyError, OSError, ValueError):  # the node itself will tell
        return []
    return [(status.st_size, status.st_mtime_ns) for status in found]


@functools.cache
def machine() -> tuple[str, ...]:
    """Return what decides, beside the inputs, how sums are rounded and pictures decoded."""
    device = get_torch_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return torch.__version__, *decoders(), device.type, name, *usable()


def _is_pure(cls: type[ComfyNode]) -> bool:
    """Return whether the inputs and files of a node decide its result.

    What takes a model and gives none samples with it or reads its runs: it is measured, and has a record.
    """
    schema = cls.GET_SCHEMA()
    inputs, outputs = ({entry.io_type for entry in entries} for entries in (schema.inputs, schema.outputs))
    samples = bool(inputs & SAMPLED) and "MODEL" not in outputs
    outside = schema.not_idempotent or schema.hidden or hasattr(cls, "fingerprint_inputs")
    return not samples and not outside


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()
