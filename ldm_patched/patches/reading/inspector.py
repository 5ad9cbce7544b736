"""Everything that is on a model, of this library and of others, and what of it can have no effect."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from .compiled import call_model, compiles
from .families import AFTER, HIDDEN, JOINT, JOINT_INPUT, UNET, Family, family_of
from .inventory import LISTS, OVERRIDE, SINGLES, WRAPPERS, Placed, block_name, foreign_name, placed, recorder_of
from .recorder import Entry, Recorder
from .report import fate, layout
from .router import function_name
from .targets import model_blocks

COLUMNS = ("slot", "block", "owner", "schedule", "calls", "time", "state")
# How each contract calls the slots it has: positional arguments and keywords.
KEYWORDS = ("pe", "attn_mask", "extra_options")
Shape = tuple[int, tuple[str, ...]]
SHAPES: dict[str, dict[str, Shape]] = {
    UNET: {
        **dict.fromkeys(("attn1_patch", "attn2_patch"), (4, ())),
        **dict.fromkeys(("attn1_output_patch", "attn2_output_patch", "middle_patch"), (2, ())),
        **dict.fromkeys(("input_block_patch", "input_block_patch_after_skip"), (2, ())),
        "middle_block_after_patch": (1, ()),
        "output_block_patch": (3, ()),
        **dict.fromkeys(("attn1", "attn2"), (4, ())),
    },
    JOINT: {"attn1_patch": (3, KEYWORDS), "attn1_output_patch": (2, ()), "dit": (2, ())},
    JOINT_INPUT: {"attn1_patch": (3, KEYWORDS), "dit": (2, ())},
    HIDDEN: {**dict.fromkeys(("attn1_patch", "attn2_patch"), (3, KEYWORDS))},
    AFTER: {**dict.fromkeys(("attn1_patch", "attn2_patch"), (1, ())), "dit": (2, ())},
}
# What ComfyUI's attention blocks are known to call; a slot beside these may be a model's own.
ATTENTION_SLOTS = tuple(SHAPES[UNET])


class Finding(NamedTuple):
    """One patch: where it is, whose it is, what it did in the last run and why it may do nothing.

    `calls` is None where they cannot be counted, `trouble` is empty where nothing is known to be wrong.
    """

    slot: str
    block: str
    owner: str
    schedule: str
    calls: int | None
    seconds: float | None
    trouble: str


def findings(model: Any) -> list[Finding]:
    """List every patch of a model patcher in the order of the slots, foreign ones and those of this library."""
    recorder, parts = recorder_of(model), list(placed(model))
    return [_finding(model, part, parts, recorder) for part in parts]


def _finding(model: Any, part: Placed, parts: list[Placed], recorder: Recorder | None) -> Finding:
    entry = _entry(part, recorder)
    block = "all" if part.address is None else block_name(part.address)
    trouble = "; ".join(_troubles(model, part, parts, recorder, entry))
    if entry is not None and recorder is not None:
        block = _meant(entry) if part.address is None else block
        counts = [count for (number, _), count in recorder.patched.items() if number == entry.number]
        calls = sum(counts) if recorder.runs else None
        schedule = entry.schedule.suffix.strip() or "always"
        return Finding(part.slot, block, f"{entry.number}. {entry.name}", schedule, calls, None, trouble)
    count, seconds = _counted(part, recorder)
    return Finding(part.slot, block, foreign_name(part.patch), "-", count, seconds, trouble)


def _entry(part: Placed, recorder: Recorder | None) -> Entry | None:
    known = {entry.number: entry for entry in recorder.entries} if recorder is not None else {}
    return known.get(part.number) if part.number is not None else None


def _meant(entry: Entry) -> str:
    blocks = dict.fromkeys(str(block) for block, _ in entry.targets)
    return ", ".join(blocks) if 0 < len(blocks) <= 4 else f"{len(blocks)} blocks" if blocks else "all"


def _counted(part: Placed, recorder: Recorder | None) -> tuple[int | None, float | None]:
    """Return calls and seconds of a foreign patch in the last run, None where nobody counted."""
    if recorder is None or not recorder.runs:
        return None, None
    if part.slot == OVERRIDE:
        return sum(n for call, n in recorder.calls.items() if call.backend == function_name(part.patch)), None
    if not _in_model_call(part):
        return None, None
    tally = recorder.foreign.get(id(part.patch))
    return (tally.count, tally.seconds) if tally is not None else (0, 0.0)


def _in_model_call(part: Placed) -> bool:
    """Tell whether the model itself calls a patch, in which case its calls are counted."""
    return part.slot not in (OVERRIDE, WRAPPERS, *LISTS, *SINGLES)


# What can be wrong


def _troubles(
    model: Any, part: Placed, parts: list[Placed], recorder: Recorder | None, entry: Entry | None
) -> Iterator[str]:
    family = family_of(model)
    if entry is None:
        yield from _misplaced(model, part, family)
        yield from _hidden(part, parts)
    elif recorder is not None and recorder.runs and (reason := fate(recorder, entry)).startswith("never ran"):
        yield reason
    options = model.model_options.get("transformer_options", {})
    if _stale(model, options) and _in_model_call(part):
        yield "torch.compile may keep a graph from before it; put a Patchbay node on the model"
    if entry is None and recorder is not None and _counted(part, recorder)[0] == 0:
        yield "not called in the last run"


def _misplaced(model: Any, part: Placed, family: Family) -> Iterator[str]:
    """Tell where a foreign patch does not fit the family, or its address not the model."""
    shapes = SHAPES.get(family.calls, {})
    if part.slot in ATTENTION_SLOTS and part.slot not in shapes:
        yield f"{family.name} models never call this slot"
    elif part.slot in shapes and not fits(part.patch, *shapes[part.slot]):
        yield f"{family.name} models call this slot with other arguments than it takes"
    blocks = {address for info in model_blocks(model) for address in (info.id, info.id[:2])}
    if part.slot in ("attn1", "attn2") and blocks and part.address not in blocks:
        yield "the model has no such block"


def _hidden(part: Placed, parts: list[Placed]) -> Iterator[str]:
    """Tell where entries with an exact address hide a foreign one for the whole block."""
    if part.slot not in ("attn1", "attn2") or part.address is None or len(part.address) != 2:
        return
    exact = [other for other in parts if other.slot == part.slot and len(other.address or ()) == 3]
    hiding = [other for other in exact if other.number is None and (other.address or ())[:2] == part.address]
    if hiding:
        yield f"hidden by {foreign_name(hiding[0].patch)} on {block_name(hiding[0].address or ())}"


def _stale(model: Any, options: dict[str, Any]) -> bool:
    """Tell whether the model is compiled with nobody who keeps its graphs apart."""
    watched = any(
        wrapper is call_model for keyed in model.wrappers.values() for some in keyed.values() for wrapper in some
    )
    compiled = compiles({"wrappers": {kind: dict(keyed) for kind, keyed in model.wrappers.items()}})
    return (compiled or compiles(options)) and not watched


def fits(patch: Callable[..., Any], count: int, keywords: Iterable[str]) -> bool:
    """Tell whether a patch takes `count` positional arguments and these keywords; True where nobody can tell."""
    try:
        signature = inspect.signature(patch)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*[None] * count, **dict.fromkeys(keywords))
    except TypeError:
        return False
    return True


# To read


def rows(model: Any) -> list[dict[str, Any]]:
    """Return the findings as plain values."""
    return [finding._asdict() for finding in findings(model)]


def text(model: Any) -> str:
    """Return the findings for reading."""
    found, blocks = findings(model), model_blocks(model)
    troubled = sum(bool(finding.trouble) for finding in found)
    head = f"{family_of(model).name} model, {len(blocks)} transformer blocks, {len(found)} patches"
    head += f", {troubled} of them without effect or at risk." if troubled else "."
    lines = [list(COLUMNS), *map(_cells, found)] if found else []
    return "\n".join([head, "", *layout(lines)] if lines else [head])


def _cells(finding: Finding) -> list[str]:
    calls = "-" if finding.calls is None else str(finding.calls)
    took = "-" if finding.seconds is None else f"{finding.seconds:.3f} s"
    return [finding.slot, finding.block, finding.owner, finding.schedule, calls, took, finding.trouble or "ok"]
