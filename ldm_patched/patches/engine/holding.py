"""The patches of others in a call of the model, and in a run of a sampler, put under the gates that hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..patcher import Patch, Patcher, TransformerOptions
from .held import ANY, FORMS, SAMPLER, Form, Held
from .hold import Hold, holds_of
from .inventory import OVERRIDE, placed
from .owner import foreign_name
from .router import SLOT, Router


def with_held(options: TransformerOptions, calls: str) -> TransformerOptions:
    """Return the options of a call of a model, which calls its slots by a contract, with what is held under gates."""
    holds, forms = holds_of(options), FORMS.get(calls, {})
    if not holds:
        return options
    lists = {
        slot: [_under(holds, forms, slot, one) for one in some] for slot, some in options.get("patches", {}).items()
    }
    replaced = {slot: _slots(holds, forms, slot, some) for slot, some in options.get("patches_replace", {}).items()}
    found = {**options, "patches": lists, "patches_replace": replaced}
    router = options.get(SLOT)
    if isinstance(router, Router) and router.previous is not None:
        found[SLOT] = replace(router, held=_override(holds, router.previous))
    return found


def _slots(
    holds: tuple[Hold, ...], forms: Mapping[str, Form], slot: str, patches: Mapping[Any, Patch]
) -> dict[Any, Patch]:
    """Return replaced attentions or blocks; where an exact address is held back, what the block has runs."""
    found: dict[Any, Patch] = {}
    for address in sorted(patches, key=len):
        below = found.get(address[:2]) if len(address) > 2 else None
        found[address] = _under(holds, forms, slot, patches[address], address, below)
    return {address: found[address] for address in patches}


def _under(
    holds: tuple[Hold, ...],
    forms: Mapping[str, Form],
    slot: str,
    patch: Any,
    address: tuple[Any, ...] | None = None,
    below: Patch | None = None,
) -> Any:
    """Return a patch under the holds of it; one that options of an earlier call have brought is under them already."""
    held = patch
    for hold in holds:
        part = hold.part(slot, patch, address)
        if part is not None:
            held = Held(hold, part, forms[slot], held, below)
    return held


def _override(holds: tuple[Hold, ...], override: Patch) -> Held | None:
    found = ((hold, hold.part(OVERRIDE, override)) for hold in holds)
    return next((Held(hold, part, ANY, override) for hold, part in found if part is not None), None)


def left_alone(model: Patcher) -> Iterator[str]:
    """Yield a line for each patch of others that a gate was meant for and does not hold, with the reason."""
    options = model.model_options.get("transformer_options", {})
    parts = [part for part in placed(model) if part.number is None]
    for hold in holds_of(options):
        entry, found = hold.gate.entry, {}
        for part in parts:
            if entry.value.wants(part) and hold.part(part.slot, part.patch, part.address) is None:
                why = (why for patch, why in hold.left if patch is part.patch)
                found[f"{foreign_name(part.patch)} ({part.slot})"] = next(why, "it was put on the model later")
        yield from (f"{entry.name} does not hold {name}: {why}." for name, why in found.items())


def held_functions(model_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the functions of a sampler that are held, by their names in the options of a model."""
    holds = holds_of(model_options.get("transformer_options", {}))
    found: dict[str, Any] = {}
    for slot in SAMPLER if holds else ():
        given = model_options.get(slot)
        if isinstance(given, list):
            found[slot] = [_under(holds, SAMPLER, slot, one) for one in given]
        elif given is not None:
            found[slot] = _under(holds, SAMPLER, slot, given)
    return found
