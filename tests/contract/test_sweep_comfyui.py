"""A sweep on real ComfyUI servers: cells on two of them, and one that dies on the way."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.headless.sweep.remote import Remote
from PIL import Image

from .comfyui_server import ROOT, Server

pytestmark = pytest.mark.comfyui
CHILD = ROOT / "tests" / "headless" / "sweep" / "ray_child.py"
DEMO = ROOT / "example_workflows" / "api" / "demo.json"


def results(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("cells/*.json"))]


def test_two_servers_share_the_cells_and_one_may_die(tmp_path: Path) -> None:
    axes = ["--axis", "KSampler.seed=1..6", "--axis", "KSampler.steps=10", "--quiet"]
    with Server(tmp_path / "a") as one, contextlib.ExitStack() as other:
        second = other.enter_context(Server(tmp_path / "b"))
        code: list[int] = []
        arguments = ["sweep", str(DEMO), "--folder", str(tmp_path / "s"), "--server", one.url, "--server", second.url]
        thread = threading.Thread(target=lambda: code.append(main([*arguments, *axes])))
        thread.start()
        end = time.monotonic() + 120
        while not any(row["worker"] == second.url for row in results(tmp_path / "s")) and time.monotonic() < end:
            time.sleep(0.05)
        second.process.kill()
        thread.join(300)
    assert code == [0]
    found = results(tmp_path / "s")
    assert len(found) == 7 and {row["worker"] for row in found} == {one.url, second.url}
    assert all(row["seconds"] > 0 and row["backends"] and not row["error"] for row in found)
    assert main(["sweep", str(DEMO), "--folder", str(tmp_path / "here"), *axes]) == 0
    for folder in (tmp_path / "here").glob("cells/*/"):
        there = tmp_path / "s" / "cells" / folder.name
        one, two = (np.asarray(Image.open(next(place.glob("*.png"))), dtype=float) for place in (folder, there))
        assert np.abs(one - two).max() <= 1.0


def test_servers_of_a_ray_cluster_give_every_cell_once_whoever_dies(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed (extra `ray`)")
    with Server(tmp_path / "a") as one, Server(tmp_path / "b") as second:
        servers = [f"{server.url},{server.process.pid}" for server in (one, second)]
        command = [sys.executable, str(CHILD), str(tmp_path / "s"), "16", *servers]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=550)
        assert ran.returncode == 0, ran.stderr[-3000:]
        assert second.process.wait(10) == -signal.SIGKILL
    seen = json.loads(ran.stdout[ran.stdout.index("{") :])
    assert seen["code"] == 0, seen["errors"]
    assert 2 <= seen["killed driver"] < seen["killed node"] < seen["killed server"] <= 16 and seen["kept"]
    found = results(tmp_path / "s")
    assert len(found) == 17 and {row["worker"] for row in found} == {one.url, second.url}
    assert all(row["step_seconds"] and row["peak_bytes"] and row["backends"] and not row["error"] for row in found)
    assert len(list((tmp_path / "s" / "cells").glob("*/*.png"))) == 17


def test_a_server_tells_what_its_models_weigh(tmp_path: Path) -> None:
    with Server(tmp_path / "a") as server:
        folder = tmp_path / "a" / "models" / "checkpoints"
        folder.mkdir()
        (folder / "one.safetensors").write_bytes(bytes(1000))
        (folder / "two.safetensors").write_bytes(bytes(100))
        with contextlib.closing(Remote(server.url, tmp_path)) as remote:
            loaders = [
                {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": f"{n}.safetensors"}}
                for n in ("one", "two", "one", "none")
            ]
            assert remote.need({str(number): loader for number, loader in enumerate(loaders)}) == 1100
            assert remote.memory is not None and remote.memory > 2**30
            assert remote.client.model_sizes("no_such_folder") == {}


def test_ctrl_c_stops_the_jobs_of_all_servers(tmp_path: Path) -> None:
    with Server(tmp_path / "a") as one, Server(tmp_path / "b") as second:
        command = [sys.executable, "-m", "attention_patchbay.headless.commands.cli", "sweep", str(DEMO), "--quiet"]
        command += ["--folder", str(tmp_path / "s"), "--axis", "KSampler.seed=1..4", "--axis", "KSampler.steps=2000"]
        command += ["--server", one.url, "--server", second.url, "--baseline", "KSampler.steps=1"]
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 120
        while not all(server.get("/queue")["queue_running"] for server in (one, second)) and time.monotonic() < end:
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130 and "interrupted" in child.communicate()[1]
        time.sleep(3)
        for server in (one, second):
            queue = server.get("/queue")
            assert not queue["queue_running"] and not queue["queue_pending"]


def test_the_comfy_api_before_a_server_gives_the_pictures_of_the_server(tmp_path: Path) -> None:
    pytest.importorskip("comfy_sdk", reason="comfy-sdk is not installed (extra `sdk`)")
    pytest.importorskip("comfy_api_proxy", reason="comfy-api-proxy is not installed (extra `dev`)")
    from ..headless.sweep.comfy_proxy import ComfyProxy

    axes = ["--axis", "KSampler.seed=1..2", "--axis", "KSampler.steps=3", "--quiet"]
    with Server(tmp_path / "a") as server, ComfyProxy(server.url) as proxy:
        for place, url in (("s", f"sdk+{proxy.url}"), ("here", server.url)):
            assert main(["sweep", str(DEMO), "--folder", str(tmp_path / place), "--server", url, *axes]) == 0
    assert len(results(tmp_path / "s")) == 3
    for folder in (tmp_path / "here").glob("cells/*/"):
        there = tmp_path / "s" / "cells" / folder.name
        one, two = (np.asarray(Image.open(next(place.glob("*.png")))) for place in (folder, there))
        assert np.array_equal(one, two)
