from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.engine.errors import Failure
from attention_patchbay.headless.sweep.axes import parse_axis
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("12.backend=auto, pytorch,sub_quad", "12.backend", ("auto", "pytorch", "sub_quad")),
        ("3.seed=1..4", "3.seed", (1, 2, 3, 4)),
        ("3.seed=-1..1", "3.seed", (-1, 0, 1)),
        ("9.strength=0:1:0.25", "9.strength", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("9.strength=0:1:0.1", "9.strength", tuple(i / 10 for i in range(11))),
        ("15=on,bypass", "15", ("on", "bypass")),
        ('2.text="a red circle, left",a square', "2.text", ("a red circle, left", "a square")),
        ("Load Image.image=a.png", "Load Image.image", ("a.png",)),
        ("4.flag=true,false", "4.flag", (True, False)),
    ],
)
def test_axes_are_read(text: str, name: str, values: tuple[Any, ...]) -> None:
    axis = parse_axis(text)
    assert axis.name == name and axis.values == pytest.approx(values) if ":" in text else axis.values == values


def test_values_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle, left\n\na square\n")
    assert parse_axis(f"2.text=@{tmp_path}/prompts.txt").values == ("a red circle, left", "a square")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("12.backend", "write NODE.input=values"),
        ("3.seed=", "write NODE.input=values"),
        ("3.seed=4..1", "a range that rises"),
        ("3.seed=1..100000000", "at most"),
        ("9.strength=0:1:0", "a step above 0"),
        ("9.strength=0:1:1e-9", "at most"),
        ("15=1,2", "a node has the values on and bypass"),
        ("3.seed=1,1", "stands there twice"),
        ("2.text=@nowhere.txt", "nowhere.txt cannot be read"),
        ('2.text="open', "cannot be read"),
    ],
)
def test_what_is_wrong_is_said(text: str, reason: str) -> None:
    with pytest.raises(Failure, match=reason):
        parse_axis(text)


@given(st.text('1.:=,a"@e-..[{ \\\n', max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert parse_axis(text).values
    except Failure as error:
        assert str(error).startswith("--axis ")
