"""What this library puts into the lists of `patches`: a model keeps it beside them, and it enters in each call.

Other packs go through the lists of a model and count on what they know: what they find there is theirs.
"""

from __future__ import annotations

from ..patcher import Patch, TransformerOptions
from .marks import Mark
from .owner import foreign_name

LISTED = "patchbay_listed"  # in the options of a model: slot -> the functions that were put there


def with_listed(options: TransformerOptions, slot: str, patch: Patch) -> TransformerOptions:
    """Return options with a function at the end of those for a list."""
    known = options.get(LISTED, {})
    return {**options, LISTED: {**known, slot: (*known.get(slot, ()), patch)}}


def lists(options: TransformerOptions) -> dict[str, list[Patch]]:
    """Return the lists of a call, the functions of others first: some repeat the context that they get."""
    found = {slot: list(patches) for slot, patches in options.get("patches", {}).items()}
    for slot, ours in options.get(LISTED, {}).items():
        there = found.get(slot, [])
        # the options of a call can be used for one more
        found[slot] = [*there, *(patch for patch in ours if not any(patch is one for one in there))]
    return found


def others_in(options: TransformerOptions, slot: str) -> str:
    """Name the patches of others in a list of a call; empty where there are none."""
    patches = (getattr(patch, "__wrapped__", patch) for patch in options.get("patches", {}).get(slot, ()))
    theirs = (patch for patch in patches if not isinstance(patch, Mark) and not hasattr(patch, "gate"))
    return " and ".join(dict.fromkeys(map(foreign_name, theirs)))
