"""What is not a complete safetensors file is refused with the reason."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from attention_patchbay.ldm_patched.files.checkpoint import Checkpoint, CheckpointError
from safetensors.torch import save_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    save_file(
        {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half()}, file, metadata={"made by": "me"}
    )
    return file


def test_a_file_is_a_mapping_of_tensors(path: Path) -> None:
    file = Checkpoint(path)
    assert file.shapes == {"a.weight": (2, 3), "b": (2,)}
    assert sorted(file) == ["a.weight", "b"] and len(file) == 2 and "c" not in file
    assert torch.equal(file["a.weight"], torch.arange(6.0).reshape(2, 3)) and file["b"].dtype == torch.float16
    assert file.metadata == {"made by": "me"}


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: (truncated|not a safetensors file)"):
        Checkpoint(path)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin", "model.safetensors"])
def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path, name: str) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / name)
    with pytest.raises(CheckpointError, match="pickle can run code.*convert it once.*save_file"):
        Checkpoint(tmp_path / name)


def test_the_conversion_that_the_refusal_names_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": {"a": torch.ones(2, 3).T, "step": 5}}, tmp_path / "IN")
    with pytest.raises(CheckpointError) as refusal:
        Checkpoint(tmp_path / "IN")
    code = str(refusal.value).split('python -c "')[1].rstrip('"')
    monkeypatch.chdir(tmp_path)
    exec(code, {})  # noqa: S102 - the very command that users are given
    assert torch.equal(Checkpoint(tmp_path / "OUT.safetensors")["a"], torch.ones(3, 2))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><html>not found</html>")
    (tmp_path / "json.safetensors").write_bytes((12).to_bytes(8, "little") + b'{"a": [1,2]}')
    for name in ("page", "json"):
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            Checkpoint(tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        Checkpoint(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("length", [640, 896, 1152, 65536 + 640, 0x04034B50 % 65536])
@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt", "a.sft"])
def test_the_format_is_told_by_more_than_the_length(tmp_path: Path, length: int, name: str) -> None:
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).ljust(length)
    (tmp_path / name).write_bytes(length.to_bytes(8, "little") + text.encode() + bytes(8))
    assert torch.equal(Checkpoint(tmp_path / name)["a"], torch.zeros(2))


def test_a_gguf_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(100))
    with pytest.raises(CheckpointError, match="quantised as GGUF"):
        Checkpoint(tmp_path / "a.safetensors")


def written(path: Path, header: str, data: int = 0) -> Path:
    text = header.encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


@pytest.mark.parametrize(
    "shape", [[2**63, 0], [2**62, 2**62, 0], [0, 10**30], [1] * 65, [10**4000] * 64, [10**18] * 10**5]
)
def test_shapes_that_cannot_be_counted_are_refused(tmp_path: Path, shape: list[int]) -> None:
    header = json.dumps({"a" * 1000: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})
    begin = time.process_time()
    with pytest.raises(CheckpointError, match="more than 64 dimensions or 9223372036854775807 elements") as refusal:
        Checkpoint(written(tmp_path / "a.safetensors", header))
    assert time.process_time() - begin < 1.0
    assert len(str(refusal.value)) < 1000


def test_keys_that_stand_there_twice_are_found_in_linear_time(tmp_path: Path) -> None:
    entry = '{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}'
    keys = [f"key{i}" for i in range(40_000)]
    header = "{" + ", ".join(f'"{key}": {entry}' for key in [*keys, keys[-1]]) + "}"
    begin = time.process_time()
    with pytest.raises(CheckpointError, match="'key39999' stands there twice"):
        Checkpoint(written(tmp_path / "a.safetensors", header))
    assert time.process_time() - begin < 2.0


@pytest.mark.parametrize("shape", [[0], [3, 0], [2**40, 0], []])
def test_empty_tensors_and_scalars(tmp_path: Path, shape: list[int]) -> None:
    size = 0 if 0 in shape else 4
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}})
    assert Checkpoint(written(tmp_path / "a.safetensors", header, size))["a"].shape == tuple(shape)
