"""The client on servers that lose messages, jobs and themselves, or are somebody else."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from attention_patchbay.headless.client import aio, questions
from attention_patchbay.headless.client.aio import AsyncClient
from attention_patchbay.headless.client.answers import outputs_of
from attention_patchbay.headless.client.events import Event, Finished, Preview, end_in_history, event_of
from attention_patchbay.headless.client.job import JobFailed, JobLost, Result, ServerUnreachable
from attention_patchbay.headless.client.sync import Client
from attention_patchbay.headless.engine.workflow import PromptError
from attention_patchbay.headless.sweep.runner import pictures

from .fake_server import FakeServer, comfyui

PROMPT = {"1": {"class_type": "SaveImage", "inputs": {}}}


class Chatter:
    """A websocket on which everything comes but the job."""

    async def recv(self) -> str:
        await asyncio.sleep(0.001)
        return json.dumps({"type": "crystools.monitor", "data": {"cpu": 1}})

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLOCK", "PAUSE"):
        monkeypatch.setattr(aio, name, 0.02)
    monkeypatch.setattr(questions, "PAUSE", 0.02)


async def followed(url: str, id: str, socket: Any = None) -> list[Event]:
    async with AsyncClient(url, patience=0.1) as client:
        return [event async for event in client.events(id, socket)]


def test_a_lost_message_is_asked_for_though_others_come() -> None:
    done = {"job": {"outputs": {}, "status": {"status_str": "success"}}}
    with FakeServer(comfyui(history=(200, done))) as server:
        assert asyncio.run(followed(server.url, "job", Chatter())) == [Finished("success", {})]


@pytest.mark.parametrize(
    ("socket", "jobs", "why"),
    [(None, {}, "it was restarted"), (Chatter(), {}, "somebody deleted it"), (None, {"b": {}}, "somebody deleted it")],
)
def test_a_server_that_was_restarted_is_told_from_one_that_lost_a_job(socket: Any, jobs: Any, why: str) -> None:
    with FakeServer(comfyui(history=(200, jobs))) as server, pytest.raises(JobLost, match=why) as caught:
        asyncio.run(followed(server.url, "job", socket))
    assert caught.value.restarted == ("restarted" in why)


@pytest.mark.parametrize("status", [301, 302, 201, 204, 401, 403, 404, 413, 429, 500])
def test_a_refusal_ends_at_once(status: int) -> None:
    with FakeServer(comfyui(prompt=(status, b"<html>\x1b no</html>"))) as server, Client(server.url) as client:
        with pytest.raises(ServerUnreachable, match=f"/prompt answers {status}"):
            client.run(PROMPT)
        assert server.count("/prompt") == 1


def test_a_proxy_whose_server_is_away_is_asked_again() -> None:
    waiting = [(502, b""), (503, b""), (200, {"prompt_id": "x"})]
    with FakeServer(comfyui(prompt=lambda asked: waiting.pop(0))) as server, Client(server.url) as client:
        assert client.submit(PROMPT) == "x"


def test_only_200_is_a_picture(server: FakeServer) -> None:
    for status in (302, 206, 404):
        server.routes["/view"] = (status, b"login")
        with Client(server.url) as client, pytest.raises(ServerUnreachable, match=f"answers {status}"):
            client.fetch({"filename": "a.png"})


def test_a_connection_that_breaks_once_costs_another_try(server: FakeServer, tmp_path: Any) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    paths = ["/object_info", "/upload", "/view"]
    with Client(server.url) as client:
        for broken in (paths, paths * 2):
            server.broken += broken
            client.object_info(), client.upload(tmp_path / "a.png")
            assert client.fetch({"filename": "a.png"}) == b"picture" and not server.broken
        away = [(502, b""), (200, b"picture")]
        server.routes["/view"] = lambda asked: away.pop(0)
        assert client.fetch({"filename": "a.png"}) == b"picture"


def test_an_answer_that_breaks_off_each_time_is_said(server: FakeServer) -> None:
    server.broken += ["/view"] * 1000
    with Client(server.url, patience=0.1) as client, pytest.raises(ServerUnreachable, match="/view: the answer broke"):
        client.fetch({"filename": "a.png"})


def test_nobody_is_not_waited_for() -> None:
    with FakeServer({}) as gone:
        pass
    begin = time.monotonic()
    with Client(gone.url) as client, pytest.raises(ServerUnreachable, match="no server answers"):
        client.object_info()
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("body", [b"", b"<html>login</html>", b"\n<!DOCTYPE html><p>"])
def test_a_page_is_no_picture(body: bytes, server: FakeServer) -> None:
    server.routes["/view"] = (200, body)
    with Client(server.url) as client:
        with pytest.raises(ServerUnreachable, match="/view gives .* for 'a.png'"):
            client.fetch({"filename": "a.png"})
        if body:
            assert client.fetch({"filename": "a.html"}) == body


def test_a_job_keeps_the_id_that_a_server_gives_it(server: FakeServer) -> None:
    done = {"own": {"outputs": {"1": {"text": ["done"]}}, "status": {"status_str": "success"}}}
    server.routes |= {"/prompt": (200, {"prompt_id": "own"}), "/history/own": (200, done), "/history": (200, {})}
    with Client(server.url) as client:
        result = client.run(PROMPT)
    assert (result.prompt_id, list(result.texts())) == ("own", ["done"])


def test_no_more_is_read_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "FILE", 2**20)
    monkeypatch.setattr(questions, "ANSWER", 2**20)
    large = (200, b" " * 2**23)
    with FakeServer(comfyui(view=large, queue=large)) as server, Client(server.url) as client:
        for ask in (lambda: client.fetch({"filename": "a"}), lambda: client.position("a")):
            with pytest.raises(ServerUnreachable, match="more than 1 MiB"):
                ask()


VALUES: list[Any] = [None, 1, [], {}, "x", [[]], {"x": []}, [None]]
ODD = [b"", b"<html>login</html>", b"[" * 100_000, b"\xff\xfe", *VALUES]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(comfyui()) as found:
        yield found


@pytest.mark.parametrize("path", ["/object_info", "/queue", "/history", "/prompt", "/upload", "/system_stats"])
def test_odd_answers_end_in_words(path: str, server: FakeServer, tmp_path: Any) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with Client(server.url, patience=0.01) as client:
        for answer in ODD:
            server.routes[path] = (200, answer)
            for ask in (
                client.object_info,
                client.system_stats,
                lambda: client.position("x"),
                lambda: client.history("x"),
                lambda: client.submit(PROMPT),
                lambda: client.upload(tmp_path / "a.png"),
            ):
                try:
                    ask()
                except ServerUnreachable as error:
                    assert str(error)


def test_odd_refusals_are_refusals(server: FakeServer) -> None:
    with Client(server.url) as client:
        for refusal in [*VALUES, {"error": 1}, {"error": {}, "node_errors": {"1": [], "2": {"errors": [1]}}}]:
            server.routes["/prompt"] = (400, refusal)
            with pytest.raises(PromptError):
                client.submit(PROMPT)


def test_odd_entries_of_the_history_are_ends() -> None:
    statuses = [*VALUES, {"messages": [1, [], [[], {}], ["execution_error", 3]], "status_str": "error"}]
    ends = [end_in_history({"status": status}) for status in statuses]
    assert [end.status for end in ends] == ["success"] * len(VALUES) + ["error"]
    assert "failed" in str(JobFailed(PROMPT, ends[-1].data))
    for outputs in (*VALUES, {"1": {"images": [1, {"filename": 3}], "text": 3}, "2": []}):
        found = Result("job", outputs_of({"outputs": outputs}))
        assert list(found.images()) == list(found.texts()) == pictures(found.outputs) == []
    assert list(Result("job", {"1": {"text": "word"}}).texts()) == ["word"]


def test_odd_messages_are_passed_over() -> None:
    datas = [*VALUES, {"prompt_id": "a"}, {"prompt_id": "a", "value": float("inf"), "max": 1}]
    datas += [{"prompt_id": "a", "value": float("nan"), "max": 1e400}, {"prompt_id": "a", "nodes": 1, "output": 1}]
    for kind in ("progress", "executed", "executing", "execution_cached", "status", [], {}, None, 1):
        for data in datas:
            assert event_of(json.dumps({"type": kind, "data": data}), "a") is None
    for message in (b"", b"\0\0\0\1", b"\0\0\0\4\xff\xff\xff\xff123", b"\0\0\0\1\0\0\0\1", "", "{", "[1]", "1" * 5000):
        assert event_of(message, "a") is None
    assert event_of(b"\0\0\0\4\0\0\0\2{}png", "a") == Preview(b"png")


def test_a_server_that_dies_at_ctrl_c_hides_nothing() -> None:
    async def cancelled() -> None:
        async with AsyncClient(server.url, patience=5) as client:
            job = asyncio.create_task(client.run(PROMPT))
            while not server.count("/history"):
                await asyncio.sleep(0.01)
            job.cancel()
            await job

    with FakeServer(comfyui(history=(200, {}), interrupt=(500, b""), queue=(503, b""))) as server:
        begin = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(cancelled())
        assert time.monotonic() - begin < 5


def test_headers_and_tokens_go_along_and_are_not_shown() -> None:
    with FakeServer(comfyui(view=(403, b"no Bearer hunter2 here"))) as server:
        url = server.url.replace("//", "//user:pass@") + "?token=hunter3"
        with Client(url, headers={"Authorization": "Bearer hunter2"}) as client:
            client.run(PROMPT)
            with pytest.raises(ServerUnreachable) as caught:
                client.fetch({"filename": "a.png"})
            assert client.url == server.url
    assert "hunter" not in str(caught.value) and "--header" in str(caught.value)
    assert all(asked.headers["Authorization"] == "Bearer hunter2" for asked in server.asked)
    assert all("token=hunter3" in asked.path for asked in server.asked)


def test_a_header_may_hold_latin_letters(server: FakeServer) -> None:
    with Client(server.url, headers={"X-Name": "Zo\u00eb"}) as client:
        client.system_stats()
    assert server.asked[0].headers["X-Name"] == "Zo\u00eb"


def test_proxies_of_the_environment_are_for_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer(comfyui()) as proxy, FakeServer(comfyui()) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        with Client(server.url) as client:
            client.system_stats()
        assert server.asked and not proxy.asked
        proxy.routes["http://far.example/system_stats"] = (200, {"far": 1})
        with Client("http://far.example") as client:
            assert client.system_stats() == {"far": 1}


class Cut:
    """A websocket that breaks."""

    closed = False

    async def recv(self) -> str:
        raise OSError("it broke")

    async def close(self) -> None:
        self.closed = True


class Telling(Cut):
    """A websocket that tells of the end of the job."""

    async def recv(self) -> str:
        return json.dumps({"type": "execution_success", "data": {"prompt_id": "x"}})


def test_a_connection_in_place_of_one_that_broke_is_closed_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when Python finds the time: the loop may have ended by then."""
    sockets = [Cut(), Telling()]
    waiting = list(sockets)
    done = {"x": {"outputs": {}, "status": {"status_str": "success"}}}
    told = [(200, {}), (200, done)]
    answers = {"prompt": (200, {"prompt_id": "x"}), "queue": (200, {"queue_running": [[0, "x"]], "queue_pending": []})}

    async def listen(self: AsyncClient) -> Any:
        return waiting.pop(0)

    async def outputs(self: AsyncClient, prompt_id: str) -> dict[str, Any]:
        return {"closed": sockets[1].closed}

    async def run(url: str) -> bool:
        async with AsyncClient(url) as client:
            return bool((await client.run(PROMPT)).outputs["closed"])

    monkeypatch.setattr(AsyncClient, "listen", listen)
    monkeypatch.setattr(AsyncClient, "_outputs", outputs)
    with FakeServer(comfyui(history=lambda asked: told.pop(0), **answers)) as server:
        assert asyncio.run(run(server.url))
