"""Measure cells of one row of the table: `python table_child.py JOB`, a job in JSON; results are lines on stdout.

A line is {"cell": {...}}, {"begin": COLUMN} before one, or {"doing": ...} to show. With "peak" in the job the cell is
the resident peak of one step.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

SHARES = 3  # steps of which the share of attention is the median
STEPS_AT_ONCE = 4  # on a GPU: between two steps alone it would wait for the processor
EXACT_PAIR = ("pytorch", "sub_quad")


class Bench:
    """A row's model in this process."""

    def __init__(self, job: dict[str, Any], say: Callable[[str], None]) -> None:
        from attention_patchbay.ldm_patched.patches.routing.tuning_store import TuningStore, machine
        from attention_patchbay.nodes._host import register_host_backends
        from table_columns import Columns
        from table_rows import ROWS, build

        register_host_backends()
        self.say = say
        self.row, self.steps, self.cuda = ROWS[job["row"]], job["steps"], job["device"] == "cuda"
        device, dtype = torch.device(job["device"]), getattr(torch, job["dtype"])
        self.model = build(self.row, job["full"], dtype, device)
        if self.model.model.get_dtype_inference() != dtype:
            raise ValueError(f"the model computes in {self.model.model.get_dtype_inference()}, not {dtype}")
        self.machine = machine(job["device"])
        self.columns = Columns(self.row, self.model, dtype, TuningStore(Path(job["tuning"]), self.machine), say)

    def output(self, model: Any) -> torch.Tensor:
        """Return what a step gives."""
        from table_rows import sample

        return sample(self.row, model, 1).float().cpu()

    def heard(self, model: Any, errors: bool) -> tuple[Any, torch.Tensor, float]:
        """Listen to one step; return what was heard, what the step gave, and its seconds."""
        from table_listener import Listener, seconds_of, timing_steps

        listener, spans = Listener(errors), []
        out = self.output(listener.on(timing_steps(model, spans)))
        return listener, out, sum(map(seconds_of, spans))

    def base(self) -> None:
        """Measure what every cell is compared with: the default's output, and how far two exact functions are apart."""
        self.say("the default and two exact functions")
        self.default = self.output(self.model)
        one, other = (self.output(self.columns.put(name)[0]) for name in EXACT_PAIR)
        self.floor = distance(one, other)
        self.limit = {} if self.cuda else self.least()

    def least(self) -> dict[str, float]:
        """Return the least time of the default's step on this processor, and what it is made of."""
        from attention_patchbay.ldm_patched.patches.engine.router import SLOT
        from limit import best_speed, work_of
        from table_listener import with_options

        def step(attention: Callable[..., torch.Tensor]) -> None:
            self.output(with_options(self.model, lambda options: {**options, SLOT: attention}))

        work, speed = work_of(step), best_speed(self.columns.dtype)
        return {"ms": 1e3 * work.seconds(speed), "products": speed.products, "exponentials": speed.exponentials}

    def cell(self, name: str) -> dict[str, Any]:
        """Measure one column beside the default, step by step in turn."""
        model, rules = self.columns.put(name)
        heard, out, _ = self.heard(model, errors=True)  # this is the warm-up too
        calls = calls_of(out, model)
        if lacking := never_ran(name, calls):
            return {"failed": lacking}
        mine, base = self.in_turn(model)
        return {
            "rules": rules,
            "ms": mine["ms"],
            "default_ms": base["ms"],
            "share": median(self.share(model) for _ in range(min(self.steps, SHARES))),
            "peak": mine["peak"],
            "default_peak": base["peak"],
            "error": heard.worst.error,
            "worst": heard.worst.block,
            "difference": distance(out, self.default),
            "floor": self.floor,
            "limit": self.limit,
            "functions": functions_of(calls),
        }

    def share(self, model: Any) -> float:
        """Return the share of attention in a step; nothing waits for a GPU in between."""
        from table_listener import seconds_of

        heard, _, whole = self.heard(model, errors=False)
        return sum(map(seconds_of, heard.spans)) / whole

    def in_turn(self, model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Time a model and the default in turn, each as often in front of the other."""
        found: tuple[dict[str, Any], ...] = ({"ms": [], "peak": 0}, {"ms": [], "peak": 0})
        at_once = STEPS_AT_ONCE if self.cuda else 1
        turn = [(found[0], model), (found[1], self.model)]
        for done in range(0, self.steps, at_once):
            self.say(f"step {done + 1} of {self.steps}")
            for one, contender in turn:
                self.some_steps(contender, at_once, one)
            turn.reverse()
        return found[0], found[1]

    def some_steps(self, model: Any, steps: int, found: dict[str, Any]) -> None:
        """Add the times of some steps, and the memory of a GPU."""
        from table_listener import seconds_of, timing_steps
        from table_rows import sample

        spans: list[Any] = []
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        sample(self.row, timing_steps(model, spans), steps)
        found["ms"] += [round(1e3 * seconds_of(span), 3) for span in spans]
        if self.cuda:
            found["peak"] = max(found["peak"], torch.cuda.max_memory_allocated())

    def resident_peak(self, name: str, rules: str) -> int:
        """Return the bytes that this process held at most in one step."""
        from attention_patchbay.ldm_patched.patches.routing.rules import attach_rules, parse_rules
        from attention_patchbay.nodes._host import HOST
        from table_columns import column

        model = self.columns.with_methods(name)
        if column(name).functions:
            model = attach_rules(model, parse_rules(rules), HOST)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far, which is that of loading, is forgotten
        self.output(model)
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the norm of a difference over the norm of the second."""
    return float((x - y).norm() / y.norm())


def calls_of(out: torch.Tensor, model: Any) -> Counter[Any]:
    """Return the calls of the step that gave `out`; none where nothing is on the model."""
    from attention_patchbay.ldm_patched.patches.record.archive import ARCHIVE
    from attention_patchbay.ldm_patched.patches.record.plan import plan_of

    plan = plan_of(model)
    return Counter() if plan is None else Counter(ARCHIVE.find(out, plan).calls)


def functions_of(calls: Mapping[Any, int]) -> dict[str, int]:
    """Return which functions ran, with their calls."""
    counts: Counter[str] = Counter()
    for call, count in calls.items():
        counts[call.backend] += count
    return dict(counts)


def never_ran(name: str, calls: Mapping[Any, int]) -> str:
    """Return why the function of a column ran in no call, so that the times would be another's; empty if it ran."""
    from table_columns import COLUMNS

    if name in COLUMNS or any(call.backend == name for call in calls):
        return ""
    reasons = dict.fromkeys(call.fallback for call in calls if call.fallback)
    return f"no call ran on it: {'; '.join(reasons)}"


def words(error: BaseException) -> str:
    """Return what an error says, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:600]


@torch.inference_mode()
def work(job: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    """Measure the cells of a job; one that fails is told with its words, and does not end the others."""
    bench = Bench(job, lambda doing: tell({"doing": doing}))
    if "peak" in job:
        tell({"cell": {"peak": bench.resident_peak(job["peak"], job["rules"])}})
        return
    bench.base()
    for name in job["columns"]:
        tell({"begin": name})
        try:
            cell = bench.cell(name)
        except Exception as error:
            cell = {"failed": words(error)}
            if bench.cuda:
                torch.cuda.empty_cache()
        tell({"cell": {**cell, "column": name, "machine": bench.machine}})


def main(text: str) -> None:
    """Run a job; what the host prints goes to stderr."""
    job = json.loads(text)
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=lines, flush=True)

    if job["host"] == "comfyui":
        from comfy.cli_args import args

        args.cpu = job["device"] == "cpu"
    try:
        work(job, tell)
    except Exception as error:
        tell({"failed": words(error)})
        raise


if __name__ == "__main__":
    main(sys.argv[1])
