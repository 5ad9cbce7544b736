"""Results of nodes that outlive the run they came from: encoded texts, loaded pictures, latents of references."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor

from ..api.comfy_io import NodeOutput

MOST = 2**29  # bytes
ENTRY = 1024  # bytes that a result counts beside its tensors
PLAIN = (str, int, float, bool, type(None))
SAMPLED = {"MODEL", "GUIDER"}  # a sampling has a record, which does not outlive so many others


class OlderResults:
    """Results by what they depend on, up to a number of bytes; the one that was longest of no use goes first."""

    def __init__(self, most: int = MOST) -> None:
        self.most, self.bytes = most, 0
        self._found: OrderedDict[str, tuple[NodeOutput, int]] = OrderedDict()

    def get(self, signature: str) -> NodeOutput | None:
        """Return a result; None where there is none, or none any more."""
        if signature not in self._found:
            return None
        self._found.move_to_end(signature)
        return self._found[signature][0]

    def keep(self, signature: str, result: NodeOutput, schema: Any) -> None:
        """Keep the result of a node, unless it shows something, came of a model, or is more than tensors and values.

        A file that a node shows lies in the folder of its run; a model has weights, which its loader keeps.
        """
        if signature in self._found or result.ui or any(entry.io_type in SAMPLED for entry in schema.inputs):
            return
        storages: dict[int, int] = {}
        if not _is_plain(result.args, storages):
            return
        size = ENTRY + sum(storages.values())
        if size > self.most:
            return
        self._found[signature] = result, size
        self.bytes += size
        while self.bytes > self.most:
            self.bytes -= self._found.popitem(last=False)[1][1]


def _is_plain(value: Any, storages: dict[int, int]) -> bool:
    """Return whether a value is made of tensors and plain values, and add the bytes of its tensors by their place."""
    if type(value) is Tensor:
        storage = value.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return True
    if type(value) in (list, tuple):
        return all(_is_plain(part, storages) for part in value)
    if type(value) is dict:
        return all(isinstance(key, str) and _is_plain(part, storages) for key, part in value.items())
    return isinstance(value, PLAIN)
