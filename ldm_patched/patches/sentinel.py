"""The NaN sentinel: a result of attention that is not finite is noticed, and computed again by an exact function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ldm.modules.backends.split import attention_split
from .recorder import Entry, Fault, Recorder
from .targets import Address, BlockId

MODES = ("repair", "check", "off")
REPAIR = "split in float32"


@dataclass(frozen=True)
class Sentinel:
    """Look for NaN and infinity in the results of the attention calls of `address`.

    `check` reports them; `repair` computes such a call again in float32 by an exact function, and every later call of
    that attention in this run too. Raises ValueError for another mode.
    """

    mode: str = "repair"
    address: Address = Address()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}; choose one of {', '.join(MODES)}")

    @property
    def name(self) -> str:
        """Describe the sentinel in one line."""
        return f"NaN guard {self.mode} on {self.address}"


class Watch(NamedTuple):
    """A sentinel on one model; `cells` are its (block, kind) pairs, None for every call."""

    mode: str
    entry: Entry
    cells: frozenset[tuple[BlockId | None, str | None]] | None

    def takes(self, block: BlockId | None, kind: str | None) -> bool:
        """Tell whether a call is watched."""
        return self.cells is None or (block, kind) in self.cells

    def settle(
        self,
        out: Tensor,
        backend: str,
        cell: tuple[BlockId | None, str | None],
        step: int,
        recorder: Recorder,
        again: Callable[[], Tensor],
    ) -> Tensor:
        """Return the result of a call, or that of `again` where it is not finite and may be repaired."""
        if finite(out):
            return out
        if self.mode == "check":
            recorder.count_fault(Fault(*cell, step, backend, "left as it is"))
            return out
        repaired = again()
        if not finite(repaired):
            recorder.count_fault(Fault(*cell, step, backend, "the inputs were not finite already"))
            return out
        recorder.count_fault(Fault(*cell, step, backend, f"{REPAIR} from there on"))
        recorder.downgrade(cell, f"{backend}: its result was not finite in step {step}")
        return repaired


def finite(x: Tensor) -> bool:
    """Tell whether a tensor holds neither NaN nor infinity; reads it once and waits for a GPU."""
    low, high = torch.aminmax(x)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def exact(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    """Compute attention in float32 in slices, and return it in the dtype of q."""
    mask = mask.float() if mask is not None and mask.is_floating_point() else mask
    return attention_split(q.float(), k.float(), v.float(), heads, mask, *args, **kwargs).to(q.dtype)
