"""Time a sweep of the demo workflow in one process, and on a Ray cluster of this machine with 1 and 2 workers.

    python benchmarks/sweep.py [--cells N] [--steps N]

Each worker has one core. `start` is until the first cell is done (imports, loading the model), `cells/s` the throughput
from then on, `overhead` what a cell takes of a worker beyond the time its nodes took.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from attention_patchbay.headless.commands.cli import main as patchbay

DEMO = Path(__file__).parents[1] / "example_workflows" / "api" / "demo.json"


def sweep(folder: Path, cells: int, steps: int, workers: int, *more: str) -> tuple[float, float, float]:
    """Return seconds until the first cell, cells a second from then on, and the overhead of a cell."""
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
    done.set()
    watcher.join()
    assert code == 0
    pauses = statistics.mean([later - before for before, later in zip(moments, moments[1:], strict=False)])
    seconds = [json.loads(path.read_text())["seconds"] for path in folder.glob("cells/*.json")]
    return moments[0] - begin, 1.0 / pauses, workers * pauses - statistics.median(seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = {"one process": sweep(Path(folder) / "one", args.cells, args.steps, 1)}
        from ray.cluster_utils import Cluster

        for workers in (1, 2):
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": workers})
            try:
                place = Path(folder) / f"ray{workers}"
                rows[f"Ray, {workers} workers"] = sweep(
                    place, args.cells, args.steps, workers, "--ray", cluster.address
                )
            finally:
                cluster.shutdown()
    for name, (start, rate, overhead) in rows.items():
        print(f"{name:16} start {start:6.2f} s  {rate:5.2f} cells/s  overhead {1000 * overhead:6.0f} ms a cell")


if __name__ == "__main__":
    main()
