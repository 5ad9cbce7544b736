"""The NaN guard: a result of attention that is not finite is noticed, and computed again by an exact function."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...ldm.modules.backends.split import attention_split
from ..addressing.where import Where
from ..engine.choice import Arguments, Choice
from ..engine.declaration import Refused, acts, choice, method
from ..engine.gate import Gate
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import Place
from ..engine.router import SLOT
from ..patcher import Patcher
from ..record.run import AttentionId, Fault, Run

MODES = ("repair", "check", "off")
REPAIR = "split in float32"


@method(
    node="PatchbayNaNGuard",
    title="Attention NaN Guard",
    text="Notice when an attention function gives NaN or infinity, the usual cause of black pictures, and compute that "
    "call again exactly. The Patch Report says block, step and function.",
    aliases=(
        "nan check",
        "black image fix",
        "sage attention black",
        "fp16 overflow",
        "nan black image",
        "all black",
        "black picture",
    ),
    verb="guard",
    gives="with this guard",
)
class Sentinel(Method):
    """Look for NaN and infinity in the results of the attention calls of some blocks.

    `check` reports them; `repair` computes such a call again in float32 by an exact function, and every later call of
    that attention in this run too. Raises ValueError for another mode.
    """

    mode: str = choice(
        MODES,
        "repair",
        tip="repair: compute such a call again in float32, and that attention from there on. check: only report it. "
        "off: do nothing.",
    )
    where: Where = acts(kinds=("all", "self", "cross"), end=None, curve=False)

    def check(self) -> None:
        """Refuse another mode."""
        if self.mode not in MODES:
            raise Refused(f"unknown mode {self.mode!r}; choose one of {', '.join(MODES)}", "mode")

    @property
    def slot(self) -> str:
        """Return the override."""
        return SLOT

    @property
    def neutral(self) -> bool:
        """Return whether it is off."""
        return self.mode == "off"

    @property
    def label(self) -> str:
        """Describe the guard."""
        return f"NaN guard {self.mode}"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return its place in the override of the model."""
        return [Watching(self, gate)]


def finite(x: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity; reads it once and waits for a GPU."""
    # a sum with NaN or infinity in it is never finite; one that overflows is not either, and is looked at again
    return math.isfinite(x.sum().item()) or all(math.isfinite(end.item()) for end in x.aminmax())


@dataclass(frozen=True)
class Watching:
    """A guard in place of the one that a model has; it is the watch of the model's router."""

    sentinel: Sentinel
    gate: Gate
    passes = staticmethod(finite)

    @property
    def number(self) -> int:
        """Return the number of the guard's entry."""
        return self.gate.entry.number

    def put(self, clone: Patcher, host: Host) -> None:
        """Make a router with this watch."""
        options = clone.model_options["transformer_options"]
        options[SLOT] = options[SLOT].with_watch(self)

    def takes(self, attention: AttentionId) -> bool:
        """Return whether a call is watched."""
        return self.sentinel.address.everywhere or attention in self.gate.entry.targets

    def replaced(self, attention: AttentionId, run: Run) -> Choice | None:
        """Return the exact function for an attention that has failed in this run."""
        return Choice(REPAIR, exact, run.downgraded[attention]) if attention in run.downgraded else None

    def settle(
        self, out: Tensor, choice: Choice, attention: AttentionId, step: int, run: Run, again: Arguments
    ) -> Tensor:
        """Return a result that is not finite, or that of an exact function where it may be repaired."""
        if self.sentinel.mode == "check":
            run.count_fault(Fault(*attention, step, choice.name, "left as it is"))
            return out
        repaired = exact(*again.args, **again.kwargs)
        if not finite(repaired):
            run.count_fault(Fault(*attention, step, choice.name, why_not(*again.args, **again.kwargs)))
            return out
        run.count_fault(Fault(*attention, step, choice.name, f"{REPAIR} from there on"))
        run.downgrade(attention, f"{choice.name}: its result was not finite in step {step}")
        return repaired


def why_not(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, *args: Any, **kwargs: Any) -> str:
    """Return why attention in float32 is not finite; -inf in a mask only hides a key."""
    spoiled = mask is not None and mask.is_floating_point() and bool((mask.isnan() | mask.isposinf()).any())
    if spoiled or not all(finite(x) for x in (q, k, v)):
        return "the inputs were not finite already"
    largest = max(abs(end.item()) for x in (q, k) for end in x.aminmax())
    return f"the inputs were finite, but of numbers up to {largest:.2g} the scores overflow in float32 too"


def exact(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
    """Compute attention in float32 in slices, and return it in the dtype of q."""
    mask = mask.float() if mask is not None and mask.is_floating_point() else mask
    return attention_split(q.float(), k.float(), v.float(), heads, mask, *args, **kwargs).to(q.dtype)
