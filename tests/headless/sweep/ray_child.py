"""Sweep on a local Ray cluster whose nodes are killed: `python ray_child.py FOLDER CELLS [SERVER ...]`.

Two nodes have the memory for the models and one has not. The driver is a command of its own: it is killed after some
cells and started again; then a node is killed, and under another sweep the other one. With servers, each `URL,PID`,
both nodes are killed, then the last of the servers. Prints as JSON how many cells were done at each moment, the
workers, the node without memory, and how the other sweep ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from attention_patchbay.ldm_patched.demo import CHECKPOINT
from ray.cluster_utils import Cluster

DEMO = Path(__file__).parents[3] / "example_workflows" / "api" / "demo.json"
SECONDS = 240
SMALL, LARGE = 10 * 2**20, 2**30  # the demo checkpoint has 15 MB


def workflow(folder: Path) -> Path:
    """Write the demo workflow with a checkpoint of a models folder."""
    (folder / "models" / "checkpoints").mkdir(parents=True)
    shutil.copy(CHECKPOINT, folder / "models" / "checkpoints" / "some.safetensors")
    prompt = json.loads(DEMO.read_text())
    prompt["1"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "some.safetensors"}}
    (folder / "w.json").write_text(json.dumps(prompt))
    return folder / "w.json"


def driver(
    address: str, path: Path, folder: Path, count: int, servers: list[str], steps: int = 10
) -> subprocess.Popen[str]:
    """Start a sweep."""
    command = [sys.executable, "-m", "attention_patchbay.headless.commands.cli", "sweep", str(path), "--quiet"]
    command += ["--folder", str(folder), "--ray", address, "--axis", f"KSampler.seed=1..{count}"]
    command += [part for server in servers for part in ("--server", server.split(",")[0])]
    command += ["--axis", f"KSampler.steps={steps}"] + ([] if servers else ["--models", str(path.parent / "models")])
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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
    """Run, kill a driver, kill a node, and finish; then end for want of the other node."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    path = DEMO if servers else workflow(folder.parent)
    try:
        small = None if servers else cluster.add_node(num_cpus=1, memory=SMALL)
        nodes = [cluster.add_node(num_cpus=1, memory=LARGE) for _ in range(2)]
        cluster.wait_for_nodes()
        first = driver(cluster.address, path, folder, count, servers)
        seen: dict[str, Any] = {"killed driver": wait(folder, 2, first)}
        first.kill()
        first.wait()
        before = {path.name: path.stat().st_mtime_ns for path in folder.glob("cells/*.json")}
        second = driver(cluster.address, path, folder, count, servers)
        seen["killed node"] = wait(folder, len(before) + 2, second)
        for node in nodes if servers else nodes[:1]:
            cluster.remove_node(node, allow_graceful=False)
        if servers:
            seen["killed server"] = wait(folder, seen["killed node"] + 2, second)
            os.kill(int(servers[-1].split(",")[1]), signal.SIGKILL)
        _, errors = second.communicate(timeout=SECONDS)
        after = {path.name: path.stat().st_mtime_ns for path in folder.glob("cells/*.json")}
        seen |= {"code": second.returncode, "errors": errors[-2000:]}
        seen["workers"] = [cell["worker"] for cell in done(folder).values()]
        seen["kept"] = {name: after[name] for name in before} == before
        if small is not None:
            seen |= {"small": small.node_id, **without(cluster, nodes[1], path)}
        json.dump(seen, sys.stdout)
    finally:
        cluster.shutdown()


def without(cluster: Any, node: Any, path: Path) -> dict[str, Any]:
    """Return how a sweep ends whose only node with the memory is killed."""
    folder = path.parent / "without"
    third = driver(cluster.address, path, folder, 4, [], steps=100)
    wait(folder, 1, third)
    cluster.remove_node(node, allow_graceful=False)
    _, errors = third.communicate(timeout=SECONDS)
    return {"code without": third.returncode, "errors without": errors}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
