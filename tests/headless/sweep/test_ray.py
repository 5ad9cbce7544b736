"""A sweep on a local Ray cluster: the driver and a node are killed, and every cell arrives once."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.engine.errors import Failure
from attention_patchbay.headless.sweep.memory import need, size_here
from attention_patchbay.headless.sweep.on_ray import Node, check_nodes, placement

pytest.importorskip("ray", reason="ray is not installed (extra `ray`)")
LOCAL = Path(__file__).with_name("ray_local_child.py")
CHILD = Path(__file__).with_name("ray_child.py")
CELLS = 5


def test_every_cell_arrives_once_from_nodes_that_have_the_memory_whoever_dies(tmp_path: Path) -> None:
    command = [sys.executable, str(CHILD), str(tmp_path / "s"), str(CELLS)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert ran.returncode == 0, ran.stderr[-3000:]
    seen = json.loads(ran.stdout[ran.stdout.index("{") :])
    assert seen["code"] == 0, seen["errors"]
    assert 2 <= seen["killed driver"] < seen["killed node"] <= CELLS  # both happened on the way
    assert len(seen["workers"]) == CELLS + 1 and seen["kept"]
    nodes = {worker.split()[1] for worker in seen["workers"]}
    assert len(nodes) == 2 and seen["small"][:8] not in nodes
    pictures = list((tmp_path / "s" / "cells").glob("*/*.png"))
    assert len(pictures) == CELLS + 1 and not list((tmp_path / "s" / "cells").glob("*.part"))
    assert list(
        (tmp_path / "s" / "cache" / "patchbay-results").glob("*.safetensors")
    )  # what the workers find of each other
    assert seen["code without"] == 1
    assert "no node of the cluster with 0.01 GiB is left; start again to go on" in seen["errors without"]


def test_a_cell_goes_to_nodes_with_the_memory_for_its_models() -> None:
    nodes = [Node("a", 0, 2**30), Node("b", 0, 2**34)]
    assert placement(0, nodes) == {"num_cpus": 1}
    assert placement(2**33, nodes) == {
        "num_cpus": 1,
        "memory": 2**33,
        "label_selector": {"ray.io/node-id": "in(b)"},
    }
    assert placement(2**40, nodes) == placement(2**34, nodes)  # fits nowhere: where there is the most
    gpus = [Node("a", 1, 2**33), Node("b", 4, 2**36), Node("c", 1, 2**36)]
    assert placement(2**35, gpus) == {"num_cpus": 1, "num_gpus": 1, "label_selector": {"ray.io/node-id": "in(b,c)"}}
    with pytest.raises(Failure, match="no node of the cluster has a core"):
        placement(0, [])


def test_a_sweep_ends_when_the_nodes_that_it_needs_are_gone() -> None:
    nodes = [Node("a", 0, 2**30), Node("b", 0, 2**34)]
    check_nodes(2**33, nodes, nodes[1:])
    check_nodes(2**40, nodes, nodes[1:])
    for left in ([], nodes[:1]):
        with pytest.raises(Failure, match="8.00 GiB is left; start again to go on"):
            check_nodes(2**33, nodes, left)


def test_models_weigh_what_their_files_do(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "a.safetensors").write_bytes(bytes(300))
    prompt = {"1": {"inputs": {"ckpt_name": "a.safetensors"}}, "2": {"inputs": {"ckpt_name": "a.safetensors"}}}
    prompt |= {"3": {"inputs": {"lora_name": "none.safetensors", "clip_name": "b", "vae_name": "../checkpoints/a"}}}
    assert need(prompt, functools.partial(size_here, Folders(tmp_path))) == 300


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net")
def test_a_local_cluster_listens_on_loopback_only_and_a_cell_takes_the_core_that_it_has() -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    ran = subprocess.run([sys.executable, str(LOCAL)], capture_output=True, text=True, timeout=200, env=env)
    assert ran.returncode == 0, ran.stderr[-3000:]
    seen = json.loads(ran.stdout[ran.stdout.index("{") :])
    assert seen["threads"] == 1 and len(seen["listening"]) >= 4
    assert set(seen["listening"]) <= {"127.0.0.1", "::1"}
