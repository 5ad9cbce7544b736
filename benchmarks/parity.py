"""Measure how close this library is to diffusers, transformers and ComfyUI.

    python benchmarks/parity.py [--json FILE] [--families sd15 sd21_v sdxl sdxl_refiner]

ComfyUI takes part when COMFYUI_PATH names a checkout (and COMFYUI_PYTHON its interpreter). Without --families it runs
every sampler and scheduler on a checkpoint of SD1.5's layout with few blocks; the families are full-size checkpoints
of random weights, up to 7 GB on disk and 14 GB of memory.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import Any

import parity_comfyui
import parity_diffusers
from command_line import new_file, run
from results import write_json

Row = dict[str, Any]


def rows(families: list[str]) -> Iterator[Row]:
    """Yield the rows of the table."""
    for case, error, bound in parity_diffusers.results():
        yield row(case, "transformers" if "CLIP" in case else "diffusers", error, bound)
    if "COMFYUI_PATH" not in os.environ:
        print("COMFYUI_PATH is not set: no comparison with ComfyUI", file=sys.stderr)
        return
    for case, error, bound in parity_comfyui.results(("sd15_narrow", *families)):
        yield row(case, "ComfyUI", error, bound)


def row(case: str, against: str, error: float, bound: float) -> Row:
    """Return one row; an error that is not a number does not pass."""
    return {"case": case, "against": against, "error": error, "bound": bound, "pass": error < bound}


def main() -> int:
    """Print the table row by row and return 0 if all pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the rows as JSON")
    parser.add_argument("--families", nargs="*", default=[], choices=parity_comfyui.FAMILIES)
    options = parser.parse_args()
    print("| case | against | error | bound | pass |\n|---|---|--:|--:|---|", flush=True)
    found = []
    for one in rows(options.families):
        found.append(one)
        passed = "yes" if one["pass"] else "**no**"
        print(f"| {one['case']} | {one['against']} | {one['error']:.2g} | {one['bound']:g} | {passed} |", flush=True)
    if options.json is not None:
        write_json(options.json, found)
    return 0 if all(one["pass"] for one in found) else 1


if __name__ == "__main__":
    sys.exit(run(main))
