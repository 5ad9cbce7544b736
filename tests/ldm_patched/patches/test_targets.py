from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
from attention_patchbay.ldm_patched.patches.addressing.address import Address, AddressError, Term, parse
from attention_patchbay.ldm_patched.patches.addressing.blocks import model_blocks, select
from hypothesis import given
from hypothesis import strategies as st

from .models import BLOCKS, patcher


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("all", "all"),
        ("*", "all"),
        ("input:4", "input:4"),
        ("i4", "input:4"),
        ("input:7-8", "input:7-8"),
        ("input:7-7", "input:7"),
        ("m", "middle"),
        ("middle", "middle"),
        ("middle:0", "middle"),
        ("m.3", "middle.3"),
        ("o3.1", "output:3.1"),
        ("output", "output"),
        ("output:3-", "output:3-"),
        ("double:0-18 , single:10-", "double:0-18, single:10-"),
        ("ALL !input:5 Self", "all, !input:5 self"),
        ("cross", "all cross"),
        ("b7", "block:7"),
    ],
)
def test_parse_gives_the_canonical_text(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical


def test_the_caret_stands_under_the_fault_behind_a_line_break() -> None:
    with pytest.raises(AddressError) as caught:
        parse("input:4,\nm9")
    assert str(caught.value).split("\n")[1:] == ["  input:4, m9", "           ^"]


@pytest.mark.parametrize(
    ("text", "column", "part"),
    [
        ("", 1, "empty"),
        ("input:4, inptu:5", 10, "unknown block 'inptu'; there are input, middle"),
        ("output !sefl", 8, "unknown block 'sefl'; the kinds of attention are self and cross"),
        ("output corss", 8, "unknown block 'corss'; the kinds of attention are self and cross"),
        ("input:8-4", 1, "write 4-8"),
        ("self cross", 6, "exclude each other"),
        ("input:", 1, "cannot read 'input:'"),
        ("input:4..5", 1, "cannot read"),
        ("input:-3", 1, "cannot read"),
        ("!", 1, "cannot read"),
        ("input.2", 1, "write input:3.2"),
        ("input:2-5.1", 1, "write input:3.1"),
        ("all, m1", 6, "the middle is one block"),
        ("middle:0-", 1, "the middle is one block"),
    ],
)
def test_a_malformed_address_points_at_the_column(text: str, column: int, part: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse(text)
    first, shown, caret = str(caught.value).split("\n")
    assert f"column {column}:" in first
    assert part in first
    assert shown == f"  {text}"
    assert caret.index("^") == column + 1


numbers = st.integers(0, 99)
block_types = st.sampled_from(["input", "output", "double", "single", "block"])
terms = st.one_of(
    st.builds(lambda not_: Term(None, exclude=not_), st.booleans()),
    st.builds(lambda not_: Term("middle", 0, 0, exclude=not_), st.booleans()),
    st.builds(lambda type, first, not_: Term(type, first, exclude=not_), block_types, numbers, st.booleans()),
    st.builds(
        lambda type, a, b, not_: Term(type, min(a, b), max(a, b), exclude=not_),
        block_types,
        numbers,
        numbers,
        st.booleans(),
    ),
    st.builds(
        lambda type, n, i, not_: Term(type, n, n, i, not_), block_types, numbers, st.integers(0, 9), st.booleans()
    ),
)
addresses = st.builds(
    Address, st.lists(terms, min_size=1, max_size=4).map(tuple), st.sampled_from(["all", "self", "cross"])
)


@given(addresses)
def test_the_canonical_text_reads_back_as_the_same_address(address: Address) -> None:
    assert parse(str(address)) == address
    assert pickle.loads(pickle.dumps(address)) == address


@given(st.text(alphabet="inputmdleosgab:.-!,* 0123456789", max_size=30))
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    try:
        address = parse(text)
    except AddressError:
        return
    assert parse(str(address)) == address


@given(addresses, block_types, numbers, st.integers(0, 9))
def test_a_block_matches_by_set_arithmetic(address: Address, block_type: str, number: int, index: int) -> None:
    def holds(term: Term) -> bool:
        if term.type is None:
            return True
        last = 10**9 if term.last is None else term.last
        return term.type == block_type and number in range(term.first, last + 1) and term.index in (None, index)

    included = [holds(t) for t in address.terms if not t.exclude]
    excluded = [holds(t) for t in address.terms if t.exclude]
    wanted = (any(included) or not included) and not any(excluded)
    kind = "self" if address.kind == "all" else address.kind
    assert address.matches(block_type, number, index, kind) is wanted
    assert not Address(address.terms, "cross").matches(block_type, number, index, "self")


def test_the_blocks_of_a_unet_are_listed_in_order() -> None:
    blocks = model_blocks(patcher())
    assert [str(info.id) for info in blocks] == BLOCKS
    assert {(info.heads, info.dim_head) for info in blocks} == {(4, 8), (4, 16)}


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("all", BLOCKS),
        ("middle", ["middle"]),
        ("input:3", ["input:3", "input:3.1"]),
        ("o0.1, m", ["middle", "output:0.1"]),
        ("output:2-, !output:3", ["output:2"]),
        ("!output", ["input:1", "input:3", "input:3.1", "middle"]),
    ],
)
def test_an_address_selects_blocks_of_a_model(text: str, chosen: list[str]) -> None:
    assert [str(info.id) for info in select(parse(text), patcher())] == chosen


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("input:4", 0),
        ("output:7-9", 0),
        ("middle.1", 0),
        ("output:3.1", 0),
        ("double:0", 0),
        ("all, m, !input:2", 8),
        ("i1,m,o99 self", 5),
    ],
)
def test_an_impossible_block_is_refused_with_what_the_model_has(text: str, column: int) -> None:
    with pytest.raises(AddressError, match=r"it has input:1, input:3 \(\.0-\.1\), middle, output:0") as caught:
        select(parse(text), patcher())
    first, shown, caret = str(caught.value).split("\n")
    assert f"column {column + 1}:" in first
    assert shown == f"  {text}"
    assert caret.index("^") == column + 2


def test_excluding_everything_is_refused() -> None:
    with pytest.raises(AddressError, match="excludes every block"):
        select(parse("all, !all"), patcher())


def test_a_model_without_blocks_takes_only_all() -> None:
    other = SimpleNamespace(model=SimpleNamespace(diffusion_model=SimpleNamespace()))
    assert select(parse("all"), other) == []
    for text in ("middle", "all self", "all, !input:1"):
        with pytest.raises(AddressError, match="SimpleNamespace models tell no blocks .* write 'all'"):
            select(parse(text), other)
