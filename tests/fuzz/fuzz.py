"""Try to break what reads data from strangers: `python -m tests.fuzz.fuzz [TARGET ...] [--inputs N] [--seed N]`.

Inputs are those of the corpus and the examples, mutated: bytes changed, cut, doubled and joined, JSON values replaced.
An input that ends in anything but a result or a refusal, or takes over a second of the processor, is written to
tests/fuzz/corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
import struct
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..headless.nodes.kinds_of_pictures import made
from .models import demo_header
from .servers import PROMPTS
from .targets import INFOS, TARGETS, try_one

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SLOW = 1.0  # seconds of the processor: other work of the machine does not count
LONGEST = 20_000
REPORT = 10_000  # inputs between two lines
CALL = {"b": 2, "heads": 4, "kv_heads": 4, "n_q": 64, "n_k": 77, "dim_head": 8, "dtype": "float32", "device": "cpu"}
TUNED = {
    "call": {**CALL, "mask": None, "precision": "float32"},
    "timings": [["pytorch", 0.01, 0.0], ["split", 0.1, 0.0]],
}
TUNING = {"format": 1, "machines": {hashlib.sha256(b"{}").hexdigest()[:16]: {"machine": {}, "calls": [TUNED]}}}
SEEDS = {
    "address": ["all", "input:4-8, !input:5 self", "m o3.1", "output:3-", "double:0-18"],
    "rules": ["input:4-8 self 0-50% -> sage; output !self -> pytorch; * -> auto", "# a\n* -> auto"],
    "curve": ["linear", "0:0, 0.5:1, 1:0"],
    "preset": ['{"patchbay": 1, "patches": [{"type": "AttentionPatch", "slot": "attn1.out", "operation": "zero"}]}'],
    "points": ["0.3 0.5, 0.7 0.5"],
    "heads": ["all", "0, 3-5"],
    "axis": ["3.seed=1..4", "9.strength=0:1:0.25", "15=on,bypass", '2.text="a, b",c'],
    "nodes": [
        '{"SaveImage": {"input": {"required": {"images": ["IMAGE"], "filename_prefix": ["COMFY_DYNAMICCOMBO_V3", '
        '{"options": [{"key": "a", "inputs": {"required": {"b": [["c"], {}]}}}]}]}}, "output": [], '
        '"output_node": true}}'
    ],
    "message": [
        '{"type": "progress", "data": {"prompt_id": "job", "node": "3", "value": 1, "max": 20}}',
        '{"type": "executed", "data": {"prompt_id": "job", "node": "3", "output": {"images": []}}}',
        '{"type": "execution_cached", "data": {"prompt_id": "job", "nodes": ["1", "2"]}}',
        '{"type": "execution_error", "data": {"prompt_id": "job", "node_id": "1", "exception_message": "no"}}',
        "\0\0\0\4\0\0\0\2{}picture",
    ],
    "answer": [
        '{"outputs": {"1": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}], "text": ["a"], '
        '"table": [{"function": "pytorch", "calls": 3}]}}, "status": {"status_str": "success", "messages": '
        '[["execution_start", {}], ["execution_error", {"node_id": "1"}]]}}',
        '{"queue_running": [[0, "other", {}]], "queue_pending": [[1, "job", {}], [2, "more", {}]]}',
        '{"error": {"type": "a", "message": "b"}, "node_errors": {"1": {"class_type": "A", "errors": '
        '[{"type": "c", "message": "d", "details": "e", "extra_info": {}}]}}}',
        '[{"name": "a.safetensors", "size": 4}]',
    ],
    "list": ['3.seed,2.text\n1,"a, b"\n2,1.50\n', "a.b\n1\n"],
    "sweep": [
        '{"cells": {"a": {"a.b": 1}}}',
        '{"max": 1.0, "mean": 0.5, "psnr": null, "ssim": 1}',
        '{"choice": {}, "worker": "a", "images": ["a.png"], "seconds": 1.0, "step_seconds": null, "peak_bytes": 1, '
        '"peak_of": "", "backends": {"a": 1}, "error": ""}',
        '{"cells": {"a": {"a.b": 1}}, '
        '"roles": {"a": {"baseline": true, "reference": "a", "repeat": 0, "floor": false}}, '
        '"study": {"seeds": ["3.seed"], "text": "2.text", "floor": "sub_quad", "maps": {"7.blocks": []}}}',
        '{"left": "a", "right": "b", "chosen": "tie"}',
    ],
    "name": ["a.png", "../a", "/etc/passwd", "sub/../../a", "C:\\a", "a\0b", "CON", "~/a", "a" * 300, "%year%/%width%"],
    "body": [
        '{"name": "a.png", "subfolder": "b", "type": "input"}',
        '{"prompt_id": "job", "number": 1, "node_errors": {}}',
        '{"job": {"outputs": {"1": {"images": [{"filename": "a.png"}]}}, "status": {"status_str": "success"}}}',
        '400\n{"error": {"type": "a", "message": "b"}, "node_errors": {"1": {"class_type": "A", "errors": [{}]}}}',
        "404\nnot found",
        "502\n<html>",
        '{"queue_running": [[0, "job", {}]], "queue_pending": []}',
        '[{"name": "a.safetensors", "size": 4}]',
    ],
    "folder": [
        '{"prediction_type": "v_prediction"}\0'
        '{"a": 0, "b</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3, "r": 4, "re": 5}\0#version: 0.2\nr e\n'
    ],
    "lora": [
        '{"lora_unet_a.lora_up.weight": [12, 4], "lora_unet_a.lora_down.weight": [4, 8], "lora_unet_a.alpha": [], '
        '"lora_unet_a.dora_scale": [12, 1], "unet.b.hada_w1_a": [12, 4], "unet.b.hada_w1_b": [4, 72], '
        '"unet.b.hada_w2_a": [12, 4], "unet.b.hada_w2_b": [4, 72]}',
        '{"lora_unet_a.lokr_w1": [3, 2], "lora_unet_a.lokr_w2": [4, 4], "unet.b.lokr_w1": [3, 2], '
        '"unet.b.lokr_w2_a": [5, 4], "unet.b.lokr_w2_b": [5, 4], "unet.b.lokr_t2": [5, 5, 3, 3]}',
        '{"lora_unet_a.oft_blocks": [3, 4, 4], "unet.b.oft_blocks": [2, 6, 2, 2], "unet.b.rescale": [12, 1]}',
        '{"lora_unet_a.a1.weight": [8, 4], "lora_unet_a.a2.weight": [4, 8], "lora_unet_a.b1.weight": [12, 4], '
        '"lora_unet_a.b2.weight": [4, 8], "unet.b.diff": [12, 8, 3, 3], "unet.b.diff_b": [12]}',
        '{"unet.b.lora_B.weight": [12, 4, 1, 1], "unet.b.lora_A.weight": [4, 8, 3, 3], '
        '"unet.b.lora_magnitude_vector": [12], "lora_unet_a.lora_up.weight": [16, 4], '
        '"lora_unet_a.lora_down.weight": [4, 10], "lora_unet_a.reshape_weight": [2]}',
    ],
    "prompt": ["a (red:1.2) circle, ((small)) \\(square\\)", "embedding:a, (embedding:bb:0.5) a [red:blue:0.5]"],
    "choices": ["a {red|blue {dark|light}} circle // no\n/* not */ \\{a\\}"],
    "words": ["a (red:1.2) circle on a blue square\0red, circle\0a blue circle"],
    "tuning": [json.dumps(TUNING)],
}
PIECES = [
    *(bytes([letter]) for letter in b'{}[]()"\\0-:,;.!|/*\0\n %'),
    b"\xff",
    b"e9",
    b"1e999",
    b"nan",
    b"->",
    b"\xc2\xb2",
]
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2**63,
    1e308,
    "",
    "..",
    [],
    {},
    [[]],
    ["1", 0],
    ["1", -1],
    ["1", 10**9],
    {"__value__": [1]},
]


def seeds() -> dict[str, list[bytes]]:
    """Return what to start from."""
    found = {name: [text.encode() for text in texts] for name, texts in SEEDS.items()}
    found["workflow"] = [path.read_bytes() for path in sorted((ROOT / "example_workflows").rglob("*.json"))]
    used = {node["class_type"] for prompt in PROMPTS for node in prompt.values()}
    found["nodes"] += [json.dumps({name: INFOS[name] for name in sorted(used)}).encode()]
    entry = {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "I8", "shape": [], "data_offsets": [8, 9]},
    }
    header = json.dumps(entry).encode()
    found["header"] = [struct.pack("<Q", len(header)) + header + bytes(9)]
    found["pixels"] = [data for data, _, _ in made().values()]
    found["shapes"] = [demo_header()]
    found["files"] = found["answer"][:1]
    found["picture"] = [(ROOT / "docs" / "demo.png").read_bytes()]
    for path in (HERE / "corpus").glob("*-*"):
        found[path.name.partition("-")[0]].append(path.read_bytes())
    return found


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return data with some changes."""
    if rng.random() < 0.5:
        try:
            return json.dumps(_changed(json.loads(data), rng, 0)).encode()
        except (ValueError, RecursionError):
            pass
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        other = rng.randrange(len(data) + 1)
        kind = rng.randrange(21)
        if kind < 4 and data:
            data = data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]
        elif kind < 8:
            data = data[:place] + rng.choice(PIECES) + data[place:]
        elif kind < 12:
            data = data[:place] + data[place + rng.randint(1, 20) :]
        elif kind < 16:
            data = data + data[place : place + 50] * rng.randint(1, 30)
        elif kind < 20:
            data = data[:place] + data[other : other + rng.randint(1, 20)] + data[place:]
        else:
            data = rng.choice([b"[", b'{"a":', b"("]) * rng.choice([10, 1000, 10_000]) + data[:place]
    return data[:LONGEST] if rng.random() < 0.9 else data


def _changed(value: Any, rng: random.Random, depth: int) -> Any:
    if rng.random() < 0.03 or depth > 20:
        return rng.choice(ODD)
    if isinstance(value, dict):
        found = {key: _changed(part, rng, depth + 1) for key, part in value.items() if rng.random() > 0.01}
        if found and rng.random() < 0.05:
            found[rng.choice([*found, "", "id", "inputs"])] = rng.choice(list(found.values()))
        return found
    if isinstance(value, list):
        found = [_changed(part, rng, depth + 1) for part in value]
        return found + found[:2] if rng.random() < 0.03 else found
    if isinstance(value, (int, float)) and rng.random() < 0.1:
        return rng.choice([-value, value * 10**6, value + 0.5, str(value)])
    return value


def main(inputs: int, seed: int, targets: Sequence[str]) -> int:
    """Run and print what happened; return how many inputs broke something."""
    logging.disable()
    rng, start = random.Random(seed), seeds()
    counts: Counter[str] = Counter()
    broken, longest = 0, 0.0
    for number in range(inputs):
        if number % REPORT == 0:
            print(f"{number} of {inputs} inputs", flush=True)  # noqa: T201
        target = rng.choice(targets)
        data = mutated(rng.choice(start[target]), rng)
        begin = time.process_time()
        try:
            counts[f"{target} {'taken' if try_one(target, data) else 'refused'}"] += 1
            why = ""
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            why = traceback.format_exc(limit=-3)
        spent = time.process_time() - begin
        longest = max(longest, spent)
        if why or spent > SLOW:
            broken += 1
            name = f"{target}-{hashlib.sha256(data).hexdigest()[:12]}"
            (HERE / "corpus" / name).write_bytes(data)
            print(f"{number}: {name} {spent:.2f} s\n{why}")  # noqa: T201
    print(f"{inputs} inputs, {broken} broke something, the longest took {longest:.2f} s")  # noqa: T201
    for name, count in sorted(counts.items()):
        print(f"  {name} {count}")  # noqa: T201
    return broken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    raise SystemExit(int(main(args.inputs, args.seed, args.targets or list(TARGETS)) > 0))
