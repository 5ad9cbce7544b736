"""The functions of ComfyUI that this pack builds on are those that it was written for, or the skip names what changed.

On the oldest promised ComfyUI a change is an error; there `python -m tests.contract.test_core_functions_comfyui`, with
COMFYUI_PATH and COMFYUI_PYTHON, writes the snapshot anew. On any other one somebody has to read what changed.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest

from .children import result_of

SNAPSHOT = Path(__file__).with_name("core_functions.json")
ROOT = Path(__file__).parents[2]


def promised() -> str:
    """Return the oldest ComfyUI that the pack says to work with."""
    (version,) = re.findall(r'requires-comfyui = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    return version


def changed(kept: dict[str, str], now: dict[str, str | None]) -> list[str]:
    """Return which functions are gone or have another source."""
    gone = [f"{name} is gone" for name in kept if now.get(name) is None]
    return gone + [f"{name} changed" for name in kept if now.get(name) not in (None, kept[name])]


def test_the_snapshot_is_of_the_oldest_promised_comfyui() -> None:
    kept = json.loads(SNAPSHOT.read_text())
    assert kept["version"] == promised()
    assert None not in kept["functions"].values()


def test_a_change_is_named() -> None:
    assert changed({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": None, "c": "4", "d": "5"}) == [
        "b is gone",
        "c changed",
    ]


@pytest.mark.comfyui
def test_the_core_functions_are_those_of_the_snapshot(tmp_path: Path) -> None:
    kept, now = json.loads(SNAPSHOT.read_text()), result_of("core_functions_child.py", tmp_path, 120)
    assert list(kept["functions"]) == list(now["functions"])
    found = changed(kept["functions"], now["functions"])
    if found and now["version"] != promised():
        pytest.skip(f"since {promised()}: {'; '.join(found)}")
    assert found == []


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        result = result_of("core_functions_child.py", Path(folder), 120)
    SNAPSHOT.write_text(json.dumps(result, indent=2) + "\n")
