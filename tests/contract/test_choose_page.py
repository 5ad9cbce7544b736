"""Choose between the pictures of a sweep on its page in a real browser, by keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from attention_patchbay.headless.sweep.choices import counted, read_answers
from attention_patchbay.headless.sweep.choosing import serving

from ..headless.sweep.test_choices import asking_of, made
from .pages import MARKS, driven

pytestmark = MARKS
CHILD = Path(__file__).with_name("choose_child.py")


def test_pairs_are_answered_by_keyboard_alone(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cells = {cell.id: cell for cell in made(tmp_path)}
    asking = asking_of(tmp_path, list(cells.values()))
    with serving(asking) as address:
        found = driven("choose_child.py", tmp_path_factory.mktemp("pack"), address, tmp_path / "choose.png")
    assert found["errors"] == [] and found["names"] == 0 and asking.over.is_set()
    assert found["sources"] == [["picture", "0", "left"], ["picture", "0", "right"]]
    answers = read_answers(tmp_path)
    assert len(answers) == 6 and [answer.chosen for answer in answers].count("tie") == 1
    for answer in answers:
        bright = cells[answer.left].choice["3.cfg"] > cells[answer.right].choice["3.cfg"]
        assert answer.chosen in ("tie", "left" if bright else "right")
    assert all(shown == 2 for _, shown in counted(answers).values())
