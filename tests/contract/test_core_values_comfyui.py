"""What core nodes give in the embedded host is what they give in ComfyUI, over many widget values.

The numbers of ComfyUI 0.33 are kept in a file, as some of each tensor, so that they hold without ComfyUI too; there
`python -m tests.contract.test_core_values_comfyui`, with COMFYUI_PATH and COMFYUI_PYTHON, writes it anew.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.engine.catalog import catalog
from torch import Tensor

from .comfyui_server import python
from .core_cases import CASES, made
from .core_values_child import plain

KEPT = Path(__file__).parents[1] / "data" / "core_values.json.gz"
CHILD = Path(__file__).with_name("core_values_child.py")
NODES = catalog()
PLACES = 6  # of a tensor that are kept
NAMES = list(dict.fromkeys(name for name, _ in CASES))


def ours(name: str, inputs: dict[str, Any]) -> Any:
    """Return what a node of the embedded host gives, or "raises"."""
    try:
        return plain(NODES[name].execute(**made(inputs)).args)
    except (ValueError, RuntimeError, IndexError, TypeError, ZeroDivisionError) as error:
        return f"raises {type(error).__name__}: {error}"


def theirs(folder: Path) -> Any:
    """Return what ComfyUI gives for every case."""
    environment = {**os.environ, "PYTHONPATH": os.environ["COMFYUI_PATH"]}
    command = [python(), str(CHILD), str(folder / "result.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=os.environ["COMFYUI_PATH"])
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(folder / "result.pt", weights_only=True)


def digest(value: Any) -> Any:
    """Return an output with a few numbers of each tensor in its place."""
    if isinstance(value, Tensor):
        flat = value.double().flatten()
        picked = flat[torch.linspace(0, max(len(flat) - 1, 0), PLACES).long()].tolist() if len(flat) else []
        return {"shape": list(value.shape), "mean": float(flat.mean()) if len(flat) else 0.0, "some": picked}
    if isinstance(value, list):
        return [digest(one) for one in value]
    if isinstance(value, str) and value.startswith("raises"):
        return "raises"
    return {name: digest(one) for name, one in value.items()} if isinstance(value, dict) else value


def assert_same(mine: Any, real: Any, where: str) -> None:
    """Compare two outputs, or two digests."""
    if isinstance(real, str) and real.startswith("raises"):
        assert isinstance(mine, str) and mine.startswith("raises"), f"{where}: {real}"
    elif isinstance(real, Tensor):
        assert isinstance(mine, Tensor) and mine.shape == real.shape, f"{where}: {mine}, not {real.shape}"
        torch.testing.assert_close(
            mine, real, atol=1e-5, rtol=1e-5, equal_nan=True, msg=lambda text: f"{where}: {text}"
        )
    elif isinstance(real, dict):
        assert isinstance(mine, dict) and set(mine) == set(real), f"{where}: {mine}"
        for name, value in real.items():
            assert_same(mine[name], value, f"{where}.{name}")
    elif isinstance(real, list):
        assert isinstance(mine, list) and len(mine) == len(real), f"{where}: {mine}"
        for i, value in enumerate(real):
            assert_same(mine[i], value, f"{where}[{i}]")
    elif isinstance(real, (str, bool)) or real is None:
        assert mine == real, where
    else:
        assert mine == pytest.approx(real, abs=1e-5, rel=1e-5, nan_ok=True), where


@pytest.fixture(scope="module")
def kept() -> list[Any]:
    return json.loads(gzip.decompress(KEPT.read_bytes()))


@pytest.mark.parametrize("node", NAMES)
def test_a_core_node_gives_what_was_kept_of_comfyuis(node: str, kept: list[Any]) -> None:
    assert len(kept) == len(CASES)
    for (name, inputs), real in zip(CASES, kept, strict=True):
        if name == node:
            assert_same(digest(ours(name, inputs)), real, f"{name} {inputs}")


@pytest.mark.comfyui
def test_a_core_node_gives_what_comfyuis_does(tmp_path: Path) -> None:
    real = theirs(tmp_path)
    wrong = []
    for (name, inputs), answer in zip(CASES, real, strict=True):
        try:
            assert_same(ours(name, inputs), answer, f"{name} {inputs}")
        except AssertionError as error:
            wrong.append(str(error)[:600])
    assert not wrong, f"{len(wrong)} of {len(CASES)} cases differ:\n" + "\n".join(wrong[:12])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found = digest(theirs(Path(place)))
    KEPT.write_bytes(gzip.compress(json.dumps(found).encode(), mtime=0))
