"""Time sweeps of the demo workflow in one process, and on Ray clusters of this machine with 1 and 2 workers.

    python benchmarks/sweep.py [--cells N] [--steps N] [--rounds N]

Each worker has one core. A round is one sweep of each kind, so that all meet the same other load; what is printed are
medians over the rounds. `start` is until the first cell is done (imports, loading the model), `cells/s` the throughput
from then on, `overhead` what a cell takes of a worker beyond the time its nodes took. The last lines say how much
faster two workers are than one, and how busy the machine was: under a load of much more than 2, which is this program
itself, the numbers are of no use.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from command_line import count, run

os.environ["OMP_NUM_THREADS"] = "1"

from attention_patchbay.headless.commands.cli import main as patchbay

DEMO = Path(__file__).parents[1] / "example_workflows" / "api" / "demo.json"


@dataclass(frozen=True)
class Sweep:
    """What one sweep took: seconds until the first cell, from then on, and of all; seconds of a cell's nodes."""

    start: float
    rate: float  # cells a second from the first on
    overhead: float  # seconds
    whole: float
    workers: int


def sweep(folder: Path, cells: int, steps: int, workers: int, *more: str) -> Sweep:
    """Run a sweep and watch its cells arrive."""
    arguments = ["sweep", str(DEMO), "--folder", str(folder), "--quiet", *more]
    arguments += ["--axis", f"KSampler.seed=1..{cells}", "--axis", f"KSampler.steps={steps}"]
    moments: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            found = len(list(folder.glob("cells/*.json")))
            moments.extend([time.perf_counter()] * (found - len(moments)))
            time.sleep(0.005)

    begin = time.perf_counter()
    watcher = threading.Thread(target=watch)
    watcher.start()
    with contextlib.redirect_stdout(io.StringIO()):
        code = patchbay(arguments)
    whole = time.perf_counter() - begin
    done.set()
    watcher.join()
    assert code == 0
    pause = (moments[-1] - moments[0]) / (len(moments) - 1)
    kept = [json.loads(path.read_text()) for path in folder.glob("cells/*.json")]
    overhead = workers * pause - statistics.median(cell["seconds"] for cell in kept)
    return Sweep(moments[0] - begin, 1.0 / pause, overhead, whole, len({cell["worker"] for cell in kept}))


def on_ray(folder: Path, cells: int, steps: int, workers: int) -> Sweep:
    """Run a sweep on a cluster of its own."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": workers})
    try:
        return sweep(folder, cells, steps, workers, "--ray", cluster.address)
    finally:
        cluster.shutdown()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=count, default=24)
    parser.add_argument("--steps", type=count, default=60)
    parser.add_argument("--rounds", type=count, default=3)
    args = parser.parse_args()
    rows: dict[str, list[Sweep]] = {"one process": [], "Ray, 1 worker": [], "Ray, 2 workers": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            place = Path(folder) / str(number)
            rows["one process"].append(sweep(place / "0", args.cells, args.steps, 1))
            rows["Ray, 1 worker"].append(on_ray(place / "1", args.cells, args.steps, 1))
            rows["Ray, 2 workers"].append(on_ray(place / "2", args.cells, args.steps, 2))
    for name, found in rows.items():
        start, rate, overhead, whole = (
            statistics.median(getattr(one, value) for one in found) for value in ("start", "rate", "overhead", "whole")
        )
        workers = max(one.workers for one in found)
        print(
            f"{name:14} start {start:6.2f} s  {rate:5.2f} cells/s  overhead {1000 * overhead:5.0f} ms a cell  "
            f"all {whole:6.1f} s  {workers} workers used"
        )
    pairs = list(zip(rows["Ray, 1 worker"], rows["Ray, 2 workers"], strict=True))
    rate = statistics.median(two.rate / one.rate for one, two in pairs)
    whole = statistics.median(one.whole / two.whole for one, two in pairs)
    print(f"two workers against one: {rate:.2f} times the cells a second, {whole:.2f} times as fast from start to end")
    load = os.getloadavg()
    print(
        f"{args.rounds} rounds of {args.cells} cells; load of the machine {load[0]:.1f}, {load[1]:.1f}, {load[2]:.1f}"
    )


if __name__ == "__main__":
    sys.exit(run(main))
