"""The page forms of the examples are what the tool writes of their API forms and notes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attention_patchbay.tools.examples import FOLDER, TEXTS, written

PAGES = dict(written())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_committed_file_is_what_is_written(path: Path) -> None:
    assert path.read_text() == PAGES[path], "run: python -m attention_patchbay.tools.examples"


def test_each_example_has_its_texts() -> None:
    assert set(PAGES) == set(FOLDER.glob("*.json"))
    assert {path.stem for path in PAGES} == set(json.loads(TEXTS.read_text())["examples"])
