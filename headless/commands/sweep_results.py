"""What `patchbay sweep` says at its end: the cells, the settings, and what drifted from expected pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engine.errors import Failure
from ..engine.workflow import one_line
from ..sweep.away import is_address
from ..sweep.cells import Cell, named
from ..sweep.expect import DEFAULT, Bound, Expected, drift, parse_bound
from ..sweep.store import Store
from ..sweep.summary import as_text


def expected_of(args: argparse.Namespace) -> tuple[Expected, list[Bound]] | None:
    """Return what `--expect` and `--bound` ask for.

    Raises Failure.
    """
    if args.expect is None:
        if args.bound:
            raise Failure("--bound is of --expect; give the folder of an earlier sweep, or a picture, there")
        return None
    if args.expect.resolve() == Path(args.folder).resolve():
        raise Failure(f"--expect {args.expect} is the folder of this sweep; give another --folder")
    return Expected(args.expect), [parse_bound(text) for text in args.bound or [DEFAULT]]


def count_drifts(
    store: Store, rows: list[dict[str, Any]], all: Sequence[Cell], expected: Expected, bounds: Sequence[Bound]
) -> int:
    """Hold the pictures against the expected ones, tell of those that drifted, and return how many did."""
    choices = {cell.id: (cell.choice, cell.floor) for cell in all}
    for row in rows:
        choice, floor = choices[row["cell"]]
        for image in row["images"]:
            store.bring(image)
        images = [store.folder / image for image in row["images"]]
        row["drifted"], row["drift"] = drift(images, expected.of(choice, floor), bounds)
        if row["drifted"]:
            print(one_line(f"drifted: {named(choice)}: {row['drifted']}"), file=sys.stderr)
    return sum(bool(row["drifted"]) for row in rows)


def print_results(args: argparse.Namespace, rows: list[dict[str, Any]], settings: list[dict[str, Any]]) -> None:
    """Print the table: for machines with `--json`."""
    if args.json:
        print(json.dumps({"cells": rows, "settings": settings} if settings else rows, indent=1))
        return
    for row in rows:
        what = "baseline" if row["baseline"] else ""
        step = "" if row["step_seconds"] is None else f"{row['step_seconds']:.3f} s/step"
        far = "" if row["mean"] is None else f"mean difference {row['mean']:.2f}"
        names = [f"{name}={value}" for name, value in row.items() if "." in name or value in ("on", "bypass")]
        parts = filter(None, (*names, what, f"{row['seconds']:.2f} s", step, far, row["error"]))
        print(one_line("  ".join(parts)))
    for one in settings:
        print(one_line(as_text(one)))
    print(report_in(args.folder))


def report_in(folder: str) -> str:
    """Return where the report of a sweep is."""
    return f"{folder.rstrip('/')}/report.html" if is_address(folder) else str(Path(folder) / "report.html")
