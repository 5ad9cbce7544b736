"""The blocks of model files by their headers, without a model being loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.files.checkpoint import CheckpointError
from attention_patchbay.ldm_patched.patches.reading.block_map import block_map, rows
from attention_patchbay.ldm_patched.patches.reading.file_header import file_blocks
from attention_patchbay.nodes.demo import LoadDemoModel
from safetensors.numpy import save_file


def written(folder: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    save_file({key: np.zeros(shape, np.float16) for key, shape in shapes.items()}, folder / "m.safetensors")
    return folder / "m.safetensors"


def test_the_header_tells_what_the_loaded_model_does() -> None:
    found = file_blocks(CHECKPOINT)
    assert found is not None and found["map"] == rows(block_map(LoadDemoModel.execute().result[0]))
    assert found["family"] == "sd1" and found["kinds"] == ("self", "cross")
    assert found["blocks"] == {"input": 6, "middle": 1, "output": 6} and json.dumps(found)


def test_a_transformer_is_told_by_its_keys(tmp_path: Path) -> None:
    blocks = {f"joint_blocks.{i}.x_block.attn.proj.weight": (128, 128) for i in range(3)}
    found = file_blocks(written(tmp_path, {"joint_blocks.0.context_block.attn.qkv.weight": (384, 128), **blocks}))
    assert found is not None and (found["family"], found["kinds"], found["blocks"]) == ("SD3", ("self",), {"double": 3})
    assert [(row["name"], row["heads"], row["dim_head"]) for row in found["map"]][-1] == ("double:2", 2, 64)


def test_another_file_tells_nothing_or_why_it_cannot_be_read(tmp_path: Path) -> None:
    assert file_blocks(written(tmp_path, {"first.weight": (2, 2)})) is None
    (tmp_path / "m.safetensors").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(CheckpointError, match="GGUF"):
        file_blocks(tmp_path / "m.safetensors")
