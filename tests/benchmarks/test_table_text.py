"""The table in Markdown, from lines alone."""

from __future__ import annotations

from typing import Any

import pytest
from table_text import gain, noise, spread, tables

ABOUT = {"measure": "step", "row": "sd15-512", "title": "SD1.5, 512x512", "host": "embedded", "device": "cuda"}
ABOUT |= {
    "blocks": "all blocks",
    "dtype": "float16",
    "on": "a GPU",
    "steps": 4,
    "picture_steps": 20,
    "when": "2026-11-30T",
}
CELL = {"rules": "", "default_ms": [100.0, 100.0, 104.0, 100.0], "share": 0.25, "peak": 5 * 10**9, "worst": "middle"}
CELL |= {"default_peak": 5 * 10**9, "error": 1e-3, "difference": 0.0, "floor": 2e-4, "functions": {"pytorch": 32}}


def line(column: str, text: str, **changed: Any) -> dict[str, Any]:
    return {**ABOUT, **CELL, "column": column, "text": text, "ms": [50.0, 50.0, 60.0, 50.0], **changed}


def row_of(text: str, name: str) -> list[str]:
    (found,) = [part for part in text.splitlines() if part.startswith(f"| {name} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_the_gain_is_that_of_a_step_whose_attention_takes_no_time(share: float) -> None:
    attention, rest = 80.0 * share, 80.0 * (1 - share)
    assert gain(share) == pytest.approx((attention + rest) / rest)


def test_without_anything_else_there_is_no_bound() -> None:
    assert gain(1.0) == float("inf")


def test_two_times_have_no_spread() -> None:
    assert spread([1.0, 2.0]) == "-"
    assert spread([4.0, 4.0, 4.0]) == "0.00"


def test_a_cell_says_what_was_measured() -> None:
    text = tables([line("default", "the default"), line("tuned", "tuned", difference=3e-4)])
    assert row_of(text, "tuned")[:10] == (
        ["tuned", "50", "0.15", "2.00", "1", "25%", "5.00", "1.0e-03 at middle", "3.0e-04", "2.0e-04"]
    )
    assert row_of(text, "the default")[8] == "0 (bit-equal)"
    assert "**1.33 times**" in text and "What is above that is noise too: the default 2.00, tuned 2.00." in text
    assert "s a picture (20 steps)" in text


def in_turn(column: str, ms: list[float], default_ms: list[float], **changed: Any) -> dict[str, Any]:
    return line(column, column, ms=ms, default_ms=default_ms, **changed)


def test_the_noise_is_how_far_the_defaults_own_steps_are_apart() -> None:
    """Its medians are 100, 100 and 125; its turns, each about its own median, spread by nothing."""
    calm = {
        "default": in_turn("default", [100.0] * 4, [100.0] * 4),
        "tuned": in_turn("tuned", [50.0] * 4, [125.0] * 4),
    }
    assert noise(calm) == pytest.approx(1.25)
    one = {"default": in_turn("default", [100.0] * 4, [80.0] * 4)}
    assert noise(one) == pytest.approx(1.25)


@pytest.mark.parametrize("of", ["ms", "default_ms"])
def test_the_noise_is_no_less_than_the_spread_of_any_turns_of_the_default(of: str) -> None:
    turns = [38.0, 71.0, 104.0]
    found = noise({"default": line("default", "default", **{of: turns})})
    assert found is not None and found >= 1 + float(spread(turns)) - 0.005


def test_one_or_two_steps_of_the_default_alone_tell_no_noise() -> None:
    assert noise({}) is None
    assert noise({"tuned": in_turn("tuned", [50.0] * 2, [100.0, 101.0])}) is None
    assert "noise is not known" in tables([in_turn("tuned", [50.0], [100.0])])


def test_what_the_noise_allows_to_say_is_above_the_table() -> None:
    quiet = [in_turn("default", [100.0] * 4, [102.0] * 4), in_turn("tuned", [80.0] * 4, [100.0] * 4)]
    text = tables(quiet)
    assert "differ by a factor of 1.02 here: do not trust ratios between 0.98 and 1.02." in text
    assert "noise too" not in text and "does not tell" not in text
    loud = [in_turn("default", [38.0, 71.0, 104.0], [69.0, 105.0, 37.0]), in_turn("tuned", [50.0] * 3, [75.0] * 3)]
    text = tables(loud)
    assert "differ by a factor of 1.99 here: do not trust ratios between 0.50 and 1.99." in text
    assert "all that attention can give, so this table does not tell which choice is faster" in text
    assert "What is above that is noise too: tuned 1.50." in text


def test_the_later_of_two_lines_holds() -> None:
    text = tables([line("tuned", "tuned", failed="no room"), line("tuned", "tuned", ms=[25.0])])
    assert row_of(text, "tuned")[1] == "25" and "no room" not in text


def test_machines_sizes_and_dtypes_have_tables_of_their_own() -> None:
    others = [line("tuned", "tuned", **{name: "other"}) for name in ("row", "on", "dtype", "device", "blocks")]
    assert tables([line("tuned", "tuned"), *others]).count("###") == 6


def test_a_part_of_a_model_makes_no_picture() -> None:
    assert row_of(tables([line("tuned", "tuned", blocks="3 of 57 blocks")]), "tuned")[4] == "-"


def test_what_failed_is_told_with_its_words() -> None:
    failed = {**ABOUT, "column": "tuned", "text": "tuned", "failed": "OutOfMemoryError: tried 20 GiB"}
    text = tables([line("default", "the default"), failed])
    assert "- tuned, step: not measured: OutOfMemoryError: tried 20 GiB" in text
    assert "not measured" in tables([failed])


def test_columns_that_leave_nothing_out_are_held_against_what_the_processor_can_do() -> None:
    limit = {"ms": 40.0, "products": 150e9, "exponentials": 3.3e9}
    lines = [
        line(name, name, limit=limit, ms=[ms]) for name, ms in (("default", 80.0), ("tuned", 50.0), ("tiles", 20.0))
    ]
    text = tables(lines)
    assert "(150 GFLOP/s)" in text and "(3.30 G/s) would take 40 ms. Times that: default 2.00, tuned 1.25." in text
    assert "Times that" not in tables([line("default", "default", limit={}), line("tiles", "tiles", limit=limit)])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "gives the same to the bit, with the same peak memory to the byte"),
        ({"peak": 5 * 10**9 + 512}, "a peak memory that DIFFERS by 512 bytes"),
        ({"difference": 1e-6}, "CHANGES the result by 1.0e-06"),
    ],
)
def test_a_neutral_node_is_held_to_its_promise(changed: dict[str, Any], said: str) -> None:
    assert said in tables([line("neutral", "neutral", **changed)])


def test_resident_peaks_are_lines_of_their_own() -> None:
    step = {"device": "cpu", "peak": 0, "default_peak": 0}
    lines = [line("default", "the default", **step), line("neutral", "neutral", **step)]
    peak = {**ABOUT, "device": "cpu", "measure": "peak"}
    lines += [{**peak, "column": "default", "text": "", "peak": 2 * 10**9}]
    assert "a peak memory that was not measured" in tables(lines)
    lines += [{**peak, "column": "neutral", "text": "", "peak": 2 * 10**9 + 10**6}]
    text = tables(lines)
    assert row_of(text, "the default")[6] == "2.00" and "a resident peak +1.0 MB from the default's" in text
