"""The forward of a layer with what LoRAs add to its result in a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from ..addressing.address import BlockId
from ..patcher import Patcher, TransformerOptions
from ..record.run import run_of
from .block_forward import NETWORK, OnForward, called
from .branch import Branch
from .gate import Gate
from .host import Host

LORA = "lora"  # the slot of branches, to show


class Amount(Protocol):
    """How much of a branch acts in a call."""

    def __call__(self, options: TransformerOptions, x: Tensor, out: Tensor) -> tuple[float, Tensor | None]:
        """Return a factor, 0 where nothing is to be done, and a mask that fits the layer's result, if any."""


@dataclass(frozen=True)
class Added:
    """A branch of an entry at a layer: the layer's path in the network, its block, and how much acts when.

    `note` is told in the report of a run in which it acts, `counted` whether that is a use of the entry.
    """

    gate: Gate
    path: str
    block: BlockId | None
    branch: Branch
    amount: Amount
    note: str
    counted: bool = True

    def __call__(self, x: Tensor, out: Tensor, options: TransformerOptions) -> Tensor:
        """Return the result of the layer for x with the branch."""
        run = run_of(options)
        if run is None:
            return out
        factor, mask = self.amount(options, x, out)
        if factor == 0.0:
            return out
        if self.counted:
            run.count_patch(self.gate.entry.number, self.block)
        return self._here(options, x).added(out, x, factor, mask)

    def _here(self, options: TransformerOptions, x: Tensor) -> Branch:
        """Return the branch on the device of x, where the run keeps it."""
        kept: dict[Any, Branch] = self.gate.memory(options).setdefault("branches", {})
        key = id(self), x.device, x.dtype
        if key not in kept:
            kept[key] = self.gate.lasting(lambda: self.branch.to(x.device, x.dtype))
            run = run_of(options)
            if run is not None:
                run.notes.add(self.note)
        return kept[key]


@dataclass(frozen=True)
class LayerForward(OnForward):
    """A layer's forward, and the branches that are added to what it gives."""

    add: Callable[[tuple[Added, ...], Tensor, Tensor], Tensor]
    added: tuple[Added, ...]

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.add(self.added, x, self.forward(x, *args, **kwargs))


def add_all(added: tuple[Added, ...], x: Tensor, out: Tensor) -> Tensor:
    """Return the result of a layer with all branches."""
    options = called()
    for one in added:
        out = one(x, out, options)
    return out


@cache
def outside() -> Callable[[tuple[Added, ...], Tensor, Tensor], Tensor]:
    """Return `add_all` for use in compiled graphs, which leaves them; the first time loads torch's compiler."""
    found: Callable[[tuple[Added, ...], Tensor, Tensor], Tensor] = torch.compiler.disable(add_all)
    return found


@dataclass(frozen=True)
class AtLayers:
    """The place of branches: the forwards of their layers."""

    added: tuple[Added, ...]

    def put(self, clone: Patcher, host: Host) -> None:
        """Put each around what stands there, which is taken from the patcher; see `name_blocks`."""
        for one in self.added:
            path = f"{NETWORK}.{one.path}.forward"
            forward = clone.get_model_object(path)
            if isinstance(forward, LayerForward):
                clone.add_object_patch(path, replace(forward, added=(*forward.added, one)))
            else:
                clone.add_object_patch(path, LayerForward(forward, outside(), (one,)))


def take_off(clone: Patcher) -> None:
    """Take all branches off a clone, and leave what they stood around."""
    for path, patch in list(clone.object_patches.items()):
        if isinstance(patch, LayerForward):
            clone.add_object_patch(path, patch.forward)
