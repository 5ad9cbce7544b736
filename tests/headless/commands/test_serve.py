"""`patchbay run --serve-stdin`: jobs and events as lines of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.commands.cli import main

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "example_workflows" / "api" / "demo.json"
PROMPT = json.loads(DEMO.read_text())


class Served:
    """A process that serves, with its events read one by one."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "attention_patchbay.headless.commands.cli", "run", "--serve-stdin"]
        self.errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [*command, "--output", str(folder / "output")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def send(self, *jobs: Any) -> None:
        assert self.process.stdin is not None
        for job in jobs:
            self.process.stdin.write((job if isinstance(job, str) else json.dumps(job)) + "\n")
        self.process.stdin.flush()

    def event(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def until(self, *kinds: str) -> list[Any]:
        """Return the events up to one of these kinds."""
        found = [self.event()]
        while found[-1]["event"] not in kinds:
            found.append(self.event())
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream is not None:
                stream.close()

    def end(self) -> tuple[Any, int]:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.until("end")[-1], self.process.wait(60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = Served(tmp_path_factory.mktemp("served"))
    try:
        assert found.event() == {"event": "ready", "id": None}
        yield found
    finally:
        found.close()


def test_jobs_run_in_order_and_keep_what_is_loaded(served: Served, tmp_path: Path) -> None:
    served.send({"id": "a", "workflow": PROMPT, "set": {"KSampler.steps": 2}})
    first = served.until("done", "failed")
    assert [one["event"] for one in first if one["event"] not in ("node", "step", "log")] == ["started", "done"]
    assert {one["id"] for one in first} == {"a"} and (first[-1]["cached"], len(first[-1]["images"])) == ([], 1)
    assert Path(first[-1]["images"][0]).is_file() and first[-1]["seconds"] > 0
    steps = [(one["value"], one["total"]) for one in first if one["event"] == "step"]
    assert steps[-1] == (2, 2) and any("KSampler" in one["node"] for one in first if one["event"] == "node")
    served.send({"id": 2, "workflow": str(DEMO), "set": {"8.steps": 2, "8.seed": 9}, "output": str(tmp_path)})
    second = served.until("done", "failed")[-1]
    assert second["id"] == 2 and "1" in second["cached"] and "8" in second["ran"]
    assert Path(second["images"][0]).parent == tmp_path


def test_every_picture_that_a_job_names_is_there(served: Served, tmp_path: Path) -> None:
    def job(output: str) -> tuple[list[str], list[bytes]]:
        served.send(
            {"id": "p", "workflow": PROMPT, "set": {"8.steps": 1, "8.seed": 3}, "output": str(tmp_path / output)}
        )
        done = served.until("done", "failed")[-1]
        return done["ran"], [Path(path).read_bytes() for path in done["images"]]

    ran, first = job("one")
    assert "8" in ran and len(first) == 1
    assert job("one") == ([], first)
    saving = next(id for id, node in PROMPT.items() if node["class_type"] == "SaveImage")
    assert job("other") == ([saving], first)
    (picture,) = (tmp_path / "other").iterdir()
    picture.rename(tmp_path / "moved.png")
    assert job("other") == ([saving], first)
    picture.write_bytes(b"another's")
    assert job("other") == ([saving], first) and picture.read_bytes() == b"another's"
    assert job("one") == ([saving], first)


def test_a_job_that_fails_says_why_and_the_next_one_runs(served: Served, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wrong: list[tuple[Any, str]] = [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ({"id": 1}, "no workflow"),
        ({"id": 1, "workflow": PROMPT, "sets": {}}, "unknown entry 'sets'"),
        ({"id": 1, "workflow": {}}, "expected an object of nodes"),
        ({"id": 1, "workflow": "none.json"}, "none.json"),
        ({"id": 1, "workflow": PROMPT, "set": {"99.steps": 1}}, "no node has that id"),
        ({"id": 1, "workflow": PROMPT, "set": []}, "write {"),
        ({"id": 1, "workflow": PROMPT, "set": {"8.nope": 1}}, "KSampler has no input 'nope'; it has model, seed"),
        ({"id": 1, "workflow": PROMPT, "set": {"8.steps": 0}}, ""),
        ({"id": 1, "workflow": PROMPT, "output": ""}, "write the name of a folder"),
        ({"id": 1, "workflow": PROMPT, "output": 5}, "write the name of a folder"),
        ({"id": 1, "workflow": PROMPT, "output": str(tmp_path / "file")}, str(tmp_path / "file")),
    ]
    for job, why in wrong:
        served.send(job)
        (failed,) = [one for one in served.until("failed", "done") if one["event"] not in ("started", "node", "log")]
        assert failed["event"] == "failed" and why in failed["error"]["message"] + failed["error"]["details"], job
    served.send(
        {"id": 3, "workflow": PROMPT, "set": {"8.steps": 0}}, {"id": 4, "workflow": PROMPT, "set": {"8.steps": 1}}
    )
    assert "smaller than min" in json.dumps(served.until("failed")[-1]["node_errors"])
    assert served.until("done")[-1]["id"] == 4


def test_jobs_are_called_off_while_they_run_and_while_they_wait(served: Served) -> None:
    long = {"workflow": PROMPT, "set": {"8.steps": 2000, "8.seed": 11}}
    served.send({"id": "long", **long}, {"id": "waits", **long}, {"id": "short", "workflow": PROMPT})
    served.until("step")
    served.send({"cancel": "waits"}, {"cancel": "none"}, {"cancel": "long"})
    assert [served.until("cancelled", "done")[-1]["id"] for _ in range(2)] == ["long", "waits"]
    assert served.until("cancelled", "done")[-1]["event"] == "done"
    served.send({"cancel": "short"}, {"id": "short", "workflow": PROMPT, "set": {"8.steps": 1}})
    assert served.until("cancelled", "done")[-1]["event"] == "done"  # what is over cannot be called off


def test_it_ends_with_its_input(served: Served) -> None:
    assert served.end() == ({"event": "end", "id": None}, 0)


def test_it_takes_no_workflow_besides(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--serve-stdin", str(DEMO)]) == 2 and "come as lines of JSON" in capsys.readouterr().err
    assert main(["run"]) == 2 and "write the file of a workflow, or --serve-stdin" in capsys.readouterr().err
