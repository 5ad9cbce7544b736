"""Backend rules as text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attention_patchbay.ldm_patched.patches.addressing.address import Address, Term, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.routing.rule import BACKENDS, Rule
from attention_patchbay.ldm_patched.patches.routing.rules import RuleError, parse_rules, rules_text
from hypothesis import given
from hypothesis import strategies as st

SHARED = json.loads((Path(__file__).parents[2] / "data" / "rules.json").read_text())


def test_the_rules_of_a_text_come_in_its_order() -> None:
    rules = parse_rules("input:4-8 self 0-50% -> sage; output !self -> pytorch  # comment -> auto\n\n* -> Auto;")
    assert rules == (
        Rule("sage", Where(parse("input:4-8 self"), Schedule(0.0, 0.5))),
        Rule("pytorch", Where(parse("output cross"))),
        Rule("auto", Where(Address())),
    )
    assert parse_rules("") == parse_rules(" \n# nothing\n;;") == ()


def test_a_window_is_no_range_of_blocks() -> None:
    (rule,) = parse_rules("i4-8, 12.5-50%, o3 -> split")
    assert rule == Rule("split", Where(parse("input:4-8, output:3"), Schedule(0.125, 0.5)))
    assert parse_rules("100-100% * -> basic")[0].schedule == Schedule(1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("* -> pytorch\nmiddle sage", (2, 12), "'->' and a backend are missing"),
        ("* ->", (1, 5), "no backend after '->'"),
        ("* -> fast", (1, 6), "unknown attention function 'fast'"),
        ("* -> auto; foo:3 -> auto", (1, 12), "unknown block 'foo'"),
        ("  middle:2 -> auto", (1, 3), "the middle is one block"),
        ("-> auto", (1, 1), "the address is empty"),
        ("* 60-20% -> auto", (1, 3), "swap them"),
        ("* 0-200% -> auto", (1, 3), "from 0 to 1"),
        ("* 0-20% 30-40% -> auto", (1, 9), "one window"),
        ("self cross -> auto", (1, 6), "exclude each other"),
        ("* -> auto -> split", (1, 6), "unknown attention function"),
    ],
)
def test_an_error_points_at_its_column(text: str, place: tuple[int, int], reason: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse_rules(text)
    message = str(caught.value)
    assert message.startswith(f"rules, line {place[0]}, column {place[1]}: ") and reason in message
    shown, caret = message.splitlines()[-2:]
    assert shown[2:] == text.splitlines()[place[0] - 1] and caret.index("^") == place[1] + 1


rooms = st.sampled_from(["input", "output", "double", "single", "block"])
terms = st.one_of(
    st.builds(Term, rooms, st.integers(0, 40), st.none()),
    st.builds(lambda room, first, index: Term(room, first, first, index), rooms, st.integers(0, 40), st.integers(0, 9)),
    st.just(Term(None)),
    st.just(Term("middle", 0, 0)),
    st.builds(lambda room: Term(room, 3, 5, exclude=True), rooms),
)
addresses = st.builds(Address, st.lists(terms, min_size=1, max_size=4).map(tuple), st.sampled_from(["all", "self"]))
schedules = st.tuples(st.integers(0, 1000), st.integers(0, 1000)).map(
    lambda pair: Schedule(min(pair) / 1000, max(pair) / 1000)
)
rules = st.builds(lambda *given: Rule(given[0], Where(*given[1:])), st.sampled_from(BACKENDS), addresses, schedules)


@given(st.lists(rules, max_size=5).map(tuple))
def test_what_is_written_is_read_again(rules: tuple[Rule, ...]) -> None:
    assert parse_rules(rules_text(rules)) == rules


@given(st.text("i4:-.!,;%>#* \nauto0123456789self", max_size=60))
def test_any_text_is_read_or_refused_with_its_place(text: str) -> None:
    try:
        parse_rules(text)
    except RuleError as error:
        assert "column" in str(error)


@pytest.mark.parametrize(("text", "rules"), SHARED["right"])
def test_the_page_and_the_nodes_read_rules_alike(text: str, rules: list[list[str]]) -> None:
    found = parse_rules(text)
    assert [rule.backend for rule in found] == [backend for _, _, backend in rules]
    assert [str(rule.address) for rule in found] == [str(parse(address)) for address, _, _ in rules]
    windows = [tuple(float(end) / 100 for end in (window or "0-100%")[:-1].split("-")) for _, window, _ in rules]
    assert [(rule.schedule.start_percent, rule.schedule.end_percent) for rule in found] == windows


@pytest.mark.parametrize(("text", "line", "column"), SHARED["wrong"])
def test_the_page_and_the_nodes_refuse_rules_alike(text: str, line: int, column: int) -> None:
    with pytest.raises(RuleError, match=f"^rules, line {line}, column {column}: "):
        parse_rules(text)
