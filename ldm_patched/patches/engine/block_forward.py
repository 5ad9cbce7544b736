"""Which block makes a call, where the host does not say: the forward of each block tells it to all that it calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..addressing.address import BlockId
from ..addressing.blocks import block_modules
from ..addressing.families import OPTIONS, Family
from ..patcher import Patcher

NETWORK = "diffusion_model"


@dataclass(frozen=True)
class BlockForward:
    """A block's forward with the block in the options that it hands on, or none for one that is no block of addresses.

    `place` is where the options stand unnamed.
    """

    forward: Callable[..., Any]
    block: BlockId | None
    place: int

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if OPTIONS in kwargs:
            return self.forward(*args, **{**kwargs, OPTIONS: self._named(kwargs[OPTIONS])})
        if len(args) > self.place:
            args = (*args[: self.place], self._named(args[self.place]), *args[self.place + 1 :])
        return self.forward(*args, **kwargs)

    def _named(self, options: dict[str, Any]) -> dict[str, Any]:
        if self.block is None:
            return {name: given for name, given in options.items() if name not in ("block_type", "block_index")}
        return {**options, "block_type": self.block.type, "block_index": self.block.number}


def name_blocks(clone: Patcher, family: Family) -> None:
    """Let each block of a clone tell which it is, where the family's host does not; once for each clone.

    What stands there is taken from the patcher, for another handle on the model may have put its own on the module.
    """
    net = clone.model.diffusion_model
    told = [] if family.told or family.deaf else list(block_modules(net, family))
    found = [*told, *((None, block) for name in family.beside for block in getattr(net, name, ()))]
    paths = {id(module): path for path, module in net.named_modules()} if found else {}
    for block, module in found:
        path = f"{NETWORK}.{paths[id(module)]}.forward"
        forward = clone.get_model_object(path)
        if not isinstance(forward, BlockForward):
            clone.add_object_patch(path, BlockForward(forward, block, place_of_options(module)))


def place_of_options(module: Any) -> int:
    """Return where the options stand among the arguments of a module's forward when they are not named."""
    names = list(inspect.signature(type(module).forward).parameters)
    return names.index(OPTIONS) - 1 if OPTIONS in names else len(names)
