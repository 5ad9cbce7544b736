"""Cells and jobs by the Comfy API v2: the real comfy-sdk, and the real comfy-api-proxy before a stand-in ComfyUI."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("comfy_sdk")
pytest.importorskip("comfy_api_proxy")

from attention_patchbay.headless.client import comfy_api, service
from attention_patchbay.headless.client.comfy_api import ComfyApi
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.headless.pages.workflow_file import embedded_infos
from attention_patchbay.headless.sweep.on_service import OnService
from attention_patchbay.headless.sweep.runner import WorkerLost
from PIL import Image

from ..client.fake_server import FakeServer, comfyui
from .comfy_proxy import ComfyProxy

LOAD = {"class_type": "LoadImage", "inputs": {"image": "hint.png"}}
SAVE = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}}
PROMPT: dict[str, Any] = {"1": LOAD, "2": SAVE}
EMPTY = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "FIRST", 0.02)
    for module in (service, comfy_api):
        monkeypatch.setattr(module, "PAUSE", 0.02)
        monkeypatch.setattr(module, "PATIENCE", 5.0)
    monkeypatch.delenv("COMFY_API_KEY", raising=False)


@pytest.fixture
def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 8, 7)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def fake(picture: bytes) -> Iterator[FakeServer]:
    with FakeServer(comfyui(picture)) as server:
        yield server


def runner(proxy: ComfyProxy, input: Path, timeout: float = 20.0, price: float | None = None) -> OnService:
    return OnService(ComfyApi(proxy.url), embedded_infos(), input, timeout, price)


def sent(fake: FakeServer) -> list[Any]:
    return [json.loads(asked.body)["prompt"] for asked in fake.asked if asked.path == "/prompt"]


def test_a_sweep_runs_on_a_deployment(fake: FakeServer, picture: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps(PROMPT))
    (tmp_path / "hint.png").write_bytes(picture)
    with ComfyProxy(fake.url) as proxy:
        where = ["--server", f"sdk+{proxy.url}", "--input", str(tmp_path), "--folder", str(tmp_path / "s"), "--quiet"]
        axis = ["--axis", "2.filename_prefix=a,b,c", "--price", "3.6"]
        assert main(["sweep", str(tmp_path / "w.json"), *axis, *where]) == 0
        assert proxy.count("POST", "/api/v2/assets") == 1  # the same content goes there once
        assert not any("Authorization" in headers for _, _, headers in proxy.asked)
    with (tmp_path / "s" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and {row["worker"] for row in rows} == {proxy.url}
    assert [row["warm_up"] for row in rows] == ["True", "False", "False"]
    for row in rows:
        assert (tmp_path / "s" / row["image"]).read_bytes() == picture and not row["error"]
        assert float(row["cost"]) == pytest.approx(float(row["seconds"]) * 3.6 / 3600)
        assert float(row["waited_seconds"]) >= 0.0
    assert [prompt["2"]["inputs"]["filename_prefix"] for prompt in sent(fake)] == ["a", "b", "c"]
    assert {prompt["1"]["inputs"]["image"] for prompt in sent(fake)} == {"hint.png"}


def test_a_workflow_is_queued_on_a_deployment(
    fake: FakeServer, picture: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.json").write_text(json.dumps({"1": SAVE | {"inputs": {"filename_prefix": "a"}}}))
    with ComfyProxy(fake.url) as proxy:
        command = ["queue", str(tmp_path / "w.json"), "--server", f"sdk+{proxy.url}", "--output", str(tmp_path / "out")]
        assert main([*command, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert main([*command, "--no-wait", "--set", "SaveImage.filename_prefix=b"]) == 0
        job = capsys.readouterr().out.strip()
        assert main(command) == 0 and "s before that" in capsys.readouterr().err
    assert [Path(file).read_bytes() for file in result["images"]] == [picture] and result["ran_seconds"] >= 0.0
    ids = [json.loads(asked.body)["prompt_id"] for asked in fake.asked if asked.path == "/prompt"]
    assert [result["prompt_id"], job] == ids[:2]
    assert [prompt["1"]["inputs"]["filename_prefix"] for prompt in sent(fake)] == ["a", "b", "a"]


def test_a_job_whose_answer_was_lost_runs_once(fake: FakeServer, picture: bytes, tmp_path: Path) -> None:
    (tmp_path / "hint.png").write_bytes(picture)
    with ComfyProxy(fake.url) as proxy:
        cells = runner(proxy, tmp_path)
        assert not cells.run(PROMPT, tmp_path / "before").error  # the same workflow, and another job
        proxy.lost = 1
        outcome = cells.run(PROMPT, tmp_path / "a")
        cells.close()
        posted = [headers for method, path, headers in proxy.asked if (method, path) == ("POST", "/api/v2/jobs")]
        keys = [headers["Idempotency-Key"] for headers in posted]
    assert outcome.images == ["a.png"] and not outcome.error
    assert len(keys) == 3 and keys[0] != keys[1] == keys[2] and fake.count("/prompt") == 2


def test_a_job_that_is_not_found_again_is_not_sent_again(fake: FakeServer, tmp_path: Path) -> None:
    fake.broken = ["/prompt"]  # nobody knows whether ComfyUI took it: the proxy keeps the key, and no job
    with ComfyProxy(fake.url) as proxy:
        cells = runner(proxy, tmp_path)
        outcome = cells.run({"2": SAVE}, tmp_path / "a")
        assert "it may run there, so it was not sent again, nor found among its latest jobs" in outcome.error
        assert "503" in outcome.error and fake.count("/prompt") == 1
        assert not cells.run({"2": SAVE}, tmp_path / "b").error
        cells.close()


def test_what_is_refused_fails_alone(fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_API_KEY", "hunter22")
    told = "ckpt_name: 'hunter22' not in []"
    wrong = {"type": "x", "message": "Value not in list", "details": told, "extra_info": {}}
    entry = {"errors": [wrong], "dependent_outputs": ["2"], "class_type": "SaveImage"}
    answer = {"error": {"type": "x", "message": "Prompt outputs failed validation", "details": ""}}
    prompt = fake.routes["/prompt"]
    fake.routes["/prompt"] = (400, {**answer, "node_errors": {"2": entry}})
    with ComfyProxy(fake.url) as proxy:
        cells = runner(proxy, tmp_path)
        error = cells.run({"2": SAVE}, tmp_path / "a").error
        assert "node 2 SaveImage" in error and "Value not in list: ckpt_name: '***' not in []" in error
        fake.routes["/prompt"] = prompt
        assert not cells.run({"2": SAVE}, tmp_path / "b").error
        cells.close()


def test_a_node_that_fails_is_named(fake: FakeServer, tmp_path: Path) -> None:
    data = {"node_id": "2", "node_type": "SaveImage", "exception_message": "no room"}
    failed = {"status": {"status_str": "error", "messages": [["execution_error", data]]}}
    fake.routes["/history"] = lambda asked: (200, {asked.path.rpartition("/")[2]: failed})
    with ComfyProxy(fake.url) as proxy:
        cells = runner(proxy, tmp_path)
        assert cells.run({"2": SAVE}, tmp_path / "a").error == "node 2 SaveImage: no room"
        cells.close()


def test_a_key_comes_from_the_environment_and_is_never_shown(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.json").write_text(json.dumps({"1": EMPTY, "2": SAVE}))
    with ComfyProxy(fake.url, token="hunter22") as proxy:
        where = ["--server", f"sdk+{proxy.url}", "--folder", str(tmp_path / "s"), "--quiet"]
        command = ["sweep", str(tmp_path / "w.json"), "--axis", "2.filename_prefix=a,b", *where]
        assert main(command) == 1
        assert "(401); set COMFY_API_KEY in the environment; start again to go on" in capsys.readouterr().err
        monkeypatch.setenv("COMFY_API_KEY", "hunter23")
        assert main(command) == 1
        monkeypatch.setenv("COMFY_API_KEY", " hunter22\n")
        monkeypatch.setenv("PATCHBAY_TOKEN", "hunter24")
        assert main(command) == 0
        assert {headers.get("Authorization") for _, _, headers in proxy.asked} == {
            None,
            "Bearer hunter22",
            "Bearer hunter23",
        }
    assert "hunter" not in "".join(capsys.readouterr())
    for path in (path for path in (tmp_path / "s").rglob("*") if path.is_file()):
        assert b"hunter" not in path.read_bytes(), path


def test_a_job_that_takes_too_long_is_stopped(fake: FakeServer, tmp_path: Path) -> None:
    def jobs() -> list[Any]:
        return [[0, json.loads(asked.body)["prompt_id"]] for asked in fake.asked if asked.path == "/prompt"]

    fake.routes["/history"] = (200, {})
    fake.routes["/queue"] = lambda asked: (200, {"queue_running": jobs(), "queue_pending": []})
    fake.routes["/api/jobs"] = (200, {})
    with ComfyProxy(fake.url) as proxy:
        cells = runner(proxy, tmp_path, 0.1)
        error = cells.run({"2": SAVE}, tmp_path / "a").error
        assert error == "the job took longer than 0.1 s and was stopped; give it more by --timeout"
        assert fake.count(f"/api/jobs/{jobs()[0][1]}/cancel") == 1
        cells.close()


def test_a_job_between_two_lists_is_not_lost(fake: FakeServer, tmp_path: Path) -> None:
    history, looks = fake.routes["/history"], [0]

    def late(asked: Any) -> Any:
        looks[0] += 1
        return (200, {}) if looks[0] < 3 else history(asked)

    fake.routes["/history"] = late
    with ComfyProxy(fake.url) as proxy:
        cells = runner(proxy, tmp_path)
        assert not cells.run({"2": SAVE}, tmp_path / "a").error and looks[0] == 3
        fake.routes["/history"] = (200, {})
        assert "knows no job" in cells.run({"2": SAVE}, tmp_path / "b").error
        cells.close()


def test_a_picture_that_is_gone_costs_its_cell_alone(fake: FakeServer, tmp_path: Path) -> None:
    view = fake.routes["/view"]
    fake.routes["/view"] = (404, b"")
    with ComfyProxy(fake.url) as proxy:
        cells = runner(proxy, tmp_path, price=1.0)
        lost = cells.run({"2": SAVE}, tmp_path / "a")
        assert "404" in lost.error and lost.cost is not None and lost.images == []
        fake.routes["/view"] = view
        assert not cells.run({"2": SAVE}, tmp_path / "b").error
        cells.close()


def test_nobody_is_said_at_once(tmp_path: Path) -> None:
    cells = OnService(ComfyApi("http://127.0.0.1:9"), embedded_infos(), tmp_path)
    with pytest.raises(WorkerLost, match="no Comfy API answers at http://127.0.0.1:9"):
        cells.run({"2": SAVE}, tmp_path / "a")
    cells.close()
