"""Everything that is on a model, of this library and of others, and what of it can have no effect."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from ..addressing.blocks import model_blocks
from ..addressing.families import AFTER, HIDDEN, JOINT, JOINT_INPUT, UNET, Family, family_of
from ..engine.call import APPLY_MODEL, compiles
from ..engine.hold import holds_of
from ..engine.inventory import LISTS, OVERRIDE, SINGLES, WRAPPERS, Placed, block_name, placed
from ..engine.owner import foreign_name, owner
from ..engine.router import SLOT, Router
from ..patcher import Patch, Patcher, TransformerOptions
from ..record.archive import ARCHIVE, GoneError
from ..record.plan import KEY, Entry, entries, plan_of
from ..record.run import Run
from .fate import fate, overridden
from .report import Row, layout

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
    """One patch: where it is, whose it is, what it did in a run and why it may do nothing.

    `calls` is None where they cannot be counted, `trouble` is empty where nothing is known to be wrong.
    """

    slot: str
    block: str
    owner: str
    schedule: str
    calls: int | None
    seconds: float | None
    trouble: str


def findings(model: Patcher, samples: Tensor | None = None) -> list[Finding]:
    """List every patch of a model patcher in the order of the slots, foreign ones and those of this library.

    Calls are those of the run that gave the latent `samples`; nothing is told of them where it is not known.
    """
    parts, (run, _) = list(placed(model)), _known(model, samples)
    there = {part.number for part in parts}
    lost = (entry for entry in entries(model) if not entry.neutral and entry.number not in there)
    return [*(_finding(model, part, parts, run) for part in parts), *(_gone(model, entry) for entry in lost)]


def _gone(model: Patcher, entry: Entry) -> Finding:
    """Return the finding of an entry of which a later node has left nothing on the model."""
    schedule = entry.schedule.suffix.strip() or "always"
    override = model.model_options["transformer_options"].get(SLOT) if entry.slot == SLOT else None
    by = "another node" if override is None else foreign_name(override)
    name = f"{entry.number}. {entry.name}"
    why = entry.unused if entry.nowhere else f"{by} took its place"
    return Finding(entry.slot, _meant(entry), name, schedule, None, None, why)


def _known(model: Patcher, samples: Tensor | None) -> tuple[Run | None, str]:
    """Return the run that gave a latent, or why it is not known."""
    if samples is None:
        return None, ""
    try:
        return ARCHIVE.find(samples, plan_of(model)), ""
    except GoneError as error:
        return None, str(error)


def _finding(model: Patcher, part: Placed, parts: list[Placed], run: Run | None) -> Finding:
    entry = next((entry for entry in entries(model) if entry.number == part.number), None)
    block = "all" if part.address is None else block_name(part.address)
    trouble = "; ".join(_troubles(model, part, parts, run, entry))
    if entry is not None:
        block = _meant(entry) if part.address is None else block
        uses = run.patched.items() if run is not None else ()
        calls = None if run is None else sum(count for (number, _), count in uses if number == entry.number)
        if run is not None and run.holds(entry.number):
            calls = sum(count for held, count in run.held.items() if held.number == entry.number)
        schedule = entry.schedule.suffix.strip() or "always"
        return Finding(part.slot, block, f"{entry.number}. {entry.name}", schedule, calls, None, trouble)
    count, seconds = _counted(model, part, run)
    return Finding(part.slot, block, foreign_name(part.patch), _gated(model, part), count, seconds, trouble)


def _gated(model: Patcher, part: Placed) -> str:
    """Return which gates a foreign patch is under."""
    holds = holds_of(model.model_options.get("transformer_options", {}))
    names = [
        f"{hold.gate.entry.number}. {hold.gate.entry.name}"
        for hold in holds
        if hold.part(part.slot, part.patch, part.address)
    ]
    return ", ".join(names) or "-"


def _meant(entry: Entry) -> str:
    blocks = dict.fromkeys(str(block) for block, _ in entry.targets)
    return ", ".join(blocks) if 0 < len(blocks) <= 4 else f"{len(blocks)} blocks" if blocks else "all"


def _counted(model: Patcher, part: Placed, run: Run | None) -> tuple[int | None, float | None]:
    """Return calls and seconds of a foreign patch in a run, None where nobody counted."""
    if run is None:
        return None, None
    if part.slot == OVERRIDE:
        if not isinstance(model.model_options["transformer_options"][SLOT], Router):
            return None, None  # it stands in front of this library's, which sees only what it lets through
        return sum(n for call, n in run.calls.items() if call.backend == owner(part.patch)), None
    if not _in_model_call(part):
        return None, None
    tally = run.foreign.get(id(part.patch))
    return (tally.count, tally.seconds) if tally is not None else (0, 0.0)


def _in_model_call(part: Placed) -> bool:
    """Return whether the model itself calls a patch, in which case its calls are counted."""
    return not part.key and part.slot not in (OVERRIDE, WRAPPERS, *LISTS, *SINGLES)


def makers(model: Patcher, found: Sequence[Finding]) -> list[tuple[str, int]]:
    """Return what made each finding: the name of its method, or of its node where it has one, and how many came before.

    The name is empty for patches of others.
    """
    names = {f"{entry.number}. {entry.name}": _kind(entry) for entry in sorted(entries(model), key=_number)}
    earlier = {name: list(names.values())[:place].count(kind) for place, (name, kind) in enumerate(names.items())}
    return [(names.get(finding.owner, ""), earlier.get(finding.owner, 0)) for finding in found]


def _kind(entry: Entry) -> str:
    made = type(entry.value)
    return getattr(getattr(made, "declaration", None), "node", "") or made.__name__


def _number(entry: Entry) -> int:
    return entry.number


# What can be wrong


def _troubles(model: Patcher, part: Placed, parts: list[Placed], run: Run | None, entry: Entry | None) -> Iterator[str]:
    family = family_of(model)
    if entry is None:
        yield from _misplaced(model, part, family)
        yield from _hidden(part, parts)
        yield from _passed_over(part, parts)
    elif run is not None and (reason := fate(run, entry)).startswith("never ran"):
        yield reason
    elif run is not None and (lost := overridden(run, entry)):
        yield lost
    options = model.model_options.get("transformer_options", {})
    if _stale(model, options) and _in_model_call(part):
        yield "torch.compile may keep a graph from before it; put a Patchbay node on the model"
    if entry is None and _counted(model, part, run)[0] == 0:
        yield "not called in the run"


def _misplaced(model: Patcher, part: Placed, family: Family) -> Iterator[str]:
    """Yield where a foreign patch does not fit the family, or its address not the model."""
    shapes = SHAPES.get(family.calls, {})
    if part.slot in ATTENTION_SLOTS and part.slot not in shapes:
        yield f"{family.name} models never call this slot"
    elif part.slot in shapes and not fits(part.patch, *shapes[part.slot]):
        yield f"{family.name} models call this slot with other arguments than it takes"
    blocks = {address for info in model_blocks(model) for address in (info.id, info.id[:2])}
    if part.slot in ("attn1", "attn2") and blocks and part.address not in blocks:
        yield "the model has no such block"


def _hidden(part: Placed, parts: list[Placed]) -> Iterator[str]:
    """Yield where entries with an exact address hide a foreign one for the whole block."""
    by = hider(part, parts)
    if by is not None:
        yield f"hidden by {foreign_name(by.patch)} on {block_name(by.address or ())}"


def hider(part: Placed, parts: Sequence[Placed]) -> Placed | None:
    """Return the foreign patch with an exact address that hides one for the whole block; None where none does."""
    if part.slot not in ("attn1", "attn2") or part.address is None or len(part.address) != 2:
        return None
    exact = [other for other in parts if other.slot == part.slot and len(other.address or ()) == 3]
    hiding = (other for other in exact if other.number is None and (other.address or ())[:2] == part.address)
    return next(hiding, None)


def _passed_over(part: Placed, parts: list[Placed]) -> Iterator[str]:
    """Yield whose replaced attention runs in the place of a foreign method of an attention."""
    by = replacer(part, parts)
    if by is not None:
        name = f"patch {by.number}" if by.number is not None else foreign_name(by.patch)
        yield f"{name} replaces this attention, so it is not called"


def replacer(part: Placed, parts: Sequence[Placed]) -> Placed | None:
    """Return the patch that replaces the attention of which a foreign one took a method; None where none does."""
    slot = part.slot.partition(".")[0]
    if not part.key or slot not in ("attn1", "attn2") or part.address is None:
        return None
    there = (other for other in parts if other.slot == slot and other.address in (part.address, part.address[:2]))
    return next(there, None)


def _stale(model: Patcher, options: TransformerOptions) -> bool:
    """Return whether the model is compiled with nobody who keeps its graphs apart."""
    watched = KEY in model.wrappers.get(APPLY_MODEL, {})
    compiled = compiles({"wrappers": {kind: dict(keyed) for kind, keyed in model.wrappers.items()}})
    return (compiled or compiles(options)) and not watched


def fits(patch: Patch, count: int, keywords: Iterable[str]) -> bool:
    """Return whether a patch takes `count` positional arguments and these keywords; True where nobody can tell."""
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


def rows(found: Sequence[Finding]) -> list[Row]:
    """Return findings as plain values."""
    return [finding._asdict() for finding in found]


def text(model: Patcher, found: Sequence[Finding], samples: Tensor | None = None) -> str:
    """Return the findings of a model for reading; it says so where the run of the latent `samples` is not known."""
    blocks = model_blocks(model)
    troubled = sum(bool(finding.trouble) for finding in found)
    head = f"{family_of(model).name} model, {len(blocks)} transformer blocks, {len(found)} patches"
    head += f", {troubled} of them without effect or at risk." if troubled else "."
    lines = [list(COLUMNS), *map(_row, found)] if found else []
    why = "" if plan_of(model) is None else _known(model, samples)[1]
    told = [head, f"No calls are shown: {why}."] if why else [head]
    return "\n".join([*told, "", *layout(lines)] if lines else told)


def _row(finding: Finding) -> list[str]:
    calls = "-" if finding.calls is None else str(finding.calls)
    took = "-" if finding.seconds is None else f"{finding.seconds:.3f} s"
    return [finding.slot, finding.block, finding.owner, finding.schedule, calls, took, finding.trouble or "ok"]
