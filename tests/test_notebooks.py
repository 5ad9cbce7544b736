"""The notebooks of docs/notebooks run as they stand, keep no outputs, and each holds what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers hands tensors to numpy in a way that is over
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path) -> None:
    found: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells(path, "code")):
        exec(compile("".join(cell["source"]), f"{path.name}, code cell {number}", "exec"), found)  # noqa: S102


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_no_outputs_and_asserts_something(path: Path) -> None:
    code = cells(path, "code")
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert any("assert " in line for cell in code for line in cell["source"])
    whole = json.loads(path.read_text())
    ids = [cell["id"] for cell in whole["cells"]]
    assert whole["nbformat"] == 4 and len(set(ids)) == len(ids)


def test_every_notebook_is_named_where_a_reader_looks_for_it() -> None:
    assert len(NOTEBOOKS) == 3
    for page, folder in (("docs/python.md", "notebooks"), ("README.md", "docs/notebooks")):
        assert all(f"({folder}/{path.name})" in (ROOT / page).read_text() for path in NOTEBOOKS), page
