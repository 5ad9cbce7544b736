"""Sweep on a Ray cluster whose nodes differ in memory: `python ray_memory_child.py FOLDER`.

Prints as JSON the exit code, the workers of the cells, the node with more memory, and how a sweep ends without it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from attention_patchbay.ldm_patched.demo import CHECKPOINT
from ray.cluster_utils import Cluster
from ray_child import DEMO, done, wait

SMALL, LARGE = 10 * 2**20, 2**30  # the demo checkpoint has 15 MB


def workflow(folder: Path) -> Path:
    """Write the demo workflow with a checkpoint of the models folder."""
    (folder / "models" / "checkpoints").mkdir(parents=True)
    shutil.copy(CHECKPOINT, folder / "models" / "checkpoints" / "some.safetensors")
    prompt = json.loads(DEMO.read_text())
    prompt["1"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "some.safetensors"}}
    (folder / "w.json").write_text(json.dumps(prompt))
    return folder / "w.json"


def driver(cluster: Any, path: Path, name: str, steps: int) -> subprocess.Popen[str]:
    """Start a sweep of three cells, each with one to compare with."""
    command = [sys.executable, "-m", "attention_patchbay.headless.commands.cli", "sweep", str(path), "--quiet"]
    command += ["--models", str(path.parent / "models"), "--folder", str(path.parent / name), "--ray", cluster.address]
    command += ["--axis", "KSampler.seed=1..3", "--axis", f"KSampler.steps={steps}", "--baseline", "KSampler.steps=2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def main(folder: Path) -> None:
    """Run, then run without the node."""
    path = workflow(folder)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        cluster.add_node(num_cpus=1, memory=SMALL)
        large = cluster.add_node(num_cpus=1, memory=LARGE)
        cluster.wait_for_nodes()
        first = driver(cluster, path, "a", 3)
        first.communicate(timeout=200)
        workers = [cell["worker"] for cell in done(folder / "a").values()]
        second = driver(cluster, path, "b", 2000)
        wait(folder / "b", 1, second)
        cluster.remove_node(large, allow_graceful=False)
        _, errors = second.communicate(timeout=200)
        seen = {"code": first.returncode, "workers": workers, "large": large.node_id}
        json.dump({**seen, "code without": second.returncode, "errors": errors}, sys.stdout)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
