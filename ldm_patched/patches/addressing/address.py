"""Block addresses: text such as `input:4-8, !input:5 self`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import NamedTuple

from .refused import Refused, readable

BLOCK_TYPES = ("input", "middle", "output", "double", "single", "block")
SHOWN = 120  # characters of a text in an error
SHORT = {"i": "input", "m": "middle", "o": "output", "d": "double", "s": "single", "b": "block"}
KINDS = ("all", "self", "cross")
NARROWING = {"self": "self", "cross": "cross", "!self": "cross", "!cross": "self"}

_RANGE = r":?(?P<first>\d+)(?:(?P<dash>-)(?P<last>\d*))?"
_TERM = re.compile(rf"(?P<not>!?)(?:(?P<all>all|\*)|(?P<type>[a-z]+)(?:{_RANGE})?(?:\.(?P<index>\d+))?)")


class AddressError(Refused):
    """An address that cannot be read, or that names blocks the model lacks; `column` (from 0) and `reason` if known."""

    def __init__(self, message: str, column: int = 0, reason: str = "") -> None:
        super().__init__(message, "blocks")
        self.column = column
        self.reason = reason or message


class BlockId(NamedTuple):
    """One transformer block: its type, the number of the UNet block and its place within it."""

    type: str
    number: int
    inner: int = 0

    def __str__(self) -> str:
        name = self.type if self.type == "middle" else f"{self.type}:{self.number}"
        return f"{name}.{self.inner}" if self.inner else name


@dataclass(frozen=True)
class Term:
    """One part of an address: a block type with a range of numbers, or every block (`type` None).

    `column` is where the term stands in the text that a user typed.
    """

    type: str | None
    first: int = 0
    last: int | None = None
    index: int | None = None
    exclude: bool = False
    column: int = field(default=0, compare=False)

    def matches(self, type: str, number: int, index: int | None) -> bool:
        """Return whether a block lies in this term; a term with an index needs the block's own."""
        if self.type is None:
            return True
        inside = type == self.type and self.first <= number and (self.last is None or number <= self.last)
        return inside and self.index in (None, index)

    def __str__(self) -> str:
        return "!" * self.exclude + self._name()

    def _name(self) -> str:
        if self.type is None:
            return "all"
        if self.last is None:
            return self.type if self.first == 0 else f"{self.type}:{self.first}-"
        name = self.type if self.type == "middle" else f"{self.type}:{self.first}"
        if self.last > self.first:
            name += f"-{self.last}"
        return name if self.index is None else f"{name}.{self.index}"


@dataclass(frozen=True)
class Address:
    """A set of blocks: any included term and no excluded one, of self-attention, cross-attention or both (`all`)."""

    terms: tuple[Term, ...] = (Term(None),)
    kind: str = "all"
    typed: str = field(default="", compare=False)  # the text it was read from, for errors to point into

    def matches(self, type: str, number: int, index: int | None = None, kind: str | None = None) -> bool:
        """Return whether an attention call belongs to the address; an unknown kind (None) belongs to `all` only."""
        if self.kind not in ("all", kind):
            return False
        included = [term for term in self.terms if not term.exclude]
        excluded = (term for term in self.terms if term.exclude)
        inside = not included or any(term.matches(type, number, index) for term in included)
        return inside and not any(term.matches(type, number, index) for term in excluded)

    def narrowed(self, kind: str) -> Address:
        """Return the address for `self`- or `cross`-attention or whole `block`s only, or itself for `all`.

        Raises AddressError when it is narrowed to another kind already.
        """
        if kind == "all":
            return self
        if self.kind not in ("all", kind):
            what = "whole blocks" if kind == "block" else f"{kind}-attention"
            raise AddressError(
                f"the address '{self}' says {self.kind}, but this is for {what}; leave '{self.kind}' out"
            )
        return Address(self.terms, kind, self.typed)

    @property
    def written(self) -> tuple[str, list[int]]:
        """Return the address as it was typed, or as it is written where nobody typed it, and each term's column."""
        if self.typed:
            return self.typed, [term.column for term in self.terms]
        starts = [0]
        for term in self.terms[:-1]:
            starts.append(starts[-1] + len(f"{term}, "))
        return str(self), starts

    @property
    def everywhere(self) -> bool:
        """Return whether the address takes every call, of any kind and any block: it then fits every model."""
        return self.kind == "all" and all(term.type is None and not term.exclude for term in self.terms)

    def __str__(self) -> str:
        text = ", ".join(map(str, self.terms))
        return text if self.kind in ("all", "block") else f"{text} {self.kind}"


def parse(text: str) -> Address:
    """Read an address.

    Raises AddressError with the column and the ways to write a part.
    """
    terms: list[Term] = []
    kind = "all"
    for match in re.finditer(r"[^\s,]+", readable(text, "blocks")):
        word = match.group().lower()
        if word in NARROWING:
            if kind not in ("all", NARROWING[word]):
                raise address_error(
                    text, match.start(), "'self' and 'cross' exclude each other; leave both out for all attention"
                )
            kind = NARROWING[word]
        else:
            terms.append(_term(text, match.start(), word))
    if not terms and kind == "all":
        raise address_error(text, 0, "the address is empty; write 'all' for every block")
    return Address(tuple(terms) or (Term(None),), kind, text)


def _term(text: str, column: int, word: str) -> Term:
    match = _TERM.fullmatch(word)
    if match is None:
        raise address_error(
            text, column, f"cannot read {word!r}; write input:4, input:7-8, output:3.1, middle, double:0-18 or all"
        )
    exclude = bool(match["not"])
    if match["all"]:
        return Term(None, exclude=exclude, column=column)
    type = SHORT.get(match["type"], match["type"])
    if type not in BLOCK_TYPES:
        there = f"there are {', '.join(BLOCK_TYPES)}"
        is_kind = get_close_matches(match["type"], ("self", "cross"))  # mistyped
        hint = "the kinds of attention are self and cross" if is_kind else there
        raise address_error(text, column, f"unknown block {match['type']!r}; {hint}")
    index = int(match["index"]) if match["index"] else None
    if type == "middle":
        if match["dash"] or int(match["first"] or 0):
            raise address_error(
                text, column, "the middle is one block; write middle, or middle.1 for its second transformer"
            )
        return Term(type, 0, 0, index, exclude, column)
    if index is not None and (match["first"] is None or match["dash"]):
        raise address_error(text, column, f"'.{index}' needs one block before it; write {type}:3.{index}")
    if match["first"] is None:
        return Term(type, exclude=exclude, column=column)
    first = int(match["first"])
    last = first if not match["dash"] else int(match["last"]) if match["last"] else None
    if last is not None and last < first:
        raise address_error(text, column, f"the range {first}-{last} runs backwards; write {last}-{first}")
    return Term(type, first, last, index, exclude, column)


def address_error(text: str, column: int, reason: str) -> AddressError:
    """Return the error for a column (from 0) of an address, which shows the text there and points into it."""
    begin = max(0, column - SHOWN // 2) if len(text) > SHOWN else 0
    shown = re.sub(r"\s", " ", text[begin : begin + SHOWN])
    pointer = f"{' ' * (column - begin)}^"
    return AddressError(f"block address, column {column + 1}: {reason}\n  {shown}\n  {pointer}", column, reason)
