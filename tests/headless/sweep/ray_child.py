"""Sweep on a local Ray cluster of two nodes, one of which is killed: `python ray_child.py FOLDER CELLS [SERVER ...]`.

The driver is a command of its own: it is killed after some cells and started again. With servers, each `URL,PID`, both
nodes are killed, then the last of the servers. Prints as JSON how many cells were done at each moment and the workers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

DEMO = Path(__file__).parents[3] / "example_workflows" / "api" / "demo.json"
SECONDS = 240


def driver(address: str, folder: Path, count: int, servers: list[str]) -> subprocess.Popen[str]:
    """Start a sweep."""
    command = [sys.executable, "-m", "attention_patchbay.headless.commands.cli", "sweep", str(DEMO), "--quiet"]
    command += ["--folder", str(folder), "--ray", address, "--axis", f"KSampler.seed=1..{count}"]
    command += [part for server in servers for part in ("--server", server.split(",")[0])]
    return subprocess.Popen(
        [*command, "--axis", "KSampler.steps=15"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def done(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the finished cells."""
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("cells/*.json")}


def wait(folder: Path, count: int, child: subprocess.Popen[str]) -> int:
    """Wait for some cells and return how many there are."""
    end = time.monotonic() + SECONDS
    while len(done(folder)) < count and child.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    return len(done(folder))


def main(folder: Path, count: int, servers: list[str]) -> None:
    """Run, kill a driver, kill a node, and finish."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        first = driver(cluster.address, folder, count, servers)
        seen = {"killed driver": wait(folder, 2, first)}
        first.kill()
        first.wait()
        before = {path.name: path.stat().st_mtime_ns for path in folder.glob("cells/*.json")}
        second = driver(cluster.address, folder, count, servers)
        seen["killed node"] = wait(folder, len(before) + 2, second)
        for node in nodes if servers else nodes[:1]:
            cluster.remove_node(node, allow_graceful=False)
        if servers:
            seen["killed server"] = wait(folder, seen["killed node"] + 2, second)
            os.kill(int(servers[-1].split(",")[1]), signal.SIGKILL)
        _, errors = second.communicate(timeout=SECONDS)
        after = {path.name: path.stat().st_mtime_ns for path in folder.glob("cells/*.json")}
        workers = [cell["worker"] for cell in done(folder).values()]
        kept = {name: after[name] for name in before} == before
        json.dump(
            {**seen, "code": second.returncode, "errors": errors[-2000:], "workers": workers, "kept": kept}, sys.stdout
        )
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
