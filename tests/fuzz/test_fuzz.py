"""Data from strangers: the corpus of what once broke something, a few new inputs, and hard cases by hand."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from .fuzz import mutated, seeds
from .targets import TARGETS, try_one

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*-*"))
DEEP = b"[" * 100_000
CHAIN = {str(i): {"class_type": "LatentUpscale", "inputs": {"samples": [str(i + 1), 0]}} for i in range(100_000)}
# a workflow that is whole, and so is checked to its end
END = {
    "a": {"class_type": "VAEDecode", "inputs": {"samples": ["0", 0], "vae": ["b", 2]}},
    "b": {"class_type": "PatchbayLoadDemoModel", "inputs": {}},
    "c": {"class_type": "SaveImage", "inputs": {"images": ["a", 0], "filename_prefix": "a"}},
}


def nested(levels: int = 7, width: int = 10) -> dict[str, Any]:
    """Return a workflow of the page whose subgraphs hold `width ** levels` nodes."""
    parts = []
    for level in range(levels):
        inner = "CLIPTextEncode" if level == levels - 1 else f"s{level + 1}"
        parts.append({"id": f"s{level}", "nodes": [{"id": i, "type": inner} for i in range(width)], "links": []})
    return {"nodes": [{"id": 1, "type": "s0"}], "links": [], "definitions": {"subgraphs": parts}}


def rerouted(count: int = 3000) -> dict[str, Any]:
    """Return a workflow of the page with a long chain of reroutes and as many nodes at its end."""
    nodes = [{"id": i, "type": "Reroute", "inputs": [{"name": "", "link": i}]} for i in range(count)]
    end = [{"id": count + i, "type": "VAEDecode", "inputs": [{"name": "samples", "link": count}]} for i in range(count)]
    links = [[i, i - 1, 0, i, 0, "*"] for i in range(1, count + 1)]
    return {"nodes": nodes + end, "links": links}


RING = {"1": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "a"}}} | {
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}}
}
HARD = {
    "deep": ("workflow", DEEP + b"]" * 100_000),
    "deep object": ("workflow", b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "deep preset": ("preset", DEEP),
    "chain": ("workflow", json.dumps(CHAIN).encode()),
    "whole chain": ("workflow", json.dumps({**CHAIN, **END}).encode()),
    "subgraphs in subgraphs": ("workflow", json.dumps(nested()).encode()),
    "a subgraph in itself": ("workflow", json.dumps(nested(1)).replace("CLIPTextEncode", "s0").encode()),
    "reroutes": ("workflow", json.dumps(rerouted()).encode()),
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
    "deep prompt": ("prompt", b"(" * 1000 + b"a" + b")" * 1000),
    "comments that never end": ("choices", b"/* " * 30_000),
    "the same words": ("words", b"red " * 1000 + b"\0blue, red\0" + b"blue red " * 500),
    "many words": ("words", b"red " * 3000 + b"\0" + b"red, " * 3000 + b"none"),
    "many columns": ("list", b",".join(b"a.%d" % number for number in range(3000)) + b"\n1\n"),
    "long name": ("name", b"a" * 256),
    "long path": ("name", b"a/" * 100_000),
    "no configuration": ("folder", b"[]"),
    "deep configuration": ("folder", DEEP),
    "a word that is no token": ("folder", b'{}\0{"<|startoftext|>": 0, "<|endoftext|>": 1}\0a b'),
    "a UNet without end": (
        "shapes",
        b'{"input_blocks.0.0.weight": [4], "time_embed.0.weight": [4], "input_blocks.999999999.0.op.weight": [4]}',
    ),
    "header of nothing": ("header", b"\xff" * 8),
    "deep header": ("header", (100_000).to_bytes(8, "little") + DEEP),
    "not text": ("workflow", b"\xff\xfe\x00"),
}
TAKEN = ("long address", "long rules", "comments that never end", "a UNet without end")


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_once_broke_something_is_refused_or_taken(path: Path) -> None:
    try_one(path.name.partition("-")[0], path.read_bytes())


@pytest.mark.parametrize("name", HARD)
def test_hard_cases_end_soon(name: str) -> None:
    target, data = HARD[name]
    begin = time.process_time()
    taken = try_one(target, data)
    assert time.process_time() - begin < 5.0  # a second on an idle machine; it must not hang
    assert not taken or name in TAKEN


@pytest.mark.parametrize("target", TARGETS)
def test_some_new_inputs(target: str) -> None:
    rng, start = random.Random(target), seeds()[target]
    for _ in range(60):
        try_one(target, mutated(rng.choice(start), rng))


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "a\0b", "link/a"])
def test_names_never_leave_the_folder(name: str, tmp_path: Path) -> None:
    from attention_patchbay.headless.api.folders import inside

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads out of"):
        inside(tmp_path / "folder", name)
