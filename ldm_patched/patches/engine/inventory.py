"""What is on a model: every patch, this library's and foreign ones, with the slot it is in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..addressing.address import BlockId
from ..patcher import Patch, Patcher
from ..record.plan import KEY, Entry
from .gate import Gate
from .marks import Mark
from .router import SLOT, Router
from .stack import Key, Stack

OVERRIDE = "override"
WRAPPERS = "wrappers"
# Slots in `model_options` with a list of functions, and those with one.
LISTS = ("sampler_pre_cfg_function", "sampler_post_cfg_function")
SINGLES = (
    "sampler_cfg_function",
    "sampler_calc_cond_batch_function",
    "model_function_wrapper",
    "denoise_mask_function",
)


class Placed(NamedTuple):
    """One patch in one slot; `address` is its key in `patches_replace`: (block, number) or (block, number, index)."""

    slot: str
    patch: Any  # or a route or the watch of a router
    address: Key | None = None

    @property
    def number(self) -> int | None:
        """Return the number of the entry it belongs to; None for a foreign patch."""
        return entry_number(self.patch)

    @property
    def block(self) -> BlockId | None:
        """Return the transformer block of its address."""
        return None if self.address is None else BlockId(*self.address)

    def __str__(self) -> str:
        where = "" if self.address is None else f" on {block_name(self.address)}"
        return f"{foreign_name(self.patch)} ({self.slot}{where})"


def placed(model: Patcher) -> Iterator[Placed]:
    """Yield every patch of a model patcher but the marks and wrappers that only serve others."""
    options = model.model_options.get("transformer_options", {})
    for slot, patches in options.get("patches", {}).items():
        yield from (Placed(slot, patch) for patch in patches if not serves(patch))
    for slot, patches in options.get("patches_replace", {}).items():
        for address, patch in patches.items():
            yield from (Placed(slot, part, address) for part in _parts(patch))
    if SLOT in options:
        yield from (Placed(OVERRIDE, part) for part in _parts(options[SLOT]))
    for slot in LISTS:
        yield from (Placed(slot, patch) for patch in model.model_options.get(slot, []))
    for slot in SINGLES:
        if slot in model.model_options:
            yield Placed(slot, model.model_options[slot])
    for keyed in model.wrappers.values():
        wrappers = (wrapper for key, wrappers in keyed.items() if key != KEY for wrapper in wrappers)
        yield from (Placed(WRAPPERS, wrapper) for wrapper in wrappers)


def _parts(patch: Patch) -> list[Any]:
    """Return what a stack or a router is made of, without layers that only serve others of their method.

    The foreign patch of (block, number) has a place of its own.
    """
    if isinstance(patch, Router):
        return [part for part in (*patch.routes, patch.watch, patch.previous) if part is not None]
    if isinstance(patch, Stack):
        layers = [layer for layer in patch.layers if layer.counted]
        return [*layers, *([patch.foreign] if patch.exact else [])]
    return [patch]


def entry_number(patch: object) -> int | None:
    """Return the number of the entry that a patch or route belongs to; None for a foreign patch."""
    gate = getattr(patch, "gate", None)
    entry = getattr(gate if isinstance(gate, Gate) else patch, "entry", None)
    return entry.number if isinstance(entry, Entry) else None


def serves(patch: object) -> bool:
    """Return whether a patch changes nothing and only serves the others."""
    return isinstance(patch, Mark)


def block_name(address: Key) -> str:
    """Name a key of `patches_replace`: (block, number), or (block, number, index)."""
    if len(address) not in (2, 3):
        return str(address)
    block_type, number, *index = address
    # no model has a second middle: that address has to show its number
    block = f"{block_type}:{number}" if number else str(BlockId(block_type, number))
    return ".".join([block, *map(str, index)])


def foreign_name(patch: Any) -> str:
    """Name a patch by its owner and the function or class that it comes from."""
    source = _source(patch)
    return f"{owner(patch)}.{source.__qualname__}".replace(".<locals>", "")


def owner(patch: Any) -> str:
    """Name the module of a patch; where it is of a node pack, by the pack: `sd-perturbed-attention: nag_nodes`.

    ComfyUI gives a pack the path of its folder as the name of its module, with `_x_` for each dot.
    """
    module: str = _source(patch).__module__
    _, found, inside = module.replace("\\", "/").rpartition("custom_nodes/")
    if not found:
        return module
    pack, _, rest = inside.partition(".")
    pack = pack.replace("_x_", ".")
    return f"{pack}: {rest}" if rest else pack


def _source(patch: Any) -> Any:
    """Return the function or class that a patch comes from."""
    patch = getattr(patch, "func", patch)  # of a partial
    return patch if hasattr(patch, "__qualname__") else type(patch)
