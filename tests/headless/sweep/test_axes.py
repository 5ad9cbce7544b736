from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.engine.errors import Failure
from attention_patchbay.headless.sweep.axes import parse_axis
from attention_patchbay.headless.sweep.cells import listed
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


ODD = ["1.50", "true", '"quoted"', "[1]", '{"a":1}', "null", "a\u2028b\x0bc", " spaced "]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_texts_stay_as_they_are_written(tmp_path: Path, ends: str) -> None:
    path = tmp_path / "odd.txt"
    path.write_bytes(("\ufeff" + ends.join(ODD) + ends + "\ufefflast").encode())
    axis = parse_axis(f"2.text=@{path}", lambda node, input: (node, input) == ("2", "text"))
    assert axis.values == (*ODD, "last")
    for text, values in (
        ("1..3", ("1..3",)),
        ("0:1:0.5", ("0:1:0.5",)),
        ('1.50, true,"a, b"', ("1.50", "true", "a, b")),
    ):
        assert parse_axis(f"2.text={text}", lambda node, input: True).values == values


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_windows_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("a red circle\r\nzwei".encode(encoding))
    assert parse_axis(f"2.text=@{tmp_path}/a.txt").values == ("a red circle", "zwei")
    (tmp_path / "a.csv").write_bytes('3.seed,2.text\r\n1,"a\r\nb"\r\n'.encode(encoding))
    assert listed(tmp_path / "a.csv") == [{"3.seed": 1, "2.text": "a\nb"}]


def test_seeds_go_to_the_last_one() -> None:
    assert parse_axis(f"3.seed={2**64 - 2}..{2**64 - 1}").values == (2**64 - 2, 2**64 - 1)
    assert parse_axis(f"3.seed={2**64 - 1}").values == (2**64 - 1,)


def test_a_column_stands_once_in_a_list(tmp_path: Path) -> None:
    for text, reason in (("3.seed,3.seed\n1,2\n", "stands there twice"), ("3.seed,\n1,2\n", "write a line with")):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(Failure, match=reason):
            listed(tmp_path / "a.csv")


def test_no_error_is_longer_than_a_page(tmp_path: Path) -> None:
    for text in ("x" * 10**6, "3.seed=1.." + "9" * 19, "3.seed=" + "1" * 10**6 + ":1:1", '2.text="' + "x" * 10**6):
        try:
            parse_axis(text)
        except Failure as error:
            assert len(str(error)) < 1000


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
