"""Time what this library adds to an attention call: wrapper, router, record and NaN guard, beside the bare kernel.

    python benchmarks/overhead.py [--json FILE] [--quick]

A tiny call (2 x 16 tokens, 8 heads of 40) shows the microseconds, a long one (2 x 4096 tokens) what they come to. All
contenders run in turn, round after round, in one process, and processor time is counted: others may use the machine.
The lowest tenth of the rounds and their median are printed, and what a contender adds to the default function: by the
lowest tenth, and in the same round (median). The spread is the interquartile range over the median.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from attention_patchbay.ldm_patched.ldm.modules.backends.dispatch import optimized_attention
from attention_patchbay.ldm_patched.ldm.modules.backends.pytorch import attention_pytorch
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.router import SLOT
from attention_patchbay.ldm_patched.patches.record.plan import KEY, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.patches.routing.nan_guard import Sentinel
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from attention_patchbay.nodes._host import load_demo_model
from command_line import new_file, run
from progress import Progress
from results import write_json
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

HEADS, DIM_HEAD = 8, 40
DEFAULT = "the default function"
COLUMNS = ("contender", "lowest tenth us", "median us", "adds, lowest tenth", "adds, median")


def models(function: str) -> dict[str, Any]:
    """Return the demo model behind the router, with more and more on it; rules choose a function."""
    model = load_demo_model()[0]
    one = attach(model, Rule(function))
    ten = one
    for _ in range(9):
        ten = attach(ten, Rule("basic", Where.of("input:3 self")))  # none of them takes the call
    return {
        "router and record, no rule": attach(model, Sentinel("off")),
        "one rule": one,
        "ten rules": ten,
        "one rule and the NaN guard": attach(one, Sentinel("repair")),
    }


def options(model: Any) -> dict[str, Any]:
    """Return the options of a call in the middle block during a run."""
    plan = plan_of(model)
    assert plan is not None
    run = Run(plan, model.get_model_object("model_sampling").percent_to_sigma)
    run.enter("self", None)
    now = {
        "block": ("middle", 0),
        "block_index": 0,
        "sigmas": torch.ones(1),
        "sample_sigmas": torch.linspace(14, 0, 21),
    }
    return {**model.model_options["transformer_options"], KEY: run, **now}


def handing_on() -> Callable[..., Tensor]:
    """Return the least that an override of attention can be: it looks its function up and calls it."""
    kept: dict[Any, Callable[..., Tensor]] = {}

    def override(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        return kept.setdefault(kwargs["transformer_options"]["block"], func)(*args, **kwargs)

    return override


def contenders(tokens: int) -> dict[str, Callable[[], Tensor]]:
    """Return the functions to time, on a call of 2 x `tokens`."""
    q, k, v = (torch.randn(2, tokens, HEADS * DIM_HEAD) for _ in range(3))
    function = registry.select(registry.AttentionCall.of(q, k, v, HEADS)).backend.name  # the default, too
    split = [x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v)]

    def kernel_and_layout() -> Tensor:
        heads = (x.view(2, tokens, HEADS, DIM_HEAD).transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(*heads).transpose(1, 2).reshape(2, tokens, -1)

    def patched(given: dict[str, Any]) -> Callable[[], Tensor]:
        return lambda: optimized_attention(q, k, v, HEADS, transformer_options=given)

    return {
        "the kernel": lambda: scaled_dot_product_attention(*split),
        "the kernel and its layout": kernel_and_layout,
        "`pytorch`": lambda: attention_pytorch(q, k, v, HEADS),
        DEFAULT: lambda: optimized_attention(q, k, v, HEADS),
        "an override that looks its function up and calls it": patched({SLOT: handing_on(), "block": ("middle", 0)}),
        **{name: patched(options(model)) for name, model in models(function).items()},
    }


def measure(tokens: int, rounds: int, calls: int, progress: Progress) -> list[dict[str, Any]]:
    """Return a row for each contender: microseconds of one call."""
    functions = contenders(tokens)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds):
        for name, function in functions.items():
            progress.doing = f"2 x {tokens} tokens, round {number + 1} of {rounds}: {name}"
            begin = time.thread_time()
            for _ in range(calls):
                function()
            times[name].append((time.thread_time() - begin) / calls * 1e6)
    return [row(tokens, name, taken, times[DEFAULT]) for name, taken in times.items()]


def row(tokens: int, name: str, times: list[float], default: list[float]) -> dict[str, Any]:
    """Summarise the round times [us] of one contender, beside those of the default function."""
    low, median, high = statistics.quantiles(times, n=4)
    tenth, others = (statistics.quantiles(some, n=10)[0] for some in (times, default))
    more = statistics.median(mine - other for mine, other in zip(times, default, strict=True))
    found = (name, round(tenth, 1), round(median, 1), round(tenth - others, 1), round(more, 1))
    return {"tokens": tokens, **dict(zip(COLUMNS, found, strict=True)), "spread": round((high - low) / median, 2)}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of one call."""
    spreads = [entry["spread"] for entry in rows]
    head = f"2 x {rows[0]['tokens']} tokens; spread of the rounds {min(spreads)} to {max(spreads)}"
    lines = [COLUMNS, ("---", *["--:"] * 4), *([str(entry[name]) for name in COLUMNS] for entry in rows)]
    return "\n".join([f"\n{head}\n", *(f"| {' | '.join(line)} |" for line in lines)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=new_file, metavar="FILE", help="also write the rows here")
    parser.add_argument("--quick", action="store_true", help="the tiny call only, fewer rounds")
    args = parser.parse_args()
    rows = []
    with Progress("loading the demo model") as progress, torch.inference_mode():
        progress.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
        for call in ((16, 100, 20),) if args.quick else ((16, 600, 20), (4096, 9, 1)):
            found = measure(*call, progress)
            progress.print(table(found))
            rows += found
    if args.json:
        write_json(args.json, {"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows})


if __name__ == "__main__":
    sys.exit(run(main))
