"""Copies of model files with small tensors added or left out."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.ldm_patched.files import edited
from attention_patchbay.ldm_patched.files.checkpoint import Checkpoint, CheckpointError
from attention_patchbay.ldm_patched.files.edited import write_edited
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b.half": torch.arange(5.0).half(),
    "c.choice": torch.tensor([1, 2, 3], dtype=torch.uint8),
    "d.scalar": torch.tensor(7.0, dtype=torch.float64),
    "e.empty": torch.zeros(0, 4),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "in.safetensors", {"title": "a picture, \u00e9", "other": "2"})
    return tmp_path / "in.safetensors"


def held(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file as the safetensors library reads them."""
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping


def test_a_copy_without_a_change_is_the_same_file(source: Path, tmp_path: Path) -> None:
    write_edited(Checkpoint(source), tmp_path / "out.safetensors", {})
    assert (tmp_path / "out.safetensors").read_bytes() == source.read_bytes()


def test_what_is_added_and_left_out_comes_back_byte_for_byte(source: Path, tmp_path: Path) -> None:
    more, again = tmp_path / "more.safetensors", tmp_path / "again.safetensors"
    write_edited(Checkpoint(source), more, {"z.choice": b"{}", "y.choice": b"three"}, metadata={"title": "new"})
    found = held(more)
    assert bytes(found.pop("z.choice").numpy()) == b"{}" and bytes(found.pop("y.choice").numpy()) == b"three"
    assert found.keys() == TENSORS.keys() and all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)
    assert Checkpoint(more).metadata == {"title": "new"}
    write_edited(Checkpoint(more), again, {}, {"z.choice", "y.choice"}, Checkpoint(source).metadata)
    assert again.read_bytes() == source.read_bytes()


def test_an_added_tensor_takes_the_place_of_one_of_its_name(source: Path, tmp_path: Path) -> None:
    write_edited(Checkpoint(source), tmp_path / "out.safetensors", {"c.choice": b"other"}, {"c.choice"})
    assert bytes(held(tmp_path / "out.safetensors")["c.choice"].numpy()) == b"other"


def test_nothing_is_written_over(source: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"mine")
    for target in (taken, source):
        with pytest.raises(FileExistsError, match=target.name):
            write_edited(Checkpoint(source), target, {"new": b"1"})
    assert taken.read_bytes() == b"mine" and held(source).keys() == TENSORS.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors", "taken.safetensors"]


def test_a_copy_that_breaks_off_leaves_nothing(source: Path, tmp_path: Path) -> None:
    file = Checkpoint(source)
    source.write_bytes(source.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="cut short"):
        write_edited(file, tmp_path / "out.safetensors", {"new": b"1"})
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_weights_are_copied_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edited, "PIECE", 1 << 16)
    large = torch.rand(1 << 20)  # 4 MiB
    save_file({"large": large}, tmp_path / "in.safetensors")
    file = Checkpoint(tmp_path / "in.safetensors")
    tracemalloc.start()
    write_edited(file, tmp_path / "out.safetensors", {"new": b"1"})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert torch.equal(held(tmp_path / "out.safetensors")["large"], large)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters='"\\'), min_size=1, max_size=6)
ARRAYS = st.sampled_from([np.uint8, np.float16, np.float32, np.float64]).flatmap(
    lambda dtype: st.integers(0, 7).map(lambda n: np.arange(n, dtype=dtype))
)


def in_order(arrays: dict[str, Any], order: list[str]) -> bytes:
    """Return a file whose tensors lie in an order, as writers other than the safetensors library leave them."""
    header, place = {}, 0
    for key in order:
        end = place + arrays[key].nbytes
        dtype = {"u": "U8", "f": f"F{8 * arrays[key].itemsize}"}[arrays[key].dtype.kind]
        header[key] = {"dtype": dtype, "shape": list(arrays[key].shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(arrays[key].tobytes() for key in order)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, ARRAYS, max_size=6), st.dictionaries(NAMES, st.binary(max_size=9), max_size=4), st.data())
def test_any_layout_stays_readable(arrays: Any, added: dict[str, bytes], data: st.DataObject) -> None:
    order = data.draw(st.permutations(sorted(arrays)))
    without = data.draw(st.sets(st.sampled_from(order))) if order else set()
    with TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.safetensors", Path(folder) / "out.safetensors"
        source.write_bytes(in_order(arrays, order))
        write_edited(Checkpoint(source), target, added, without)
        found = held(target)
    kept = {key: torch.from_numpy(array) for key, array in arrays.items() if key not in without and key not in added}
    assert found.keys() == kept.keys() | added.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in kept.items())
    assert all(bytes(found[key].numpy()) == content for key, content in added.items())
