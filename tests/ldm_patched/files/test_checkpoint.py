"""What is not a complete safetensors file is refused with the reason."""

from __future__ import annotations

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
