"""The settings of a repeated sweep: times with their spread, and differences to the baseline with intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from .cells import COLUMNS, NUMBERS, PICTURES, named
from .choices import Answer, scored, settings_of
from .statistics import DIFFERENCE, Estimate, Scale, estimate, holm, quartiles
from .study import Study

Row = Mapping[str, Any]
# of a picture to that of the baseline with the same seed and prompt
FAR = {"mean": Scale(0.0, 0.0, 255.0), "ssim": Scale(1.0, -1.0, 1.0), "lpips": Scale(0.0, 0.0)}
TESTED = ("slower", *FAR, "above_floor")
OWN = {*COLUMNS, *PICTURES, *NUMBERS}


def summary(rows: Sequence[Row], study: Study, answers: Sequence[Answer] = ()) -> list[dict[str, Any]]:
    """Return a row for each setting, and one for the noise floor where it was measured.

    Estimates are those of `statistics.estimate`, as plain values: of the time and the pictures against the baseline
    with the same seed and prompt, and of how much further from it than the noise floor the pictures are. A cell that
    was the first of its worker has no part in times. Where there are several prompts, each counts once, as the mean of
    its seeds: seeds of one prompt are not independent. `score` is what people chose (Bradley and Terry, 1952).
    """
    by_cell = {row["cell"]: row for row in rows}
    noise = {row["reference"]: row for row in rows if row.get("floor")}
    found = [_setting(some, by_cell, noise, study) for some in _settings(rows, study).values()]
    others = [one for one in found if not one["baseline"]]  # which is compared with itself
    for name in TESTED:
        chances = [None if one[name] is None else one[name].p for one in others]
        for one, p in zip(others, holm(chances), strict=True):
            one[name] = one[name] and replace(one[name], p=p)
    for one, score in zip(found, scored(settings_of(found), answers), strict=True):
        one["score"] = score
    return [{name: _plain(value) for name, value in one.items()} for one in found]


def _settings(rows: Iterable[Row], study: Study) -> dict[tuple[Any, ...], list[Row]]:
    """Return the rows of each setting, whatever their seed and prompt."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (bool(row.get("floor")), *((name, repr(value)) for name, value in sorted(setting_of(row, study).items())))
        found.setdefault(key, []).append(row)
    return found


def setting_of(row: Row, study: Study) -> dict[str, Any]:
    """Return the values of the axes of a row but for those of its repeat."""
    return {name: value for name, value in row.items() if name not in OWN and name not in study.repeated}


def _setting(some: Sequence[Row], by_cell: Mapping[str, Row], noise: Mapping[str, Row], study: Study) -> dict[str, Any]:
    first = some[0]
    paired = [(row, by_cell[row["reference"]]) for row in some if row["reference"] in by_cell]
    slower = [(row, _less(_time(row), _time(other))) for row, other in paired]
    above = [(row, _less(row.get("mean"), noise.get(row["reference"], {}).get("mean"))) for row in some]
    return {
        "setting": setting_of(first, study),
        "cells": [row["cell"] for row in some],
        "baseline": bool(first["baseline"]),
        "floor": bool(first.get("floor")),
        "failed": sum(bool(row["error"]) for row in some),
        "warm_ups": sum(bool(row.get("warm_up")) for row in some),
        "time": quartiles([time for row in some if (time := _time(row)) is not None]),
        "slower": None if first["baseline"] or first.get("floor") else _estimated(slower, study),
        **{name: _estimated([(row, row.get(name)) for row in some], study, scale) for name, scale in FAR.items()},
        "above_floor": None if first["baseline"] or first.get("floor") else _estimated(above, study),
    }


def _time(row: Row) -> float | None:
    """Return the seconds of a step, or of a cell without steps; None for a cell that its worker had to warm up for."""
    if row.get("warm_up") or row["error"]:
        return None
    return row["seconds"] if row["step_seconds"] is None else row["step_seconds"]


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _estimated(values: Iterable[tuple[Row, float | None]], study: Study, scale: Scale = DIFFERENCE) -> Estimate | None:
    by_prompt: dict[Any, list[float]] = {}
    for row, value in values:
        if value is not None:
            by_prompt.setdefault(row.get(study.text), []).append(value)
    if len(by_prompt) > 1:
        return estimate([sum(some) / len(some) for some in by_prompt.values()], scale)
    return estimate([value for some in by_prompt.values() for value in some], scale)


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Estimate) else value


SAID = (
    ("slower", "time against the baseline", "s"),
    ("mean", "differs by", "levels"),
    ("above_floor", "above the noise floor by", "levels"),
)


def as_text(one: Mapping[str, Any]) -> str:
    """Return a setting for reading in a line."""
    role = "noise floor" if one["floor"] else "baseline" if one["baseline"] else ""
    what = named(one["setting"])
    warm = f" ({one['warm_ups']} to warm up)" if one["warm_ups"] else ""
    parts = [what, role, f"n {len(one['cells'])}{warm}"]
    parts += ["median {1:.3f} s (quartiles {0:.3f}, {2:.3f})".format(*one["time"])] if one["time"] else []
    for name, label, unit in SAID:
        if one[name] is not None and not one["baseline"]:
            parts.append(f"{label} {_with_interval(one[name], unit)}")
    if one["score"] is not None:
        low, high = one["score"]["low"], one["score"]["high"]
        parts.append(f"score {one['score']['mean']:.2f} [{low:.2f}, {high:.2f}] of {one['score']['n']} choices")
    return "  ".join(filter(None, parts))


def _with_interval(found: Mapping[str, Any], unit: str) -> str:
    text = f"{found['mean']:{'+' if unit == 's' else ''}.3g} {unit}"
    if found["low"] is None:
        return text
    return f"{text} [{found['low']:.3g}, {found['high']:.3g}] p {found['p']:.2g}"


def as_csv(found: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the settings as a CSV file, a column for each number."""
    flat = [dict(_columns(one)) for one in found]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for one in flat for name in one)))
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue().encode()


def _columns(one: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in one.items():
        if name == "setting":
            yield from value.items()
        elif name == "time":
            yield from zip(("time_low", "time_median", "time_high"), value or (None,) * 3, strict=True)
        elif name == "cells":
            yield "n", len(value)
        elif isinstance(value, Mapping):
            yield from ((f"{name}_{part}", number) for part, number in value.items())
        elif name not in ("slower", "above_floor", "score", *FAR):
            yield name, value
