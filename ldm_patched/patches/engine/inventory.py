"""What is on a model: every patch, this library's and foreign ones, with the slot it is in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from ..addressing.address import BlockId
from ..addressing.blocks import block_modules
from ..addressing.families import family_of
from ..patcher import Patch, Patcher
from ..record.plan import KEY, Entry
from .block_forward import foreign_in
from .gate import Gate
from .hold import holds_of
from .layer_forward import LORA, Added, LayerForward
from .listed import lists
from .marks import Mark
from .owner import foreign_name
from .router import SLOT, Router
from .stack import LAYERS, Key

ALL = "all"  # of slots and owners
OVERRIDE = "override"
WRAPPERS = "wrappers"
NETWORK = "diffusion_model."  # in the keys of object patches
# Slots in `model_options` with a list of functions, and those with one.
LISTS = ("sampler_pre_cfg_function", "sampler_post_cfg_function")
SINGLES = (
    "sampler_cfg_function",
    "sampler_calc_cond_batch_function",
    "model_function_wrapper",
    "denoise_mask_function",
)


class Placed(NamedTuple):
    """One patch in one slot; `address` is its key in `patches_replace`: (block, number) or (block, number, index).

    `key` is the path of what it replaces in the model, where it is an object patch; its slot is then the end of that.
    """

    slot: str
    patch: Any  # or a route or the watch of a router
    address: Key | None = None
    key: str = ""

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
    for slot, patches in lists(options).items():
        # some slots take pairs of a class of layers and the function that runs them
        called = (patch[-1] if isinstance(patch, tuple) else patch for patch in patches)
        yield from (Placed(slot, patch) for patch in called if not serves(patch))
    for slot, blocks in options.get(LAYERS, {}).items():
        yield from (Placed(slot, layer, block) for block, some in blocks.items() for layer in some if layer.counted)
    for slot, patches in options.get("patches_replace", {}).items():
        yield from (Placed(slot, patch, address) for address, patch in patches.items())
    if SLOT in options:
        yield from (Placed(OVERRIDE, part) for part in _parts(options[SLOT]))
    yield from (Placed(hold.gate.entry.slot, hold) for hold in holds_of(options))
    for slot in LISTS:
        yield from (Placed(slot, patch) for patch in model.model_options.get(slot, []) if not serves(patch))
    for slot in SINGLES:
        if slot in model.model_options:
            yield Placed(slot, model.model_options[slot])
    for keyed in model.wrappers.values():
        wrappers = (wrapper for key, wrappers in keyed.items() if key != KEY for wrapper in wrappers)
        yield from (Placed(WRAPPERS, wrapper) for wrapper in wrappers)
    yield from _at_layers(model)
    for key, patch in model.object_patches.items():
        # samplings, dtypes and the settings of layers are no patches
        theirs = foreign_in(patch)
        if key.startswith(NETWORK) and callable(theirs) and not isinstance(theirs, torch.nn.Module):
            yield _method_of(model, key, theirs)


def _at_layers(model: Patcher) -> Iterator[Placed]:
    """Yield one branch of each entry in each block: a LoRA has one at every layer."""
    patches = (patch for patch in model.object_patches.values() if isinstance(patch, LayerForward))
    first: dict[tuple[int, BlockId | None], Added] = {}
    for added in (one for patch in patches for one in patch.added):
        first.setdefault((added.gate.entry.number, added.block), added)
    yield from (Placed(LORA, added, None if block is None else tuple(block)) for (_, block), added in first.items())


def _method_of(model: Patcher, key: str, patch: Patch) -> Placed:
    """Return a patch in the place of a method of the network, of a block or of a part of one."""
    blocks = {id(module): block for block, module in block_modules(model.model.diffusion_model, family_of(model))}
    module, names = model.model.diffusion_model, key.removeprefix(NETWORK).split(".")
    for i, name in enumerate(names):
        if id(module) in blocks:
            path = names[i:] if len(names[i:]) > 1 else ["block", name]
            return Placed(".".join(path), patch, blocks[id(module)], key)
        module = getattr(module, name, None)
    return Placed(".".join(("model", *names)), patch, None, key)


def _parts(override: Patch) -> list[Any]:
    """Return what a router is made of."""
    if isinstance(override, Router):
        return [part for part in (*override.routes, override.watch, override.previous) if part is not None]
    return [override]


def owned(name: str, wanted: str) -> bool:
    """Return whether a name belongs to an owner that a user asked for: `all`, or a part of the name."""
    wanted = wanted.strip().lower()
    return wanted == ALL or wanted in name.lower()


def entry_number(patch: object) -> int | None:
    """Return the number of the entry that a patch or route belongs to; None for a foreign patch."""
    gate = getattr(patch, "gate", None)
    entry = getattr(gate if isinstance(gate, Gate) else patch, "entry", None)
    return entry.number if isinstance(entry, Entry) else None


def serves(patch: object) -> bool:
    """Return whether a patch changes nothing and only serves the others."""
    return isinstance(patch, Mark) or (entry_number(patch) is not None and not getattr(patch, "counted", True))


def block_name(address: Key) -> str:
    """Name a key of `patches_replace`: (block, number), or (block, number, index)."""
    if len(address) not in (2, 3):
        return str(address)
    block_type, number, *index = address
    # no model has a second middle: that address has to show its number
    block = f"{block_type}:{number}" if number else str(BlockId(block_type, number))
    return ".".join([block, *map(str, index)])
