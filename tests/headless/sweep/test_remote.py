"""Cells on servers that have a hiccup: it costs a cell, never the sweep or the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.client import aio
from attention_patchbay.headless.sweep.remote import Remote
from attention_patchbay.headless.sweep.runner import WorkerLost

from ..client.fake_server import FakeServer, comfyui

PROMPT: dict[str, Any] = {"2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a"}}}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLOCK", "PAUSE"):
        monkeypatch.setattr(aio, name, 0.02)


def lost_once(server: FakeServer, until: int) -> Any:
    """Forget the jobs before a number, as a server does that is restarted."""
    history = server.routes["/history"]
    return lambda asked: (200, {}) if server.count("/prompt") < until else history(asked)


BAD = {
    "a picture that is gone": {"view": (404, b"")},
    "a server error": {"prompt": (500, b"in trouble")},
    "a job that somebody deleted": {"history": (200, {})},
}


@pytest.mark.parametrize("routes", BAD.values(), ids=BAD)
def test_a_bad_cell_fails_alone(routes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio.AsyncClient, "listen", _deaf)
    with FakeServer(comfyui(**routes)) as server:
        remote = Remote(server.url, tmp_path)
        assert remote.run(PROMPT, tmp_path / "a").error
        server.routes |= comfyui()
        warm = remote.run(PROMPT, tmp_path / "b")
        assert warm.images == ["a.png"] and warm.warm_up and not remote.run(PROMPT, tmp_path / "c").warm_up
        remote.close()


@pytest.mark.parametrize("routes", BAD.values(), ids=BAD)
def test_a_server_that_answers_nothing_else_is_lost(routes: dict[str, Any], tmp_path: Path) -> None:
    with FakeServer(comfyui(**routes)) as server:
        remote = Remote(server.url, tmp_path)
        server.routes["/system_stats"] = (500, b"")
        with pytest.raises(WorkerLost):
            remote.run(PROMPT, tmp_path / "a")
        remote.close()


def test_a_cell_runs_again_on_a_server_that_was_restarted(tmp_path: Path) -> None:
    with FakeServer(comfyui()) as server:
        remote = Remote(server.url, tmp_path)
        assert remote.run(PROMPT, tmp_path / "first").warm_up
        server.routes["/history"] = lost_once(server, 3)
        again = remote.run(PROMPT, tmp_path / "a")
        assert again.images == ["a.png"] and server.count("/prompt") == 3
        assert again.warm_up  # its models went with the old process
        remote.close()


def test_a_file_in_the_way_of_a_folder_is_said(tmp_path: Path) -> None:
    files = [{"filename": "taken", "type": "output"}, {"filename": "x.png", "subfolder": "taken", "type": "output"}]
    done = {"outputs": {"1": {"images": files}}, "status": {"status_str": "success"}}
    with FakeServer(comfyui()) as server:
        server.routes["/history"] = lambda asked: (200, {asked.path.rpartition("/")[2]: done})
        remote = Remote(server.url, tmp_path)
        assert "'taken/x.png', whose folder is a file already" in remote.run(PROMPT, tmp_path / "a").error
        remote.close()


async def _deaf(self: Any) -> Any:
    raise OSError
