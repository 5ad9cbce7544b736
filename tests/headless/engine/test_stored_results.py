"""Results that go from one process to another through a folder."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from attention_patchbay.headless.api import comfy_io as io
from attention_patchbay.headless.api.folders import KINDS, Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.headless.engine import contents, file_digests
from attention_patchbay.headless.engine.api_graph import Executor, Run
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.headless.engine.contents import Contents
from attention_patchbay.headless.engine.file_digests import FileDigests
from attention_patchbay.headless.engine.stored_results import LEFT, ROOM, UNFINISHED, StoredResults
from attention_patchbay.headless.nodes import pictures
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.files.whole import replacing
from attention_patchbay.ldm_patched.text.clip_vision import ClipVisionOutput
from PIL import Image
from safetensors.torch import load_file, save_file

from .storing_child import SIZE, name_of, share

TEXT = "cond_stage_model.transformer."
CHILD = Path(__file__).with_name("storing_child.py")
PROMPT = {
    "model": {"class_type": "PatchbayLoadDemoModel", "inputs": {}},
    "texts": {"class_type": "CLIPLoader", "inputs": {"clip_name": "a.safetensors", "type": "stable_diffusion"}},
    "positive": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["texts", 0], "text": "a red circle"}},
    "negative": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["texts", 0], "text": ""}},
    "picture": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "latent": {"class_type": "VAEEncode", "inputs": {"pixels": ["picture", 0], "vae": ["model", 2]}},
    "sampler": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["model", 0],
            "positive": ["positive", 0],
            "negative": ["negative", 0],
            "latent_image": ["latent", 0],
            "seed": 3,
            "steps": 2,
            "cfg": 2.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 0.6,
        },
    },
    "decoded": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["model", 2]}},
    "saved": {"class_type": "SaveImage", "inputs": {"images": ["decoded", 0], "filename_prefix": "p"}},
}
STORED = {"positive", "negative", "latent"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder with a text encoder and a picture."""
    (tmp_path / "text_encoders").mkdir()
    (tmp_path / "input").mkdir()
    weights = load_file(CHECKPOINT)
    own = {key.removeprefix(TEXT): weights[key] for key in weights if key.startswith(TEXT)}
    save_file(own, tmp_path / "text_encoders" / "a.safetensors")
    draw(tmp_path, 0)
    for path in (tmp_path / "text_encoders" / "a.safetensors", tmp_path / "input" / "a.png"):
        os.utime(path, (1e9, 1e9))
    return tmp_path


def draw(place: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(place / "input" / "a.png")


def executor(place: Path, folder: Path | None, **session: Any) -> Executor:
    folders = Folders(place, place / "input", place / "output", place / "temp")
    return Executor(catalog(), Session(folders, **session), folder)


def run(place: Path, folder: Path | None, host: Executor | None = None) -> tuple[Run, bytes]:
    shutil.rmtree(place / "output", ignore_errors=True)
    found = (host or executor(place, folder)).run(json.loads(json.dumps(PROMPT)))
    return found, (place / "output" / "p_00001_.png").read_bytes()


def entries(folder: Path) -> list[Path]:
    return sorted((folder / ROOM).glob("*.safetensors"))


def test_another_process_takes_what_one_has_left_and_draws_the_same_picture(place: Path) -> None:
    folder = place / "cache"
    without, expected = run(place, None)
    first, filling = run(place, folder)
    again, filled = run(place, folder)
    assert set(first.ran) == set(without.ran) == set(PROMPT) and not first.cached
    assert set(again.cached) == STORED and len(entries(folder)) == 3
    assert set(again.ran) == set(PROMPT) - STORED - {"texts", "picture"}  # nothing needs these any more
    assert expected == filling == filled


def test_within_a_process_a_stored_result_stays_for_the_next_run(place: Path) -> None:
    folder = place / "cache"
    run(place, folder)
    host = executor(place, folder)
    run(place, folder, host)
    shutil.rmtree(folder)
    assert set(host.run(json.loads(json.dumps(PROMPT))).cached) >= STORED and not folder.exists()


def test_a_text_encoder_stays_loaded_while_known_texts_run(place: Path) -> None:
    host = executor(place, place / "cache")
    ran = {}
    for text in ("a", "b", "a", "a", "c"):
        prompt = json.loads(json.dumps(PROMPT))
        prompt["positive"]["inputs"]["text"] = text
        ran[text] = host.run(prompt).ran
    assert "texts" not in ran["a"] and "positive" not in ran["a"]
    assert "positive" in ran["c"] and not {"texts", "picture", "latent"} & set(ran["c"])


def test_another_text_encoder_under_the_same_name_and_size_is_another_result(place: Path) -> None:
    folder, path = place / "cache", place / "text_encoders" / "a.safetensors"
    host = executor(place, folder)
    run(place, folder, host)
    weights = load_file(path)
    size = path.stat().st_size
    save_file({key: value * 0.5 for key, value in weights.items()}, path)
    assert path.stat().st_size == size
    expected = run(place, None)[1]
    for other in (None, host):
        found, picture = run(place, folder, other)
        assert picture == expected
        assert {"positive", "negative"} & set(found.ran) == (set() if other else {"positive", "negative"})
        assert "latent" in found.cached


def test_another_picture_under_the_same_name_is_another_result(place: Path) -> None:
    folder = place / "cache"
    run(place, folder)
    draw(place, 1)
    expected = run(place, None)[1]
    found, picture = run(place, folder)
    assert picture == expected and "latent" in found.ran and {"positive", "negative"} <= set(found.cached)
    draw(place, 0)
    assert "latent" in run(place, folder)[0].cached


def test_a_picture_that_changes_while_it_is_encoded_is_not_stored(place: Path) -> None:
    folder = place / "cache"
    host = executor(place, folder)
    host.run(json.loads(json.dumps(PROMPT)), on_node=lambda name: draw(place, 1) if "VAEEncode" in name else None)
    assert len(entries(folder)) == 2
    expected = run(place, None)[1]
    assert run(place, folder, host)[1] == expected == run(place, folder)[1]


AV = SimpleNamespace(__version__="1", library_versions={"libavcodec": (61, 0, 0)})
CHANGES: dict[str, Any] = {
    "the pack": lambda patch: patch.setattr(Contents, "pack", "another"),
    "torch": lambda patch: patch.setattr(torch, "__version__", "another"),
    "Pillow": lambda patch: patch.setattr(PIL, "__version__", "another"),
    "PyAV is there": lambda patch: patch.setattr(pictures, "av", AV),
    "another PyAV": lambda patch: patch.setattr(AV, "__version__", "2"),
    "another FFmpeg": lambda patch: patch.setattr(AV, "library_versions", {"libavcodec": (62, 0, 0)}),
    "the threads": lambda patch: patch.setattr(torch, "get_num_threads", lambda: 97),
    "the text": lambda patch: patch.setitem(PROMPT["positive"]["inputs"], "text", "a blue square"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_result_depends_on_is_in_its_name(place: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {}
    monkeypatch.setattr(pictures, "av", AV if what.startswith("another") else None)
    contents.machine.cache_clear()
    for changed in (False, True):
        if changed:
            CHANGES[what](monkeypatch)
            contents.machine.cache_clear()
        host = executor(place, place / "cache")
        with entered(host.session):
            names[changed] = Contents(host.catalog, FileDigests()).key(PROMPT, "positive", {})
    assert names[False] and names[True] and names[False] != names[True]
    monkeypatch.undo()
    contents.machine.cache_clear()


def test_an_embedding_that_a_prompt_may_name_is_in_its_name(place: Path) -> None:
    (place / "embeddings").mkdir()
    names = []
    for number in range(2):
        save_file({"emb_params": torch.full((1, 64), float(number))}, place / "embeddings" / "word.safetensors")
        with entered(executor(place, None).session):
            names.append(Contents(catalog(), FileDigests()).key(PROMPT, "positive", {}))
    assert names[0] != names[1]


def test_what_was_sampled_has_no_name(place: Path) -> None:
    known: dict[str, str | None] = {}
    with entered(executor(place, None).session):
        assert Contents(catalog(), FileDigests()).key(PROMPT, "decoded", known) is None
    assert {id for id, name in known.items() if name is None} == {"sampler", "decoded"}


def test_every_node_that_lists_files_says_that_it_reads_them(tmp_path: Path) -> None:
    """The independent truth: an input whose choices follow the folders names a file."""
    for kind, folders in KINDS.items():
        for name in folders:
            (tmp_path / "models" / name).mkdir(parents=True)
            (tmp_path / "models" / name / ("a.yaml" if kind == "configs" else "a.safetensors")).touch()
    (tmp_path / "models" / "diffusers" / "a").mkdir(parents=True)
    (tmp_path / "models" / "diffusers" / "a" / "model_index.json").touch()
    (tmp_path / "input").mkdir()
    for name in ("a.png", "a.latent"):
        (tmp_path / "input" / name).touch()

    def choices(models: Path, input: Path) -> set[tuple[str, str, str]]:
        with entered(Session(Folders(models, input))):
            schemas = {name: cls.GET_SCHEMA() for name, cls in catalog().items()}
        return {(name, one.id, repr(one.info()[1])) for name, schema in schemas.items() for one in schema.inputs}

    changed = choices(tmp_path / "models", tmp_path / "input") - choices(tmp_path / "no", tmp_path / "none")
    nodes = catalog()
    assert len(changed) > 25
    assert not [(node, input) for node, input, _ in changed if input not in nodes[node].reads]


def test_a_large_file_is_known_by_its_time_and_by_some_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_digests, "LARGE", 2**17)
    path = tmp_path / "a"
    data = bytearray(np.random.default_rng(0).integers(0, 255, 40 * 2**20, dtype=np.uint8))

    def digest(second: int) -> str:
        path.write_bytes(data)
        os.utime(path, (second, second))
        return FileDigests().of(path)

    first = digest(1_000_000_000)
    assert digest(1_000_000_000) == first != digest(1_000_000_001)
    for place in (0, len(data) - 1):  # the ends are read whatever the time says
        data[place] ^= 1
        assert digest(1_000_000_000) != first
        data[place] ^= 1


# The folder

A, B, C, D = map(name_of, "abcd")


def kept(folder: Path, value: Any, **more: Any) -> StoredResults:
    results = StoredResults(folder, **more)
    results.keep(A, io.NodeOutput(value))
    return results


VALUES: dict[str, Any] = {
    "nested": [[torch.ones(2, 3), {"pooled_output": None, "width": 3, "area": (1, 2.5, "x"), "on": True}]],
    "bfloat16": torch.randn(3, 4).bfloat16(),
    "a truth": torch.tensor([True, False]),
    "whole numbers": torch.arange(5),
    "nothing": torch.zeros(0, 4),
    "one number": torch.tensor(3.5),
    "channels last": torch.randn(1, 4, 5, 3).movedim(-1, 1),
    "a part": torch.randn(8, 8)[2:4, ::2],
    "infinite": float("inf"),
    "vision": ClipVisionOutput(torch.ones(1), torch.ones(2), torch.ones(3)),
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return type(other) is torch.Tensor and one.dtype is other.dtype and torch.equal(one, other)
    if isinstance(one, ClipVisionOutput):
        return type(other) is ClipVisionOutput and same(vars(one), vars(other))
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize("what", VALUES)
def test_a_value_comes_back_as_it_was(tmp_path: Path, what: str) -> None:
    found = kept(tmp_path, VALUES[what]).get(A)
    assert found is not None and same(VALUES[what], found.args[0])


def test_the_order_in_memory_comes_back(tmp_path: Path) -> None:
    found = kept(tmp_path, VALUES["channels last"]).get(A)
    assert found is not None and found.args[0].stride() == VALUES["channels last"].stride()


class Weights:
    """What a loader gives."""


@pytest.mark.parametrize(
    "value", [Weights(), torch.nn.Parameter(torch.ones(1)), {1: 2}, b"bytes", [torch.nn.Linear(1, 1)], {1, 2}]
)
def test_nothing_but_tensors_and_values_is_kept(tmp_path: Path, value: Any) -> None:
    assert kept(tmp_path, value).get(A) is None and not list(tmp_path.iterdir())


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


DAMAGE: dict[str, Any] = {
    "cut": lambda data: data[:-3],
    "empty": lambda data: b"",
    "one bit": _flip,
    "a pickle": lambda data: pickle.dumps({"a": 1}),
    "no description": lambda data: data.replace(b'"form"', b'"mrof"'),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_goes_with_a_line(tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    results = kept(tmp_path, torch.ones(5))
    (path,) = entries(tmp_path)
    path.write_bytes(DAMAGE[what](path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert results.get(A) is None
    assert len(caplog.records) == 1 and f"{path} is damaged" in caplog.text
    assert not path.exists() and results.get(A) is None
    results.keep(A, io.NodeOutput(torch.ones(5)))
    assert results.get(A) is not None


def test_a_full_folder_loses_what_was_longest_of_no_use(tmp_path: Path) -> None:
    results = StoredResults(tmp_path, 3 * 4500)
    for number, name in enumerate((A, B, C)):
        results.keep(name, io.NodeOutput(torch.zeros(1000)))
        os.utime(tmp_path / ROOM / f"{name}.safetensors", (1e9 + number, 1e9 + number))
    assert results.get(A) is not None
    results.keep(D, io.NodeOutput(torch.zeros(1000)))
    assert {path.stem for path in entries(tmp_path)} == {A, C, D}
    results.keep(name_of("large"), io.NodeOutput(torch.zeros(10_000)))
    assert {path.stem for path in entries(tmp_path)} == {A, C, D}


def test_what_a_dead_writer_left_goes_and_that_of_one_who_writes_stays(tmp_path: Path) -> None:
    (tmp_path / ROOM).mkdir()
    names = {LEFT * 2: f".{uuid.uuid4().hex}.tmp", 1.0: f".{uuid.uuid4().hex}.tmp"}
    for age, name in names.items():
        (tmp_path / ROOM / name).touch()
        os.utime(tmp_path / ROOM / name, (time.time() - age,) * 2)
    kept(tmp_path, 1)
    assert [path.name for path in (tmp_path / ROOM).glob(".*.tmp")] == [names[1.0]]


FOREIGN = ("model.safetensors", "notes.tmp", ".notes.tmp", f"{'A' * 64}.safetensors", f"{'a' * 63}.safetensors", "x")


@pytest.mark.parametrize("room", [".", ROOM])
def test_files_of_others_are_neither_counted_nor_removed(tmp_path: Path, room: str) -> None:
    (tmp_path / room).mkdir(exist_ok=True)
    others = [tmp_path / room / name for name in FOREIGN]
    if room == ".":
        others += [tmp_path / f"{'a' * 64}.safetensors", tmp_path / f".{'a' * 32}.tmp"]
    for path in others:
        path.write_bytes(bytes(9000))
        os.utime(path, (1e9, 1e9))
    before = {path: path.read_bytes() for path in others}
    results = kept(tmp_path, torch.zeros(1000), most=2 * 4500)
    results.keep(B, io.NodeOutput(torch.zeros(1000)))
    assert {path: path.read_bytes() for path in others} == before
    assert {path.stem for path in entries(tmp_path)} >= {A, B}  # and there was room for both
    results.keep(C, io.NodeOutput(torch.zeros(1000)))
    assert {path: path.read_bytes() for path in others} == before
    assert sum((tmp_path / ROOM / f"{name}.safetensors").exists() for name in (A, B, C)) == 2


@pytest.mark.parametrize("place", ["file", "nothing/cache"])
def test_a_folder_that_cannot_be_written_is_said_once_and_stops_nothing(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        results = kept(tmp_path / place, 1)
        results.keep(B, io.NodeOutput(1))
    assert results.get(A) is None and len(caplog.records) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_several_processes_share_a_folder_and_one_may_be_killed(tmp_path: Path) -> None:
    results = StoredResults(tmp_path, 6 * 4 * SIZE)
    child = subprocess.Popen([sys.executable, str(CHILD), str(tmp_path)])
    while not entries(tmp_path) and child.poll() is None:
        time.sleep(0.01)
    assert share(results, 200) > 0 and child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert share(results, 50) > 0 and results.is_writable
    assert all(results.get(path.stem) is not None for path in entries(tmp_path))
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= results.most


def test_a_file_that_is_being_written_has_the_name_by_which_a_killed_one_is_found(tmp_path: Path) -> None:
    with replacing(tmp_path / "result") as file:
        file.write(b"half")
        (unfinished,) = tmp_path.iterdir()
        assert UNFINISHED.fullmatch(unfinished.name)
