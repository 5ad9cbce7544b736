"""`patchbay queue` and the client on a real ComfyUI server: results, refusals, failures, breaks and Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attention_patchbay.client import AsyncClient, Client, Executed, Finished, JobFailed, JobLost, Node, Step
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.headless.engine.workflow import PromptError
from PIL import Image

from .comfyui_server import ROOT, Server

pytestmark = pytest.mark.comfyui
DEMO = ROOT / "example_workflows" / "api" / "demo.json"
PAGE = ROOT / "example_workflows" / "demo.json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("queue") / "base") as running:
        yield running


def demo(**changes: Any) -> dict[str, Any]:
    workflow = json.loads(DEMO.read_text())
    (sampler,) = [node for node in workflow.values() if node["class_type"] == "KSampler"]
    sampler["inputs"].update(changes)
    return workflow


def sampler_of(workflow: dict[str, Any]) -> str:
    return next(id for id, node in workflow.items() if node["class_type"] == "KSampler")


@pytest.mark.parametrize("file", [DEMO, PAGE], ids=["api", "page"])
def test_the_command_gives_the_picture_of_the_embedded_host(
    file: Path, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--set", "KSampler.steps=4", "--set", "KSampler.seed=3", "--json"]
    assert main(["queue", str(file), "--server", server.url, "--output", str(tmp_path / "there"), *both]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["run", str(file), "--output", str(tmp_path / "here"), *both]) == 0
    (here,) = json.loads(capsys.readouterr().out)["images"]
    (there,) = found["images"]
    assert any("attention calls" in text for output in found["outputs"].values() for text in output.get("text", []))
    difference = np.abs(np.asarray(Image.open(here), dtype=float) - np.asarray(Image.open(there), dtype=float))
    assert difference.max() <= 1.0
    assert not list((tmp_path / "there").glob(".*"))


def test_events_come_in_order(server: Server) -> None:
    workflow, events = demo(steps=3, seed=11), []
    with Client(server.url) as client:
        result = client.run(workflow, events.append)
        assert client.position(result.prompt_id) is None and client.history(result.prompt_id) is not None
        assert client.system_stats()["system"]["comfyui_version"]
    steps = [event.value for event in events if isinstance(event, Step) and event.node == sampler_of(workflow)]
    assert steps == sorted(set(steps)) and steps[-1] == 3 and isinstance(events[-1], Finished)
    assert any(isinstance(event, Node) for event in events) and any(isinstance(event, Executed) for event in events)
    assert sampler_of(workflow) in result.seconds and list(result.images())


def test_a_wrong_value_is_refused_in_words(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    with Client(server.url) as client, pytest.raises(PromptError, match=r"node \d+ KSampler: .*sampler_name"):
        client.run(demo(sampler_name="nonsense"))
    code = main(["queue", str(DEMO), "--server", server.url, "--set", "KSampler.steps=0", "--quiet"])
    assert code == 2 and "KSampler" in capsys.readouterr().err


def test_a_failing_node_is_named(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    workflow = demo()
    (patch,) = [id for id, node in workflow.items() if node["class_type"] == "PatchbayAttentionPatch"]
    workflow[patch]["inputs"]["blocks"] = "output:99"
    with (
        Client(server.url) as client,
        pytest.raises(JobFailed, match=rf"node {patch} PatchbayAttentionPatch.*output:99"),
    ):
        client.run(workflow)
    code = main(["queue", str(DEMO), "--server", server.url, "--set", f"{patch}.blocks=output:99", "--quiet"])
    assert code == 1 and "output:99" in capsys.readouterr().err


def test_nobody_there_is_said_with_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", str(DEMO), "--server", "http://127.0.0.1:9", "--quiet"]) == 2
    assert "no server answers at http://127.0.0.1:9; start ComfyUI there" in capsys.readouterr().err


class Proxy:
    """A TCP proxy in front of a server whose connections can be cut."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.pairs: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                inside, _ = self.listener.accept()
            except OSError:
                return
            outside = socket.create_connection(("127.0.0.1", self.target))
            self.pairs += [inside, outside]
            for one, other in ((inside, outside), (outside, inside)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            end.close()

    def cut(self) -> None:
        """Break every connection."""
        for end in self.pairs:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self.pairs.clear()


def test_a_broken_connection_loses_no_job_and_queues_none_twice(server: Server) -> None:
    proxy, seen = Proxy(server.port), []

    def cut(event: Any) -> None:
        seen.append(event)
        if isinstance(event, Step) and event.value in (5, 20):
            proxy.cut()

    with Client(proxy.url) as client:
        before = len(server.get("/history"))
        result = client.run(demo(steps=60, seed=21), cut)
        assert list(result.images()) and len(server.get("/history")) == before + 1
    assert sum(isinstance(event, Finished) for event in seen) == 1
    proxy.listener.close()


def test_a_deleted_job_is_lost_and_said_to_be(server: Server) -> None:
    async def lose() -> None:
        async with AsyncClient(server.url) as client:
            async for _ in client.events("no-such-job"):
                pass

    with pytest.raises(JobLost, match="knows no job no-such-job any more"):
        asyncio.run(lose())


def test_ctrl_c_stops_the_job_on_the_server(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attention_patchbay.headless.commands.cli", "queue", str(DEMO)]
    command += ["--server", server.url, "--output", str(tmp_path), "--set", "KSampler.steps=2000"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not server.get("/queue")["queue_running"] and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(1.0)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130 and "interrupted" in errors
    while server.get("/queue")["queue_running"] and time.monotonic() < end:
        time.sleep(0.1)
    assert server.get("/queue")["queue_running"] == [] and not list(tmp_path.iterdir())


def test_pictures_are_uploaded(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "input" / "sub").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "input" / "sub" / "mine.png")
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "sub/mine.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "up/loaded"}},
    }
    (tmp_path / "w.json").write_text(json.dumps(workflow))
    folders = ["--input", str(tmp_path / "input"), "--output", str(tmp_path / "output")]
    assert main(["queue", str(tmp_path / "w.json"), "--server", server.url, *folders, "--json"]) == 0
    (path,) = json.loads(capsys.readouterr().out)["images"]
    assert path == str(tmp_path / "output" / "up" / "loaded_00001_.png")
    assert np.array_equal(np.asarray(Image.open(path)), pixels)


def test_the_picture_of_this_machine_is_taken_though_the_server_has_one_of_its_name(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "input").mkdir()
    workflow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "hint.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "stale"}},
    }
    (tmp_path / "w.json").write_text(json.dumps(workflow))
    folders = ["--input", str(tmp_path / "input"), "--output", str(tmp_path / "output"), "--quiet", "--json"]
    for color in ("red", "blue", "red"):
        Image.new("RGB", (8, 8), color).save(tmp_path / "input" / "hint.png")
        assert main(["queue", str(tmp_path / "w.json"), "--server", server.url, *folders]) == 0
        (path,) = json.loads(capsys.readouterr().out)["images"]
        with Image.open(path) as shown:
            assert shown.convert("RGB").getpixel((0, 0)) == Image.new("RGB", (1, 1), color).getpixel((0, 0))
    assert {path.name for path in (server.base / "input").glob("hint*")} == {"hint.png", "hint (1).png"}
