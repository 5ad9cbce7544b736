"""Areas as text: the grammar that page and nodes share, and their masks against the formula."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.areas import Area, Box, Brush, names, paint, parse_areas
from attention_patchbay.ldm_patched.patches.addressing.frames import parse_frames
from attention_patchbay.ldm_patched.patches.addressing.refused import Refused
from hypothesis import given
from hypothesis import strategies as st

DATA = json.loads((Path(__file__).parents[2] / "data" / "areas.json").read_text())


def plain(shape: Box | Brush) -> object:
    if isinstance(shape, Box):
        return [shape.x, shape.y, shape.width, shape.height]
    erases = {"erases": True} if shape.erases else {}
    return {"width": shape.width, "points": [list(point) for point in shape.points], **erases}


@pytest.mark.parametrize(("text", "wanted"), DATA["cases"])
def test_texts_are_read(text: str, wanted: list) -> None:
    assert [[area.prompt, [plain(shape) for shape in area.shapes]] for area in parse_areas(text)] == wanted


@pytest.mark.parametrize(("text", "wanted"), DATA["timed"])
def test_frames_of_a_video_are_read(text: str, wanted: list) -> None:
    found = [
        [area.prompt, [plain(shape) for shape in area.shapes], area.frames.text if area.frames else ""]
        for area in parse_areas(text)
    ]
    assert found == wanted


@pytest.mark.parametrize("when", ["5-2", "1.5", "0-50", "0-120%"])
def test_frames_say_what_prompt_region_says_of_them(when: str) -> None:
    try:
        parse_frames(when)
    except Refused as error:
        with pytest.raises(Refused, match=f"^regions, line 1: {re.escape(str(error))}$"):
            parse_areas(f"left frames {when} -> a")
    else:
        assert parse_areas(f"left frames {when} -> a")[0].frames == parse_frames(when)


def test_frames_that_the_page_refuses_are_refused_and_no_others() -> None:
    for when in DATA["frames"]["right"]:
        assert parse_areas(f"left frames {when} -> a")[0].frames == parse_frames(when)
    for when in DATA["frames"]["wrong"]:
        with pytest.raises(Refused):
            parse_frames(when)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("left 0-50%", "when it holds stands behind an area"),
        ("left frame 0-10", "when it holds stands behind an area"),
        ("left FRAMES 0-50%", "when it holds stands behind an area"),
        ("frames 0-10", "when it holds stands behind an area"),
        ("left, top", "join several by"),
        ("middle", "write left, right, top"),
    ],
)
def test_what_is_wrong_with_a_place_comes_first(place: str, told: str) -> None:
    with pytest.raises(Refused, match=f"is no area; {told}"):
        parse_areas(f"{place} -> a")


@pytest.mark.parametrize("text", DATA["wrong"])
def test_wrong_texts_are_refused_with_their_line(text: str) -> None:
    with pytest.raises(Refused, match=r"^regions, line 2: ") as error:
        parse_areas(f"# one\n{text}")
    assert error.value.widgets == ("regions",)


def test_too_many_areas_and_too_long_texts_are_refused() -> None:
    with pytest.raises(Refused, match="65 areas; draw at most 64"):
        parse_areas("left -> a\n" * 65)
    with pytest.raises(Refused, match="10000 at most"):
        parse_areas("left -> " + "a" * 10_000)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        areas = parse_areas(text)
    except Refused:
        return
    for area in areas:
        mask = paint(area, (4, 6))
        assert mask.shape == (1, 4, 6) and bool(((mask >= 0.0) & (mask <= 1.0)).all())


NUMBERS = st.floats(-1.0, 2.0, allow_nan=False).map(lambda value: round(value, 3))
WIDTHS = st.floats(0.001, 1.0).map(lambda value: round(value, 3))
POINTS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5).map(tuple)
BOXES = st.builds(Box, NUMBERS, NUMBERS, WIDTHS, WIDTHS)


def written(shape: Box | Brush) -> str:
    if isinstance(shape, Box):
        return f"{shape.x} {shape.y} {shape.width} {shape.height}"
    points = ", ".join(f"{x} {y}" for x, y in shape.points)
    return f"{'erase' if shape.erases else 'brush'} {shape.width}: {points}"


@given(
    st.one_of(BOXES, st.builds(Brush, WIDTHS, POINTS)),
    st.lists(st.one_of(BOXES, st.builds(Brush, WIDTHS, POINTS, st.booleans())), max_size=4),
)
def test_what_is_drawn_is_read_again(first: Box | Brush, others: list[Box | Brush]) -> None:
    shapes = (first, *others)
    assert parse_areas(f"{' + '.join(map(written, shapes))} -> a cat") == (Area(shapes, "a cat"),)


@pytest.mark.parametrize(("text", "size", "soft", "wanted"), DATA["painted"])
def test_masks_are_those_of_the_page(text: str, size: list[int], soft: float, wanted: list[float]) -> None:
    width, height = size
    (area,) = parse_areas(text)
    mask = paint(area, (height, width), soft)
    assert torch.allclose(mask, torch.tensor(wanted).reshape(1, height, width), atol=2e-4)


def test_an_eraser_takes_off_what_stands_before_it() -> None:
    (erased,) = parse_areas("all + erase 0.5: 0.5 0.5 -> a")
    (brush,) = parse_areas("brush 0.5: 0.5 0.5 -> a")
    assert torch.equal(paint(erased, (8, 8)), 1.0 - paint(brush, (8, 8)))
    (again,) = parse_areas("left + erase 0.5: 0.5 0.5 + left -> a")
    assert torch.equal(paint(again, (8, 8)), paint(parse_areas("left -> a")[0], (8, 8)))


def test_a_box_covers_pixels_by_their_part() -> None:
    (area,) = parse_areas("0.25 0 0.375 0.5 -> a")
    mask = paint(area, (2, 4))
    assert torch.allclose(mask, torch.tensor([[[0.0, 1.0, 0.5, 0.0], [0.0] * 4]]))


def test_columns_and_soft_halves_share_every_pixel() -> None:
    for text in ("1:2:1 -> a | b | c", "3x2 -> a | b | c | d | e | f", "1/3 -> a | b"):
        for soft in (0.0, 0.2):
            total = torch.cat([paint(area, (12, 20), soft) for area in parse_areas(text)]).sum(0)
            assert torch.allclose(total, torch.ones(12, 20), atol=1e-5)


def test_a_soft_edge_is_a_ramp_around_the_edge_and_the_middle_stays() -> None:
    (area,) = parse_areas("left -> a")
    row = paint(area, (16, 100), 0.2)[0, 8]
    assert row[0] == pytest.approx(1.0) and row[-1] == pytest.approx(0.0, abs=1e-6)
    assert row[49] + row[50] == pytest.approx(1.0, abs=1e-5) and (row.diff() <= 1e-6).all()
    ramp = ((row > 0.1) & (row < 0.9)).sum()
    assert 15 <= ramp <= 25  # about a fifth of the width


def test_a_brush_is_as_wide_as_it_says_on_pictures_of_any_proportion() -> None:
    area = Area((Brush(0.2, ((0.25, 0.5), (0.75, 0.5))),), "a")
    for height, width in ((100, 200), (200, 100)):
        mask = paint(area, (height, width))[0]
        wide = 0.2 * 200
        assert mask[:, width // 2].sum() == pytest.approx(wide, abs=1.0)
        round_ends = width * 0.5 * wide + math.pi * (wide / 2) ** 2
        assert mask.sum() == pytest.approx(round_ends, rel=0.02)


def test_shapes_are_joined_and_areas_have_names() -> None:
    areas = parse_areas("left + right -> a very long prompt of words\ntop -> ")
    assert torch.equal(paint(areas[0], (4, 4)), torch.ones(1, 4, 4))
    assert names(areas) == ["a very long prompt", "area 2"]
