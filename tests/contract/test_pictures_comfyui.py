"""Compare the pictures and masks of every kind of file with those of ComfyUI's LoadImage."""

from __future__ import annotations

from operator import le
from typing import Any

import pytest

from ..headless.nodes.kinds_of_pictures import only_by_pyav, write_all
from .children import result_of

pytestmark = pytest.mark.comfyui
NEAR = 3.0  # levels by which Pillow's colors may differ
JPEGS = ("many.jpg", "thumb.jpg", "noise.jpg", "cut.jpg")  # of which Pillow makes the colors of neighbours smoother


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "input").mkdir()
    write_all(folder / "input")
    return result_of("picture_child.py", folder)


def test_with_pyav_they_are_the_same(found: Any) -> None:
    assert {name: entry["av"] for name, entry in found.items() if entry["av"] != [0.0, 0.0]} == {}


def test_with_pillow_they_come_near(found: Any) -> None:
    bounds = dict.fromkeys(found.keys() - {*JPEGS, *only_by_pyav()}, (NEAR, NEAR))
    far = {name: found[name]["pillow"] for name in bounds if not isinstance(found[name]["pillow"][0], float)}
    assert far == {}
    near = {name: all(map(le, found[name]["pillow"], bound)) for name, bound in bounds.items()}
    assert [name for name in near if not near[name]] == []
    assert all(found[name]["pillow"][1] == 0.0 for name in JPEGS)
