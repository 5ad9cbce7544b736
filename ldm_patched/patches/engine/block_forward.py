"""The forward of a transformer block: it tells the block to all that it calls, and methods scale what it adds."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..addressing.address import BlockId
from ..addressing.blocks import block_modules
from ..addressing.families import OPTIONS, UNET, Family
from ..patcher import Patcher, TransformerOptions
from .gate import Gate
from .stack import LAYERS

NETWORK = "diffusion_model"
BLOCK = "block"  # the slot of gains, beside attn1 and attn2
# The options of the call of the model that this thread makes now, for blocks that are not given them.
CALLED: ContextVar[TransformerOptions | None] = ContextVar("patchbay_called", default=None)


@dataclass(frozen=True)
class Gain:
    """A method's factor of what a block adds to its input, for its weight now; 0 leaves the block out."""

    gate: Gate
    factor: Callable[[float], float]
    counted: bool = True

    def now(self, options: TransformerOptions) -> float:
        """Return the factor in a call; 1 where the method does not act."""
        curve = self.gate.weight(options)
        if curve == 0.0:
            return 1.0
        self.gate.reach(options)
        self.gate.count(options)
        return self.factor(curve * self.gate.strength)


def called() -> TransformerOptions:
    """Return the options of the current call of the model."""
    return CALLED.get() or {}


def gain_of(gains: tuple[Gain, ...], options: TransformerOptions) -> float:
    """Return the factor of all gains of a block, whose order does not matter."""
    return math.prod(gain.now(options) for gain in gains)


class Outside(NamedTuple):
    """What blocks call from outside of compiled graphs, which would be compiled anew in each step."""

    called: Callable[[], TransformerOptions]
    gain_of: Callable[[tuple[Gain, ...], TransformerOptions], float]


@cache
def outside() -> Outside:
    """Return both functions; the first time loads torch's compiler, which takes two seconds."""
    return Outside(torch.compiler.disable(called), torch.compiler.disable(gain_of))


@dataclass(frozen=True)
class OnForward:
    """What this library puts in the place of a module's forward, around what stood there."""

    forward: Callable[..., Any]


@dataclass(frozen=True)
class Forward(OnForward):
    """What this library puts in the place of a block's forward; `place` is where the options stand unnamed.

    `block` is None for one that is no block of addresses.
    """

    outside: Outside
    block: BlockId | None
    place: int

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TransformerOptions:
        """Return the options of a call, those of the call of the model where the block gets none."""
        if OPTIONS not in kwargs and len(args) <= self.place:
            return self.outside.called()
        found: TransformerOptions = kwargs[OPTIONS] if OPTIONS in kwargs else args[self.place]
        return found

    def run(self, options: TransformerOptions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run what stood there before with other options."""
        if OPTIONS in kwargs:
            kwargs = {**kwargs, OPTIONS: options}
        elif len(args) > self.place:
            args = (*args[: self.place], options, *args[self.place + 1 :])
        return self.forward(*args, **kwargs)


@dataclass(frozen=True)
class BlockForward(Forward):
    """A block's forward with the block in the options that it hands on, or none for one that is no block of addresses.

    `hands` are the place and name of each parameter that the result stands for.
    """

    hands: tuple[tuple[int, str], ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        options = self._named(self.given(args, kwargs))
        gains = options.get(LAYERS, {}).get(BLOCK, {}).get(self.block)
        if not gains:
            return self.run(options, args, kwargs)
        gain = self.outside.gain_of(gains, options)
        before = tuple(kwargs[name] if name in kwargs else args[place] for place, name in self.hands)
        if gain == 0.0:
            return before if len(before) > 1 else before[0]
        # a forward further in, which another pack called, must not scale again
        options = {**options, LAYERS: {**options[LAYERS], BLOCK: {}}}
        if gain == 1.0:
            return self.run(options, args, kwargs)
        before = copied(before)  # blocks may write into what they get
        out = self.run(options, args, kwargs)
        return scaled(before if len(before) > 1 else before[0], out, gain)

    def _named(self, options: TransformerOptions) -> TransformerOptions:
        if self.block is None:
            return {name: given for name, given in options.items() if name not in ("block_type", "block_index")}
        return {**options, "block_type": self.block.type, "block_index": self.block.number}


def copied(before: Any) -> Any:
    """Return copies of tensors, in tuples where they are."""
    if isinstance(before, tuple):
        return tuple(map(copied, before))
    return before.clone() if isinstance(before, Tensor) else before


def scaled(before: Any, out: Any, gain: float) -> Any:
    """Return what a block made of its input, with what it added times `gain`; None stays, as of a text's last block."""
    if isinstance(out, tuple):
        return tuple(scaled(old, new, gain) for old, new in zip(before, out, strict=True))
    return out if out is None else torch.lerp(before.to(out.dtype), out, gain)


def name_blocks(clone: Patcher, family: Family, whole: Collection[BlockId] = ()) -> None:
    """Let each block of a clone tell which it is, where the family's host does not, and the `whole` ones be scaled.

    Once for each clone. What stands there is taken from the patcher, for another handle on the model may have put its
    own on the module.
    """
    net = clone.model.diffusion_model
    blocks = [] if family.calls == UNET else list(block_modules(net, family))
    untold = not (family.told or family.deaf)
    found = [(block, module) for block, module in blocks if untold or block in whole]
    every = [*found, *((None, block) for name in family.beside for block in getattr(net, name, ()))]
    paths = {id(module): path for path, module in net.named_modules()} if every else {}
    hands = dict(zip((type for type, _ in family.blocks), family.hands, strict=False))
    for block, module in every:
        path = f"{NETWORK}.{paths[id(module)]}.forward"
        forward = clone.get_model_object(path)
        if not isinstance(forward, BlockForward):
            places = hands.get(block.type, ()) if block is not None else ()
            given = BlockForward(forward, outside(), block, place_of_options(module), _parameters(module, places))
            clone.add_object_patch(path, given)


def foreign_in(patch: Any) -> Any:
    """Return what another pack put in the place of a method of the network; None for a module's own under ours."""
    if not isinstance(patch, OnForward):
        return patch
    while isinstance(patch, OnForward):
        patch = patch.forward
    module, function = (getattr(patch, name, None) for name in ("__self__", "__func__"))
    own = function is not None and function is getattr(type(module), "forward", None)
    return None if own else patch


def place_of_options(module: Any) -> int:
    """Return where the options stand among the arguments of a module's forward when they are not named."""
    names = _names(module)
    return names.index(OPTIONS) if OPTIONS in names else len(names)


def _parameters(module: Any, places: tuple[int, ...]) -> tuple[tuple[int, str], ...]:
    names = _names(module)
    return tuple((place, names[place] if place < len(names) else "") for place in places)


def _names(module: Any) -> list[str]:
    return list(inspect.signature(type(module).forward).parameters)[1:]
