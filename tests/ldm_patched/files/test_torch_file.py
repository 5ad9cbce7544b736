"""Files that torch.save wrote: what is in them comes out, and nothing in them runs or claims more than there is."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.files.checkpoint import CheckpointError
from attention_patchbay.ldm_patched.files.torch_file import load_torch_file, named_tensors
from safetensors.torch import save_file


class Evil:
    """What runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("nested", [lambda w: w, lambda w: {"state_dict": w, "epoch": 3}, lambda w: {"params_ema": w}])
def test_tensors_come_out_wherever_they_are(tmp_path: Path, nested: Any) -> None:
    weights = {"a.weight": torch.rand(3, 4), "b": torch.rand(5).half()}
    torch.save(nested(weights), tmp_path / "a.pth")
    found = named_tensors(tmp_path / "a.pth")
    assert list(found) == list(weights)
    assert all(torch.equal(found[key], value) for key, value in weights.items())


def test_safetensors_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "a.pt")
    assert torch.equal(named_tensors(tmp_path / "a.pt")["a"], torch.ones(2))


def test_nothing_in_a_file_runs(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    torch.save({"a": torch.ones(2), "b": Evil(f"touch {ran}")}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt: holds more than tensors .* convert it once"):
        load_torch_file(tmp_path / "evil.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil(f"touch {ran}")))
    with pytest.raises(CheckpointError, match=r"bare\.pt: not a file of torch 1\.6 or later"):
        load_torch_file(tmp_path / "bare.pt")
    assert not ran.exists()


def test_the_old_format_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"old\.pth: not a file of torch 1\.6 or later, or damaged; convert it"):
        load_torch_file(tmp_path / "old.pth")


def rewritten(source: Path, target: Path, change: Any, packed: bool = False) -> Path:
    """Write an archive anew with another pickle."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for one in old.infolist():
            data = old.read(one)
            data = change(data) if one.filename.endswith("data.pkl") else data
            new.writestr(one.filename, data, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    return target


def test_a_tensor_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(200)}, tmp_path / "a.pt")
    short = bytes([ord("K"), 200])  # BININT1

    def longer(data: bytes) -> bytes:
        assert data.count(short) >= 2
        return data.replace(short, b"J" + (10**9).to_bytes(4, "little"))

    with pytest.raises(CheckpointError, match=r"b\.pt"):
        load_torch_file(rewritten(tmp_path / "a.pt", tmp_path / "b.pt", longer))
    torch.save({"a": torch.ones(1).expand(10**9)}, tmp_path / "wide.pt")
    with pytest.raises(CheckpointError, match="larger than the file"):
        load_torch_file(tmp_path / "wide.pt")


def test_packed_archives_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2000)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not as torch writes it"):
        load_torch_file(rewritten(tmp_path / "a.pt", tmp_path / "b.pt", lambda data: data, packed=True))
    data = (tmp_path / "a.pt").read_bytes()
    for share in (0.0, 0.3, 0.9):
        (tmp_path / "cut.pt").write_bytes(data[: int(share * len(data))])
        with pytest.raises(CheckpointError, match=r"cut\.pt"):
            load_torch_file(tmp_path / "cut.pt")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_torch_file(tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        load_torch_file(tmp_path / "none.pt")
