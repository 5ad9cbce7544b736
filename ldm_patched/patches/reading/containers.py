"""The containers of a clone that hold its patches: emptied of this library's, and put in order again.

Both hosts copy every dict and list of options, wrappers and callbacks with a model, so those of a clone are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..engine.hold import HOLDS
from ..engine.inventory import LISTS, OVERRIDE, SINGLES, WRAPPERS, Placed, entry_number
from ..engine.layer_forward import take_off
from ..engine.listed import LISTED
from ..engine.router import SLOT, Router
from ..engine.stack import ATTEND, LAYERS, Key
from ..patcher import Patch, Patcher, TransformerOptions
from ..record.plan import KEY

T = TypeVar("T")
Stays = Callable[..., bool]


def bare(model: Patcher, foreign: Sequence[Placed] = ()) -> Patcher:
    """Return a clone with nothing of this library, and without some foreign patches."""
    clone = model.clone()
    gone = {(part.slot, part.address, id(part.patch)) for part in foreign}

    def stays(slot: str, patch: Patch | None, address: Key | None = None) -> bool:
        if patch is None or entry_number(patch) is not None:
            return False
        return (slot, address, id(patch)) not in gone

    for slot, patches in lists_of(clone).items():
        set_list(clone, slot, [patch for patch in patches if stays(slot, patch)])
    for part in foreign:
        clone.object_patches.pop(part.key, None)
    take_off(clone)
    _empty_options(clone.model_options.get("transformer_options", {}), stays)
    for slot in SINGLES:
        if not stays(slot, clone.model_options.get(slot)):
            clone.model_options.pop(slot, None)
    for moment, keyed in clone.wrappers.items():
        others = (key for key in keyed if key != KEY)
        left = {key: [wrapper for wrapper in keyed[key] if stays(WRAPPERS, wrapper)] for key in others}
        clone.wrappers[moment] = {key: wrappers for key, wrappers in left.items() if wrappers}
    return clone


def _empty_options(options: TransformerOptions, stays: Stays) -> None:
    for name in (KEY, LAYERS, LISTED, HOLDS, ATTEND):
        options.pop(name, None)
    for slot, slots in options.get("patches_replace", {}).items():
        for address in [address for address, patch in slots.items() if not stays(slot, patch, address)]:
            del slots[address]
    override = options.pop(SLOT, None)
    override = override.previous if isinstance(override, Router) else override
    if stays(OVERRIDE, override):
        options[SLOT] = override


# Lists and wrappers


def lists_of(model: Patcher) -> dict[str, list[Patch]]:
    """Return copies of the lists of patches of a model by slot."""
    options = model.model_options
    lists = {slot: list(patches) for slot, patches in options.get("transformer_options", {}).get("patches", {}).items()}
    return lists | {slot: list(options[slot]) for slot in LISTS if slot in options}


def set_list(clone: Patcher, slot: str, patches: list[Patch]) -> None:
    """Set one of these lists."""
    options = clone.model_options
    lists = options if slot in LISTS else options["transformer_options"].setdefault("patches", {})
    if patches:
        lists[slot] = patches
    else:
        lists.pop(slot, None)


def order_as(model: Patcher, clone: Patcher, numbers: Mapping[int, int]) -> None:
    """Give the lists and wrappers of a clone the order that they had on the model."""
    before = lists_of(model)
    for slot, patches in lists_of(clone).items():
        set_list(clone, slot, as_in(before.get(slot, []), patches, numbers))
    for moment, keyed in clone.wrappers.items():
        old = [wrapper for wrappers in model.wrappers.get(moment, {}).values() for wrapper in wrappers]
        items = [item for item in keyed.items() if item[1]]
        clone.wrappers[moment] = dict(as_in(old, items, numbers, lambda item: item[1][0]))


def as_in(
    before: Sequence[Patch],
    now: Sequence[T],
    numbers: Mapping[int, int],
    patch_of: Callable[[Any], Patch] = lambda p: p,
) -> list[T]:
    """Sort patches into the order they had before; what is new comes last. `numbers` has the new of old entries."""

    def identity(patch: Patch, number: int | None) -> tuple[str, object]:
        return ("foreign", id(patch)) if number is None else ("ours", number)

    places: dict[tuple[str, object], int] = {}
    for place, patch in enumerate(before):
        number = entry_number(patch)
        places.setdefault(identity(patch, None if number is None else numbers.get(number, -1)), place)
    patches = map(patch_of, now)
    keys = [places.get(identity(patch, entry_number(patch)), len(before)) for patch in patches]
    return [now[index] for index in sorted(range(len(now)), key=keys.__getitem__)]
