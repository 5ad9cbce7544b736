"""Draw what `benchmarks/attention.py --json FILE` measured: `python benchmarks/plot.py FILE docs/attention.svg`.

Each case has a bar for what `auto` runs, in each dtype, as a multiple of the time of torch's SDPA. It needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import matplotlib
from command_line import new_file, run

matplotlib.use("svg")
from matplotlib import pyplot

COLOURS = {"float32": "#E69F00", "bfloat16": "#0072B2"}  # Okabe and Ito's, which the colour-blind tell apart


def ratios(rows: list[dict[str, Any]], dtype: str) -> dict[str, float]:
    """Return the time of `auto` over that of SDPA for each case."""
    return {row["case"]: row["ratio"] for row in rows if row["dtype"] == dtype and row["backend"] == "auto"}


def draw(measured: dict[str, Any], path: Path) -> None:
    """Write the chart, complete or not at all."""
    pyplot.rcParams["svg.hashsalt"] = "attention"
    cases = list(dict.fromkeys(row["case"] for row in measured["rows"]))
    figure, axes = pyplot.subplots(figsize=(8, 0.36 * len(cases) + 1), layout="constrained")
    for i, (dtype, colour) in enumerate(COLOURS.items()):
        found = ratios(measured["rows"], dtype)
        places = [n + 0.4 * i for n in range(len(cases))]
        axes.barh(places, [found[case] for case in cases], height=0.38, color=colour, label=f"auto, {dtype}")
    axes.axvline(1.0, color="black", linewidth=0.8, label="SDPA")
    axes.set_yticks([n + 0.2 for n in range(len(cases))], cases)
    axes.invert_yaxis()
    axes.set_xlabel(f"time over SDPA's, {measured['threads']} thread(s), torch {measured['torch']}")
    figure.legend(loc="outside upper center", ncols=3)
    partial = path.with_suffix(".tmp")
    figure.savefig(partial, format="svg", metadata={"Date": None})
    os.replace(partial, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, help="the JSON of benchmarks/attention.py")
    parser.add_argument("picture", type=new_file, help="the SVG to write")
    args = parser.parse_args()
    draw(json.loads(args.measured.read_text()), args.picture)


if __name__ == "__main__":
    sys.exit(run(main))
