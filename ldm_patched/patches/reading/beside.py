"""What each patch of a model stands in the place of, or keeps from being called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..engine.inventory import OVERRIDE, Placed, block_name, placed
from ..engine.owner import foreign_name
from ..engine.router import SLOT, Router
from ..patcher import Patcher
from .inspector import Finding, hider, replacer

# What a foreign patch in a slot takes the place of.
REPLACES = {
    "attn1": "the self-attention",
    "attn2": "the cross-attention",
    "dit": "the block",
    OVERRIDE: "the attention function",
    "sampler_cfg_function": "the guidance",
    "sampler_calc_cond_batch_function": "the predictions of the prompts",
}


def beside(model: Patcher, found: Sequence[Finding]) -> list[str]:
    """Return a line for each finding; empty where a patch takes no place. The last ones can be of entries that are
    gone."""
    parts = list(placed(model))
    lines = ["; ".join(_said(model, part, parts)) for part in parts]
    return [*lines, *[""] * (len(found) - len(lines))]


def _said(model: Patcher, part: Placed, parts: Sequence[Placed]) -> Iterator[str]:
    if part.key:
        yield f"in the place of the model's own {part.slot}"
    elif part.number is None and part.slot in REPLACES:
        yield f"in the place of {REPLACES[part.slot]}"
    behind = model.model_options.get("transformer_options", {}).get(SLOT)
    if part.slot == OVERRIDE and part.number is None and isinstance(behind, Router):
        yield "for the calls that no rule of Patchbay takes"
    yield from (f"hides {_name(other)}" for other in parts if hider(other, parts) is part)
    yield from (f"goes round {_name(other)}" for other in parts if replacer(other, parts) is part)
    yield from (f"around {_name(other)}" for other in parts if _inside(other, part))


def _inside(other: Placed, part: Placed) -> bool:
    """Return whether a foreign replacement runs inside of a layer of this library."""
    if part.number is None or part.address is None or other.number is not None or other.key:
        return False
    return other.slot == part.slot and other.address in (part.address, part.address[:2])


def _name(part: Placed) -> str:
    where = "" if part.address is None else f" on {block_name(part.address)}"
    return f"{foreign_name(part.patch)}{where}"
