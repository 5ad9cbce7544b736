"""`patchbay queue` on servers that are not as they should be, and in folders that hold files."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.commands.cli import main
from PIL import Image

from ..client.fake_server import FakeServer, comfyui

LOAD_AND_SAVE = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "hint.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "stale"}},
}


def queue(folder: Path, url: str, *arguments: str, prompt: Any = LOAD_AND_SAVE) -> int:
    (folder / "w.json").write_text(json.dumps(prompt))
    (folder / "input").mkdir(exist_ok=True)
    folders = ["--input", str(folder / "input"), "--output", str(folder / "output"), "--quiet"]
    return main(["queue", str(folder / "w.json"), "--server", url, *folders, *arguments])


@pytest.mark.parametrize("name", ["hint.png", "hint.png [input]"])
def test_a_picture_goes_to_a_server_that_has_another_of_its_name(tmp_path: Path, name: str) -> None:
    renamed = (200, {"name": "hint (1).png", "subfolder": "", "type": "input"})
    prompt = {**LOAD_AND_SAVE, "1": {"class_type": "LoadImage", "inputs": {"image": name}}}
    with FakeServer(comfyui(upload=renamed)) as server:
        (tmp_path / "input").mkdir()
        (tmp_path / "input" / "hint.png").write_bytes(b"blue")
        assert queue(tmp_path, server.url, prompt=prompt) == 0
        (upload,) = [asked for asked in server.asked if asked.path == "/upload/image"]
        (job,) = [asked for asked in server.asked if asked.path == "/prompt"]
    assert b"blue" in upload.body and b'filename="hint.png"' in upload.body and b"overwrite" not in upload.body
    assert json.loads(job.body)["prompt"]["1"]["inputs"]["image"] == "hint (1).png"


def test_pictures_of_the_servers_other_folders_stay_as_they_are(tmp_path: Path) -> None:
    prompt = {**LOAD_AND_SAVE, "1": {"class_type": "LoadImage", "inputs": {"image": "hint.png [output]"}}}
    with FakeServer(comfyui()) as server:
        (tmp_path / "input").mkdir()
        (tmp_path / "input" / "hint.png").write_bytes(b"blue")
        assert queue(tmp_path, server.url, prompt=prompt) == 0 and server.count("/upload") == 0


def test_no_file_of_the_output_folder_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for picture in (b"one", b"two", b"two", b"three"):
        with FakeServer(comfyui(picture)) as server:
            assert queue(tmp_path, server.url) == 0
    found = {path.name: path.read_bytes() for path in (tmp_path / "output").iterdir()}
    assert found == {"a.png": b"one", "a (1).png": b"two", "a (2).png": b"three"}
    assert capsys.readouterr().out.splitlines()[2] == str(tmp_path / "output" / "a (1).png")


def test_an_output_that_cannot_be_is_said_before_the_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "output").write_text("mine")
    with FakeServer(comfyui()) as server:
        assert queue(tmp_path, server.url) == 2 and not server.count("/prompt")
        assert "output: Not a directory" in capsys.readouterr().err
        assert queue(tmp_path, server.url, "--no-wait") == 0


def test_what_is_no_picture_is_not_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer(comfyui(b"<html>login</html>")) as server:
        assert queue(tmp_path, server.url) == 2
        job = json.loads(next(asked.body for asked in server.asked if asked.path == "/prompt"))["prompt_id"]
    error = capsys.readouterr().err
    assert "not the file for 'a.png'" in error and f"the job {job} is done, its files are on the server" in error
    assert not list((tmp_path / "output").glob("*"))


def test_names_of_a_server_stay_in_the_folder_and_move_no_cursor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("../a.png", "/etc/a.png"):
        outputs = {"1": {"images": [{"filename": name, "type": "output"}]}}
        with FakeServer(comfyui(history=lambda asked, outputs=outputs: (200, answer(asked, outputs)))) as server:
            assert queue(tmp_path, server.url) == 2
        assert "leads out of" in capsys.readouterr().err
    outputs = {"1": {"images": [{"filename": "\x1b[2Ja.png", "type": "output"}], "text": ["\x1b]0;x\x07 said"]}}
    with FakeServer(comfyui(history=lambda asked: (200, answer(asked, outputs)))) as server:
        assert queue(tmp_path, server.url) == 0
    out, _ = capsys.readouterr()
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["?[2Ja.png"]
    assert "?]0;x? said" in out and not re.search(r"[\x00-\x09\x0b-\x1f]", out)


def answer(asked: Any, outputs: Any) -> Any:
    id = asked.path.rpartition("/")[2]
    return {id: {"outputs": outputs, "status": {"status_str": "success", "completed": True}}}


def test_a_header_of_the_command_line_wins_whatever_its_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHBAY_TOKEN", "tok")
    given = ["--header", "authorization: Bearer a", "--header", "AUTHORIZATION: Bearer b"]
    with FakeServer(comfyui()) as server:
        assert queue(tmp_path, server.url.replace("//", "//user:pass@"), *given) == 0
        sent = [[v for k, v in asked.headers.items() if k.lower() == "authorization"] for asked in server.asked]
    assert sent and all(values == ["Bearer b"] for values in sent)


def test_a_job_that_fails_with_a_secret_shows_and_writes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"node_id": "2", "exception_message": "Bearer hunter1 token=hunter2", "traceback": ["hunter1"]}
    failed = {"status": {"status_str": "error", "messages": [["execution_error", data]]}}
    refusal = {"error": {"message": "no hunter1", "details": "hunter2"}, "node_errors": {}}
    command = ["sweep", str(tmp_path / "w.json"), "--axis", "2.filename_prefix=a,b", "--folder", str(tmp_path / "s")]
    with FakeServer(comfyui()) as server:
        server.routes["/history"] = lambda asked: (200, {asked.path.rpartition("/")[2].partition("?")[0]: failed})
        access = ["--header", "Authorization: Bearer hunter1"]
        url = server.url + "/?token=hunter2"
        assert queue(tmp_path, url, *access) == 1
        assert main([*command, "--quiet", "--server", url, "--input", str(tmp_path), *access]) == 1
        server.routes["/prompt"] = (400, refusal)
        assert queue(tmp_path, url, *access) == 2
        assert queue(tmp_path, url, *access, "--json") == 2
    said = "".join(capsys.readouterr())
    assert "hunter" not in said and "***" in said
    for path in (path for path in (tmp_path / "s").rglob("*") if path.is_file()):
        assert b"hunter" not in path.read_bytes(), path


def test_a_sweep_shows_and_writes_nothing_of_who_asks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATCHBAY_TOKEN", "hunter1")
    (tmp_path / "w.json").write_text(json.dumps(LOAD_AND_SAVE))
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    with FakeServer(comfyui(buffer.getvalue())) as server:
        url = server.url.replace("//", "//user:hunter2@") + "/?token=hunter3"
        command = [
            "sweep",
            str(tmp_path / "w.json"),
            "--axis",
            "2.filename_prefix=a,b",
            "--server",
            url,
            "--server",
            url,
        ]
        folders = ["--folder", str(tmp_path / "s"), "--input", str(tmp_path)]
        assert main([*command, *folders, "--header", "X-Key: hunter4"]) == 0
        assert server.asked and all(asked.headers["X-Key"] == "hunter4" for asked in server.asked)
        assert all(asked.headers["Authorization"] == "Bearer hunter1" for asked in server.asked)
        server.routes["/object_info"] = (403, b"hunter1 hunter3 hunter4")
        assert main([*command, *folders, "--header", "X-Key: hunter4"]) == 2
    assert "hunter" not in "".join(capsys.readouterr())
    for path in (path for path in (tmp_path / "s").rglob("*") if path.is_file()):
        assert b"hunter" not in path.read_bytes(), path
