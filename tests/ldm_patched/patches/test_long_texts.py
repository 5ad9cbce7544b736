"""Texts that nobody wrote by hand: refused in one bounded sentence, before anything reads them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.refused import LONGEST
from attention_patchbay.ldm_patched.patches.addressing.schedule import parse_curve
from attention_patchbay.ldm_patched.patches.methods.capture import parse_heads
from attention_patchbay.ldm_patched.patches.methods.operations import parse_gains
from attention_patchbay.ldm_patched.patches.methods.point_capture import parse_points
from attention_patchbay.ldm_patched.patches.routing.rules import parse_rules


@pytest.mark.parametrize(
    ("read", "part"),
    [
        (parse, "input:1, "),
        (parse_curve, "0:1, "),
        (parse_gains, "0:1.5, "),
        (parse_points, "0.5 0.5, "),
        (parse_rules, "input:1 -> basic; "),
        (parse_heads, "1, "),
    ],
)
def test_a_text_of_a_million_characters_is_refused(read: Callable[[str], object], part: str) -> None:
    with pytest.raises(ValueError, match=f"the text has 1000000 characters; write {LONGEST} at most") as caught:
        read((part * 1_000_000)[:1_000_000])
    assert len(str(caught.value)) < 100


def test_an_error_far_inside_shows_the_place_and_not_all() -> None:
    text = "input:1, " * 900 + "inptu:3" + ", input:2" * 90
    with pytest.raises(AddressError, match=r"column 8101: unknown block 'inptu'") as caught:
        parse(text)
    _, shown, pointer = str(caught.value).split("\n")
    assert len(shown) < 130 and shown[pointer.index("^") :].startswith("inptu:3")
    assert caught.value.column == 8100
