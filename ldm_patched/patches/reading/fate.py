"""What became of a patch or rule in a run: where it ran, or why it never did."""

from __future__ import annotations

from ..engine.router import SLOT
from ..engine.sides import SIDES, UNCOND
from ..methods.live_mask import LiveMask, live
from ..record.plan import Entry
from ..record.run import Run
from . import held


def fate(run: Run, entry: Entry) -> str:
    """Return what became of an entry in a run: where it ran, or why it never did."""
    if run.holds(entry.number):
        return held.fate(run, entry)
    ran = {block: count for (number, block), count in run.patched.items() if number == entry.number}
    if not ran:
        return f"never ran, {_why_not(run, entry)}"
    wanted = list(dict.fromkeys(block for block, _ in entry.targets))
    missing = [str(block) for block in wanted if block not in ran]
    reason = f" ({run.skips[entry.number]})" if entry.number in run.skips else ""
    beside = " and outside of all blocks" if None in ran else ""
    where = f"in {len(wanted) - len(missing)} of {len(wanted)} blocks{beside}" if wanted else "everywhere"
    never = f"; never in {', '.join(missing)}{reason}" if missing else ""
    told = (
        _fell_back(run, entry),
        overridden(run, entry),
        masked(run, entry),
        _too_early(run, entry),
        entry.unused,
        _between_steps(run, entry),
    )
    more = [text for text in told if text]
    return "; ".join([f"ran {sum(ran.values())} times {where}{never}", *more])


def masked(run: Run, entry: Entry) -> str:
    """Return what mask a run made of the attention to a word; empty where the entry makes none."""
    if not isinstance(entry.value, LiveMask):
        return ""
    if entry.number not in run.masks:
        behind = f"behind {100 * entry.value.after:g}% of the run"
        return f"it made no mask: no step lay {behind} with another step before it; lower after, or take more steps"
    step, _, mask = run.masks[entry.number]
    shares = ", ".join(f"{100 * float(share):.1f}" for share in mask.mean(dim=(1, 2)))
    when = f"frozen at step {step}" if entry.value.then == "freeze" else f"last made at step {step}"
    return f"its mask, {when}, covers {shares} % of the picture" + ("s" if len(mask) > 1 else "")


def _fell_back(run: Run, entry: Entry) -> str:
    """Return in how many of a rule's calls its function could not run; empty where it always did."""
    _, fell = _taken(run, entry)
    if not fell:
        return ""
    return (
        "its function ran in none of them and fell back" if only_fell_back(run, entry) else f"{fell} of them fell back"
    )


def only_fell_back(run: Run, entry: Entry) -> bool:
    """Return whether a rule took calls, and its function ran in none of them."""
    taken, fell = _taken(run, entry)
    return 0 < taken == fell


def _taken(run: Run, entry: Entry) -> tuple[int, int]:
    """Return how many calls a rule took, and in how many of them another function ran; 0 for what is no rule."""
    counts = {call: count for call, count in run.calls.items() if entry.slot == SLOT and call.rule == entry.number}
    return sum(counts.values()), sum(count for call, count in counts.items() if call.fallback)


def overridden(run: Run, entry: Entry) -> str:
    """Return who left out what an entry had changed, and where; empty where nobody did."""
    by = {block: owner for (number, block), owner in run.overridden.items() if number == entry.number}
    ran = {block for number, block in run.patched if number == entry.number}
    where = "all of them" if set(by) >= ran else ", ".join(map(str, by))
    return f"overridden by {' and '.join(dict.fromkeys(by.values()))} in {where}" if by else ""


def _why_not(run: Run, entry: Entry) -> str:
    """Return the first reason that holds why an entry had no part in a run."""
    if entry.neutral:
        return "its settings change nothing"
    if entry.nowhere:
        return entry.unused
    if entry.number not in {number for number, _ in run.placed}:
        if entry.slot == SLOT:
            return f"{run.behind or run.in_front or 'another node'} took the attention override after it"
        return "another patch took its place after it"
    if run.percents and not any(_acts(entry, percent) for percent in run.percents):
        return "no step of the run lay in its window with a strength above 0"
    if too_early := _too_early(run, entry):
        return too_early
    if entry.slot == SLOT:
        return "no call was left for it: rules of later nodes or patches that replace the attention came first"
    if entry.number in run.skips:
        return run.skips[entry.number]
    if entry.number in run.reached:
        return _lacking_side(run, entry) or "it found nothing to act on in its blocks"
    if not any(target in run.seen for target in entry.targets):
        return "the model did not enter its blocks"
    over = ", ".join(_over(run, entry))
    return "later nodes replaced the attention of its blocks" + (f" ({over})" if over else "")


def _acts(entry: Entry, percent: float) -> bool:
    """Return whether an entry, and one of its rules where it has some, can have a strength at a part of the run."""
    rules = getattr(entry.value, "rules", None)
    timed = rules is None or any(rule.strength and rule.where.schedule.weight(percent) for rule in rules)
    return timed and entry.schedule.weight(percent) != 0.0


def _between_steps(run: Run, entry: Entry) -> str:
    """Return which rules of an entry have a window without a step of the run; empty where none has."""
    rules = enumerate((rule.where for rule in getattr(entry.value, "rules", ())), 1)
    missed = [f"{number} ({where})" for number, where in rules if not any(map(where.schedule.weight, run.percents))]
    return f"no step of the run lay in the window of rule {', '.join(missed)}" if missed and run.percents else ""


def _too_early(run: Run, entry: Entry) -> str:
    """Return which masks of words came after the last step of an entry's window; empty where none did."""
    last = max((percent for percent in run.percents if _acts(entry, percent)), default=1.0)
    late = [mask for mask in live(getattr(entry.value, "needs", ())) if mask.after > last]
    each = ", ".join(f"{mask.word} (from {100 * mask.after:g}% of the run)" for mask in late)
    return f"its window ends before the mask is there of {each}" if late else ""


def _lacking_side(run: Run, entry: Entry) -> str:
    """Return that the prompt of an entry's side was never predicted; empty where it was, or it has none."""
    side = getattr(entry.value, "side", None)
    if side not in SIDES or not run.sides or SIDES.index(side) in run.sides:
        return ""
    return f"no {side} prompt was predicted" + (": at cfg 1 there is none" if side == SIDES[UNCOND] else "")


def _over(run: Run, entry: Entry) -> list[str]:
    """Return the names of the later methods that ran in the blocks of an entry; a rule only chooses functions."""
    blocks = {block for block, _ in entry.targets}
    ran = {number for number, block in run.patched if block in blocks}
    later = (one for one in run.entries if one.number > entry.number and one.slot != SLOT)
    return [one.name for one in later if one.number in ran]
