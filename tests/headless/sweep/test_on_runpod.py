"""Cells and jobs on endpoints that speak as RunPod's do."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from attention_patchbay.headless.client import runpod, service
from attention_patchbay.headless.client.job import ServerUnreachable
from attention_patchbay.headless.client.runpod import RunPod
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.headless.pages.workflow_file import embedded_infos
from attention_patchbay.headless.sweep.on_service import OnService
from attention_patchbay.headless.sweep.runner import Outcome, WorkerLost
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ..client.fake_server import FakeServer
from .runpod_endpoint import KEY, Endpoint

LOAD = {"class_type": "LoadImage", "inputs": {"image": "hint.png"}}
EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
SAVE = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}}
PROMPT: dict[str, Any] = {"1": EMPTY, "2": SAVE}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "FIRST", 0.02)
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    for module in (service, runpod):
        monkeypatch.setattr(module, "PAUSE", 0.02)
        monkeypatch.setattr(module, "PATIENCE", 5.0)
    monkeypatch.setattr(runpod, "_pause", lambda answer: 0.02)


@pytest.fixture
def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 8, 7)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def endpoint(picture: bytes) -> Endpoint:
    return Endpoint(picture)


def cell(server: FakeServer, folder: Path, timeout: float = 20.0, prompt: Any = PROMPT) -> Outcome:
    cells = OnService(RunPod(server.url), embedded_infos(), folder, timeout, 3.6)
    try:
        return cells.run(prompt, folder / "cell")
    finally:
        cells.close()


def test_a_sweep_runs_on_an_endpoint(endpoint: Endpoint, picture: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps({"1": LOAD, "2": SAVE}))
    (tmp_path / "hint.png").write_bytes(picture)
    with endpoint.serve() as server:
        where = ["--server", f"runpod+{server.url}", "--input", str(tmp_path), "--folder", str(tmp_path / "s")]
        axis = ["--axis", "2.filename_prefix=a,b,c", "--price", "3.6", "--quiet"]
        assert main(["sweep", str(tmp_path / "w.json"), *axis, *where]) == 0
    with (tmp_path / "s" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["warm_up"] for row in rows] == ["True", "False", "False"]  # one worker had them all
    for row in rows:
        assert (tmp_path / "s" / row["image"]).read_bytes() == picture and row["worker"] == server.url
        assert [float(row[name]) for name in ("seconds", "waited_seconds", "cost")] == [2.5, 1.5, 0.0025]
    assert [job["workflow"]["2"]["inputs"]["filename_prefix"] for job in endpoint.jobs] == ["a", "b", "c"]
    for job in endpoint.jobs:
        (image,) = job["images"]
        assert base64.b64decode(image["image"]) == picture and job["workflow"]["1"]["inputs"]["image"] == image["name"]


def test_several_jobs_run_at_a_time_on_an_address_given_twice(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps(PROMPT))
    with endpoint.serve() as server:
        where = ["--server", f"runpod+{server.url}"] * 2 + ["--folder", str(tmp_path / "s"), "--quiet"]
        endpoint.looks = 10**9
        cells = ["sweep", str(tmp_path / "w.json"), "--axis", "2.filename_prefix=a,b", "--timeout", "0.5", *where]
        assert main(cells) == 1
    assert len(endpoint.jobs) == len(endpoint.cancelled) == 2
    first = [asked.path for asked in server.asked][:4]
    assert first.count("/run") == 2  # the second was sent before the first one's time was over


def test_a_workflow_is_queued_on_an_endpoint(
    endpoint: Endpoint, picture: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.json").write_text(json.dumps(PROMPT))
    with endpoint.serve() as server:
        command = ["queue", str(tmp_path / "w.json"), "--server", f"runpod+{server.url}", "--price", "3.6"]
        for _ in range(2):
            assert main([*command, "--output", str(tmp_path / "out"), "--set", "2.filename_prefix=b"]) == 0
        said = capsys.readouterr()
        assert main([*command, "--no-wait"]) == 0 and capsys.readouterr().out == "job-3-u1\n"
    assert said.out.splitlines() == [str(tmp_path / "out" / "a_00001_.png")] * 2
    assert said.err.splitlines()[:4] == ["queued", "running", "done", "2.5 s, 1.5 s before that, cost 0.0025"]


def test_a_job_whose_answer_was_lost_is_not_sent_again(endpoint: Endpoint, tmp_path: Path) -> None:
    with endpoint.serve() as server:
        server.broken = ["/run"]
        error = cell(server, tmp_path).error
        assert "the job may run there, so it was not sent again" in error and server.count("/run") == 1
        server.routes["/run"] = (502, b"bad gateway")
        assert "it answers 502" in cell(server, tmp_path).error and server.count("/run") == 2


def test_a_full_queue_is_waited_for(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.full = 2
    with endpoint.serve() as server:
        assert not cell(server, tmp_path).error and server.count("/run") == 3


def test_an_endpoint_that_breaks_off_while_a_job_runs_is_asked_again(endpoint: Endpoint, tmp_path: Path) -> None:
    with endpoint.serve() as server:
        server.broken = ["/status/", "/status/"]
        assert not cell(server, tmp_path).error and len(endpoint.jobs) == 1


def test_a_job_of_an_endpoint_that_is_gone_is_given_to_no_other(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "PATIENCE", 0.1)
    with endpoint.serve() as server:
        server.routes["/status/"] = (500, b"in trouble")
        error = cell(server, tmp_path).error
        assert "answers 500" in error and "the job job-1-u1 may run there, so no other worker gets it" in error
        server.routes["/run"] = (401, b"")
        with pytest.raises(WorkerLost, match="answers 401"):
            cell(server, tmp_path)


def test_a_job_that_is_refused_fails_alone(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "hint.png").write_bytes(bytes(8 * 2**20))
    with endpoint.serve() as server:
        error = cell(server, tmp_path, prompt={"1": LOAD, "2": SAVE}).error
    assert "refuses the job (400)" in error and "payload too large" in error


def test_a_key_is_asked_for_and_never_shown(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.json").write_text(json.dumps(PROMPT))
    endpoint.end = {"status": "FAILED", "error": f"no access with Bearer {KEY}"}
    with endpoint.serve() as server:
        where = ["--server", f"runpod+{server.url}", "--folder", str(tmp_path / "s"), "--quiet"]
        command = ["sweep", str(tmp_path / "w.json"), "--axis", "2.filename_prefix=a,b", *where]
        assert main(command) == 1
        monkeypatch.setenv("RUNPOD_API_KEY", "hunter23")
        assert main([*command, "--retry-failed"]) == 1
        said = "".join(capsys.readouterr())
    assert "/run answers 401; set RUNPOD_API_KEY in the environment" in said and "hunter" not in said
    for path in (path for path in (tmp_path / "s").rglob("*") if path.is_file()):
        assert b"hunter" not in path.read_bytes(), path


ENDS = {
    "Node Type: KSampler, Message: no room": {"status": "FAILED", "error": "Node Type: KSampler, Message: no room"},
    "the job timed out at the endpoint": {"status": "TIMED_OUT"},
    "the job was cancelled": {"status": "CANCELLED"},
    "said in the output": {"status": "COMPLETED", "output": {"error": "said in the output"}},
    "the job ended as None": {"status": None},
}


@pytest.mark.parametrize("error", ENDS)
def test_a_job_that_ends_without_a_result_says_why_and_costs(error: str, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.end = ENDS[error]
    with endpoint.serve() as server:
        outcome = cell(server, tmp_path)
    assert outcome.error == error
    assert (outcome.seconds, outcome.waited_seconds, outcome.cost) == (2.5, 1.5, 0.0025)


def test_a_job_that_takes_too_long_is_stopped(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.looks = 10**9
    with endpoint.serve() as server:
        error = cell(server, tmp_path, 0.1).error
    assert "took longer than 0.1 s and was stopped" in error and endpoint.cancelled == ["job-1-u1"]


def test_ctrl_c_stops_the_job(endpoint: Endpoint, tmp_path: Path) -> None:
    def stop(state: Any) -> None:
        raise KeyboardInterrupt

    with endpoint.serve() as server:
        place = RunPod(server.url)
        with pytest.raises(KeyboardInterrupt):
            service.follow(place, place.submit(PROMPT, 20.0), 20.0, stop)
        place.close()
    assert endpoint.cancelled == ["job-1-u1"]


def test_a_job_that_nobody_knows_any_more_is_lost(endpoint: Endpoint, tmp_path: Path) -> None:
    with endpoint.serve() as server:
        server.routes["/status/"] = (404, {"error": "job not found"})
        assert "knows no job job-1-u1 any more" in cell(server, tmp_path).error and server.count("/status/") == 3


def test_a_picture_in_a_bucket_is_fetched_without_the_key(endpoint: Endpoint, picture: bytes, tmp_path: Path) -> None:
    with FakeServer({"/bucket/": (200, picture)}) as bucket, endpoint.serve() as server:
        image = {"filename": "a_00001_.png", "type": "s3_url", "data": f"{bucket.url}/bucket/a?signature=1"}
        endpoint.end = {"status": "COMPLETED", "output": {"images": [image]}}
        bucket.broken = ["/bucket/"]
        outcome = cell(server, tmp_path)
        assert (tmp_path / "cell" / outcome.images[0]).read_bytes() == picture and not outcome.error
        assert bucket.asked and all("Authorization" not in asked.headers for asked in bucket.asked)
        bucket.routes["/bucket/"] = (403, b"")
        assert "the bucket answers 403 for 'a_00001_.png'" in cell(server, tmp_path).error


def test_a_worker_on_a_machine_of_its_own_is_asked_by_post(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.method = "POST"
    with endpoint.serve() as server:
        assert not cell(server, tmp_path).error


def test_names_of_an_endpoint_stay_in_the_folder(endpoint: Endpoint, tmp_path: Path) -> None:
    outside, wrong = {"filename": "../a.png", "data": "AAAA"}, {"filename": "a.png", "data": "no base64"}
    for image in (outside, wrong, {"filename": "a.png"}):
        endpoint.end = {"status": "COMPLETED", "output": {"images": [image]}}
        with endpoint.serve() as server:
            outcome = cell(server, tmp_path)
        assert outcome.error and not outcome.images and not list(tmp_path.rglob("*.png"))


def test_nobody_is_said_at_once(tmp_path: Path) -> None:
    cells = OnService(RunPod("http://127.0.0.1:9"), embedded_infos(), tmp_path)
    with pytest.raises(WorkerLost, match="no endpoint answers at http://127.0.0.1:9/run"):
        cells.run(PROMPT, tmp_path / "a")
    cells.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["status", "output", "images", "error", "executionTime", "workerId", "filename", "data"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
)


@given(JSON)
def test_any_answer_is_a_state_or_an_error_in_words(answer: Any) -> None:
    def answers(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=json.dumps(answer).encode())

    place = RunPod("http://127.0.0.1:9")
    place.close()
    place._http = httpx.Client(transport=httpx.MockTransport(answers))
    state = place.state("job")
    for entry in state.files:
        try:
            place.fetch({**entry, "data": str(entry["data"]).replace("http", "")})
        except ServerUnreachable as error:
            assert str(error)
    place.close()


WRONG = {
    "--timeout is of services": ["--timeout", "5"],
    "--price is of services": ["--price", "5"],
    "--price 0: write a number above 0": ["--price", "0", "--server", "runpod+http://127.0.0.1:9"],
    "leave --ray out, or the service": ["--ray", "local", "--server", "runpod+http://127.0.0.1:9"],
    "is no address of a server": ["--server", "runpod+ftp://x"],
    "node 1 Unheard is not known here": ["--server", "runpod+http://127.0.0.1:9"],
}


@pytest.mark.parametrize("error", WRONG)
def test_what_does_not_go_together_is_said(error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = {"1": {"class_type": "Unheard", "inputs": {}}, "2": SAVE} if "Unheard" in error else PROMPT
    (tmp_path / "w.json").write_text(json.dumps(prompt))
    command = ["sweep", str(tmp_path / "w.json"), "--axis", "2.filename_prefix=a,b", "--folder", str(tmp_path / "s")]
    assert main([*command, *WRONG[error]]) == 2
    assert error in capsys.readouterr().err


def test_nodes_of_a_file_are_those_of_the_endpoint(endpoint: Endpoint, tmp_path: Path) -> None:
    info = {"input": {"required": {"strength": ["FLOAT", {"max": 1.0}], "kind": [["here"], {}]}}, "output": ["IMAGE"]}
    save = embedded_infos()["SaveImage"]
    (tmp_path / "nodes.json").write_text(json.dumps({"Unheard": info, "SaveImage": save}))
    node = {"class_type": "Unheard", "inputs": {"strength": 0.5, "kind": "there"}}  # the endpoint has other choices
    (tmp_path / "w.json").write_text(json.dumps({"1": node, "2": SAVE}))
    with endpoint.serve() as server:
        where = ["--server", f"runpod+{server.url}", "--nodes", str(tmp_path / "nodes.json"), "--quiet"]
        command = ["sweep", str(tmp_path / "w.json"), *where, "--folder", str(tmp_path / "s")]
        assert main([*command, "--axis", "Unheard.strength=0.1,2"]) == 2 and not endpoint.jobs
        assert main([*command, "--axis", "Unheard.strength=0.1,0.2"]) == 0 and len(endpoint.jobs) == 3
