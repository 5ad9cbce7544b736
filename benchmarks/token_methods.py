"""Time one self-attention with merged tokens, tiles, and fewer keys and values, beside the whole attention.

    python benchmarks/token_methods.py [--rounds N] [--sides N ...] [--json FILE]

8 heads of 40 as in SD1.5's largest blocks, batch 2, float32, one thread. All methods run in turn, round after round,
in one process; the median of the rounds' processor time is printed, so that other work on the machine counts little.
`spread` is the interquartile range over the median, `ratio` the time over that of the whole attention. The time of a
method includes matching, merging, cutting and joining.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial
from typing import Any

import torch
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId
from attention_patchbay.ldm_patched.patches.engine.gate import Gate
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.engine.place import Wrap
from attention_patchbay.ldm_patched.patches.engine.stack import Layer, Stack
from attention_patchbay.ldm_patched.patches.methods.key_value_downsampling import KeyValueDownsampling
from attention_patchbay.ldm_patched.patches.methods.tiled_attention import TiledAttention
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging
from attention_patchbay.ldm_patched.patches.record.plan import Entry
from command_line import count, new_file, run
from results import write_json

HEADS, DIM_HEAD, BATCH = 8, 40, 2
BLOCK = BlockId("input", 1)
METHODS: dict[str, Any] = {
    "none": None,
    "merging 0.25": TokenMerging(0.25),
    "merging 0.5": TokenMerging(0.5),
    "merging 0.75": TokenMerging(0.75),
    "tiles of 256": TiledAttention(256, swap=1),
    "tiles of 128": TiledAttention(128, swap=1),
    "keys / 2 nearest": KeyValueDownsampling(2, "nearest"),
    "keys / 2 mean": KeyValueDownsampling(2, "mean"),
    "keys / 4 nearest": KeyValueDownsampling(4, "nearest"),
    "merging 0.5 in tiles of 256": (TokenMerging(0.5), TiledAttention(256, swap=1)),
}


def stack(methods: Any) -> Stack:
    """Return the attention of a block with methods around it, the last outermost."""
    chosen = () if methods is None else methods if isinstance(methods, tuple) else (methods,)
    gates = [(method, Gate(Entry(method.name), frozenset({BLOCK}))) for method in chosen]
    places = [place for method, gate in gates for place in method.places(gate, Host(), None)]
    return Stack("attn1", tuple(Layer(at.gate, at.act, at.idle, at.counted) for at in places if isinstance(at, Wrap)))


def options(side: int) -> dict[str, Any]:
    """Return what the host tells a block of side x side tokens at the UNet's full resolution."""
    shapes = {"activations_shape": [BATCH, HEADS * DIM_HEAD, side, side], "original_shape": [BATCH, 4, side, side]}
    return {"block": BLOCK[:2], "block_index": 0, "n_heads": HEADS, **shapes}


def measure(side: int, rounds: int) -> list[dict[str, Any]]:
    """Time every method at side x side tokens; return one row each."""
    gen = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(BATCH, side * side, HEADS * DIM_HEAD, generator=gen) for _ in range(3))
    stacks = {name: stack(methods) for name, methods in METHODS.items()}
    times: dict[str, list[float]] = {name: [] for name in stacks}
    for number in range(rounds + 1):
        for name, attention in stacks.items():
            start = time.process_time()
            attention(q, k, v, options(side))
            if number:  # the first round warms up
                times[name].append((time.process_time() - start) * 1e3)
    base = statistics.median(times["none"])
    return [row(side, name, times[name], base) for name in stacks]


def row(side: int, method: str, times: list[float], base: float) -> dict[str, Any]:
    """Summarise the round times [ms] of one method."""
    low, median, high = statistics.quantiles(times, n=4)
    return {
        "tokens": side * side,
        "method": method,
        "median_ms": round(median, 1),
        "spread": round((high - low) / median, 3),
        "ratio": round(median / base, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=partial(count, least=2), default=7)
    parser.add_argument("--sides", type=count, nargs="+", default=[64, 96], help="tokens in a row of the picture")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="also write the rows here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("| tokens | method | median ms | spread | ratio |\n|--:|---|--:|--:|--:|", flush=True)
    with torch.inference_mode():
        for side in args.sides:
            for entry in measure(side, args.rounds):
                rows.append(entry)
                print("| " + " | ".join(str(value) for value in entry.values()) + " |", flush=True)
    if args.json:
        write_json(args.json, {"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows})


if __name__ == "__main__":
    sys.exit(run(main))
