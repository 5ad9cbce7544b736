"""Data from strangers: the corpus of what once broke something, a few new inputs, and hard cases by hand."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from .fuzz import mutated, seeds
from .targets import TARGETS, try_one

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*-*"))
DEEP = b"[" * 100_000
CHAIN = {str(i): {"class_type": "LatentUpscale", "inputs": {"samples": [str(i + 1), 0]}} for i in range(100_000)}
RING = {"1": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "a"}}} | {
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}}
}
HARD = {
    "deep": ("workflow", DEEP + b"]" * 100_000),
    "deep object": ("workflow", b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "deep preset": ("preset", DEEP),
    "chain": ("workflow", json.dumps(CHAIN).encode()),
    "ring": ("workflow", json.dumps(RING).encode()),
    "nan": ("workflow", b'{"1": {"class_type": "A", "inputs": {"a": NaN}}}'),
    "huge number": ("workflow", b'{"1": {"class_type": "KSampler", "inputs": {"seed": 1' + b"0" * 5000 + b"}}}"),
    "braces": (
        "workflow",
        json.dumps(
            {"nodes": [{"id": 1, "type": "CLIPTextEncode", "widgets_values": ["{" * 100_000]}], "links": []}
        ).encode(),
    ),
    "long address": ("address", b"input:4, " * 20_000),
    "long rules": ("rules", b"input:4 -> auto; " * 10_000),
    "header of nothing": ("header", b"\xff" * 8),
    "deep header": ("header", (100_000).to_bytes(8, "little") + DEEP),
    "not text": ("workflow", b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_once_broke_something_is_refused_or_taken(path: Path) -> None:
    try_one(path.name.partition("-")[0], path.read_bytes())


@pytest.mark.parametrize("name", HARD)
def test_hard_cases_end_soon(name: str) -> None:
    target, data = HARD[name]
    begin = time.process_time()
    taken = try_one(target, data)
    assert time.process_time() - begin < 5.0  # a second on an idle machine; it must not hang
    assert not taken or name.startswith("long")


@pytest.mark.parametrize("target", TARGETS)
def test_some_new_inputs(target: str) -> None:
    rng, start = random.Random(target), seeds()[target]
    for _ in range(60):
        try_one(target, mutated(rng.choice(start), rng))


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "a\0b", "link/a"])
def test_names_never_leave_the_folder(name: str, tmp_path: Path) -> None:
    from attention_patchbay.ldm_patched.headless.folders import inside

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads out of"):
        inside(tmp_path / "folder", name)
