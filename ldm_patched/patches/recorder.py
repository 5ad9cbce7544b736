"""Proof of effect: what attention calls ran where, on which function, and which patches had a part in them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .schedule import percent_of
from .targets import BlockId

KEY = "patchbay"


@dataclass(frozen=True)
class Entry:
    """What one node attached: a name to show and the blocks and kinds it is meant for (none where it fits any call)."""

    name: str
    targets: tuple[tuple[BlockId, str], ...] = ()
    number: int = 1  # place in the order of the graph


@dataclass(frozen=True)
class Call:
    """A group of equal attention calls: where, self or cross, which function, and why not the one asked for."""

    block: BlockId | None
    kind: str | None
    backend: str
    fallback: str = ""


@dataclass(eq=False)
class Recorder:
    """Count what happens during one sampling run of one model.

    One instance belongs to one clone of a model; it travels in `transformer_options` by reference, whatever the host
    copies. Calls from several threads are counted exactly.
    """

    entries: tuple[Entry, ...] = ()
    blocks: Mapping[BlockId, tuple[int, int]] = field(default_factory=dict)  # id -> (heads, dim_head)
    calls: Counter[Call] = field(default_factory=Counter)
    patched: Counter[tuple[Entry, BlockId | None]] = field(default_factory=Counter)
    runs: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._thread = threading.local()
        self._percents: dict[float, float] = {}
        self._percent_to_sigma: Callable[[float], float] | None = None

    def start(self, patcher: Any) -> None:
        """Forget the last run; called with the patcher that samples, before it does."""
        with self._lock:
            self.calls.clear()
            self.patched.clear()
            self._percents.clear()
            self.runs += 1
        self._percent_to_sigma = patcher.get_model_object("model_sampling").percent_to_sigma

    def count_call(self, call: Call) -> None:
        """Count one attention call."""
        with self._lock:
            self.calls[call] += 1

    def count_patch(self, entry: Entry, options: Mapping[str, Any]) -> None:
        """Count one use of a patch in the current block."""
        with self._lock:
            self.patched[entry, current_block(options)] += 1

    @property
    def kind(self) -> str | None:
        """Tell whether this thread is in `self`- or `cross`-attention; None where the model does not say."""
        return getattr(self._thread, "kind", None)

    @kind.setter
    def kind(self, kind: str | None) -> None:
        self._thread.kind = kind

    def percent(self, options: Mapping[str, Any]) -> float:
        """Return how far the run is, 0..1, from the current sigma; the tensor is read once a step."""
        sigmas: Tensor | None = options.get("sigmas")
        if sigmas is None or self._percent_to_sigma is None:
            return 0.0
        cached = getattr(self._thread, "percent", None)
        if cached is not None and cached[0] is sigmas:
            return cached[1]
        sigma = float(sigmas.flatten()[0])
        if sigma not in self._percents:
            self._percents[sigma] = percent_of(sigma, self._percent_to_sigma)
        self._thread.percent = (sigmas, self._percents[sigma])
        return self._percents[sigma]


def current_block(options: Mapping[str, Any]) -> BlockId | None:
    """Return the block that an attention call comes from, where the model says."""
    block = options.get("block")
    if block is not None:
        return BlockId(block[0], block[1], options.get("block_index", 0))
    index = options.get("block_index")
    if index is None:
        return None
    return BlockId(options.get("block_type", "block"), index)


@dataclass(frozen=True)
class Marker:
    """An attn1_patch or attn2_patch of a UNet that changes nothing but notes which attention comes next."""

    kind: str

    def __call__(self, n: Tensor, context: Tensor, value: Tensor, extra_options: Mapping[str, Any]) -> tuple:
        recorder = extra_options.get(KEY)
        if recorder is not None:
            recorder.kind = self.kind
        return n, context, value
