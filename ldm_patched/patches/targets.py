"""Block addresses: text such as `input:4-8, !input:5 self` and the blocks of a model that it selects."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .families import UNET, Family, blocks_of, family_of, head_shape

ROOMS = ("input", "middle", "output", "double", "single", "block")
SHORT = {"i": "input", "m": "middle", "o": "output", "d": "double", "s": "single", "b": "block"}
KINDS = ("all", "self", "cross")
NARROWING = {"self": "self", "cross": "cross", "!self": "cross", "!cross": "self"}

_RANGE = r":?(?P<first>\d+)(?:(?P<dash>-)(?P<last>\d*))?"
_TERM = re.compile(rf"(?P<not>!?)(?:(?P<all>all|\*)|(?P<room>[a-z]+)(?:{_RANGE})?(?:\.(?P<index>\d+))?)")


class AddressError(ValueError):
    """An address that cannot be read, or that names blocks the model lacks; `column` (from 0) and `reason` if known."""

    def __init__(self, message: str, column: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.column = column
        self.reason = reason or message


class BlockId(NamedTuple):
    """One transformer block: its room, the number of the UNet block and its place within it."""

    room: str
    number: int
    inner: int = 0

    def __str__(self) -> str:
        name = self.room if self.room == "middle" else f"{self.room}:{self.number}"
        return f"{name}.{self.inner}" if self.inner else name


@dataclass(frozen=True)
class Term:
    """One part of an address: a room with a range of numbers, or every block (`room` None)."""

    room: str | None
    first: int = 0
    last: int | None = None
    index: int | None = None
    exclude: bool = False

    def matches(self, room: str, number: int, index: int | None) -> bool:
        """Tell whether a block lies in this term; a term with an index needs the block's own."""
        if self.room is None:
            return True
        inside = room == self.room and self.first <= number and (self.last is None or number <= self.last)
        return inside and self.index in (None, index)

    def __str__(self) -> str:
        return "!" * self.exclude + self._name()

    def _name(self) -> str:
        if self.room is None:
            return "all"
        if self.last is None:
            return self.room if self.first == 0 else f"{self.room}:{self.first}-"
        name = self.room if self.room == "middle" else f"{self.room}:{self.first}"
        if self.last > self.first:
            name += f"-{self.last}"
        return name if self.index is None else f"{name}.{self.index}"


@dataclass(frozen=True)
class Address:
    """A set of blocks: any included term and no excluded one, of self-attention, cross-attention or both (`all`)."""

    terms: tuple[Term, ...] = (Term(None),)
    kind: str = "all"

    def matches(self, room: str, number: int, index: int | None = None, kind: str | None = None) -> bool:
        """Tell whether an attention call belongs to the address; an unknown kind (None) belongs to `all` only."""
        if self.kind not in ("all", kind):
            return False
        included = [term for term in self.terms if not term.exclude]
        excluded = (term for term in self.terms if term.exclude)
        inside = not included or any(term.matches(room, number, index) for term in included)
        return inside and not any(term.matches(room, number, index) for term in excluded)

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
        return Address(self.terms, kind)

    @property
    def everywhere(self) -> bool:
        """Tell whether the address takes every call, of any kind and any block: it then fits every model."""
        return self.kind == "all" and all(term.room is None and not term.exclude for term in self.terms)

    def __str__(self) -> str:
        text = ", ".join(map(str, self.terms))
        return text if self.kind in ("all", "block") else f"{text} {self.kind}"


def parse(text: str) -> Address:
    """Read an address.

    Raises AddressError with the column and the ways to write a part.
    """
    terms: list[Term] = []
    kind = "all"
    for match in re.finditer(r"[^\s,]+", text):
        word = match.group().lower()
        if word in NARROWING:
            if kind not in ("all", NARROWING[word]):
                raise _error(
                    text, match.start(), "'self' and 'cross' exclude each other; leave both out for all attention"
                )
            kind = NARROWING[word]
        else:
            terms.append(_term(text, match.start(), word))
    if not terms and kind == "all":
        raise _error(text, 0, "the address is empty; write 'all' for every block")
    return Address(tuple(terms) or (Term(None),), kind)


def _term(text: str, column: int, word: str) -> Term:
    match = _TERM.fullmatch(word)
    if match is None:
        raise _error(
            text, column, f"cannot read {word!r}; write input:4, input:7-8, output:3.1, middle, double:0-18 or all"
        )
    exclude = bool(match["not"])
    if match["all"]:
        return Term(None, exclude=exclude)
    room = SHORT.get(match["room"], match["room"])
    if room not in ROOMS:
        raise _error(text, column, f"unknown block {match['room']!r}; there are {', '.join(ROOMS)}")
    index = int(match["index"]) if match["index"] else None
    if room == "middle":
        if match["dash"] or int(match["first"] or 0):
            raise _error(text, column, "the middle is one block; write middle, or middle.1 for its second transformer")
        return Term(room, 0, 0, index, exclude)
    if index is not None and (match["first"] is None or match["dash"]):
        raise _error(text, column, f"'.{index}' needs one block before it; write {room}:3.{index}")
    if match["first"] is None:
        return Term(room, exclude=exclude)
    first = int(match["first"])
    last = first if not match["dash"] else int(match["last"]) if match["last"] else None
    if last is not None and last < first:
        raise _error(text, column, f"the range {first}-{last} runs backwards; write {last}-{first}")
    return Term(room, first, last, index, exclude)


def _error(text: str, column: int, reason: str) -> AddressError:
    shown = re.sub(r"\s", " ", text)
    return AddressError(f"block address, column {column + 1}: {reason}\n  {shown}\n  {' ' * column}^", column, reason)


@dataclass(frozen=True)
class BlockInfo:
    """A transformer block of a loaded model, with the heads and the head dim of its self-attention."""

    id: BlockId
    heads: int
    dim_head: int


def model_blocks(model: Any) -> list[BlockInfo]:
    """List the transformer blocks of a model patcher in the order they run; empty for an unknown model family."""
    net, family = model.model.diffusion_model, family_of(model)
    if family.calls != UNET:
        return [BlockInfo(BlockId(room, i), *head_shape(block)) for room, i, block in blocks_of(net, family)]
    middle = getattr(net, "middle_block", None)
    rooms = (
        ("input", net.input_blocks),
        ("middle", [middle] if middle is not None else []),
        ("output", net.output_blocks),
    )
    return [
        info for room, blocks in rooms for number, block in enumerate(blocks) for info in _infos(room, number, block)
    ]


def _infos(room: str, number: int, block: Iterable[Any]) -> list[BlockInfo]:
    layers = [layer for layer in block if hasattr(layer, "transformer_blocks")]
    return [
        BlockInfo(BlockId(room, number, index), inner.n_heads, inner.d_head)
        for layer in layers
        for index, inner in enumerate(layer.transformer_blocks)
    ]


def whole_blocks(model: Any) -> list[BlockInfo]:
    """List all blocks of a UNet patcher, with or without attention, in the order they run, as blocks of no heads."""
    unet = model.model.diffusion_model
    if family_of(model).calls != UNET or not model_blocks(model):
        return []
    ids = [BlockId("input", number) for number in range(len(unet.input_blocks))]
    ids += [BlockId("middle", 0)] if unet.middle_block is not None else []
    ids += [BlockId("output", number) for number in range(len(unet.output_blocks))]
    return [BlockInfo(id, 0, 0) for id in ids]


def select(address: Address, model: Any) -> list[BlockInfo]:
    """Return the blocks of a model that an address selects, in the order they run.

    These are transformer blocks, or the UNet's own where the address is narrowed to `block`.

    Raises AddressError when a part of it selects nothing, with the list of what the model has, or when the model has no
    block information.
    """
    blocks = whole_blocks(model) if address.kind == "block" else model_blocks(model)
    if not blocks:
        if address.everywhere:
            return []
        raise AddressError(
            f"{family_of(model).name} models tell no blocks that '{address}' names; write 'all' for them"
        )
    _check_kind(address, family_of(model))
    column = 0
    for term in address.terms:
        if not any(term.matches(*info.id) for info in blocks):
            what = "" if address.kind == "block" else " with attention"
            reason = f"this model has no block '{term}'{what}; it has {describe(blocks)}"
            raise _error(str(address), column, reason)
        column += len(f"{term}, ")
    chosen = [info for info in blocks if address.matches(*info.id, address.kind)]
    if not chosen:
        raise AddressError(f"'{address}' excludes every block; the model has {describe(blocks)}")
    return chosen


def check_address(address: Address, model: Any) -> None:
    """Raise AddressError, as `select` does, for an address that names neither transformer blocks nor whole blocks."""
    if address.everywhere:
        return
    try:
        select(address, model)
    except AddressError:
        if address.kind != "all" or not whole_blocks(model):
            raise
        with contextlib.suppress(AddressError):
            select(address.narrowed("block"), model)
            return
        raise


def _check_kind(address: Address, family: Family) -> None:
    if address.kind in ("all", "block", *family.kinds):
        return
    joint, silent = "have one attention of text and picture, which counts as self", "do not tell self from cross"
    what = joint if family.kinds else silent
    raise AddressError(f"{family.name} models {what}; leave '{address.kind}' out of '{address}'")


def targets(address: Address, model: Any) -> tuple[tuple[BlockId, str | None], ...]:
    """Return the blocks of a model that an address selects, each with every kind of attention that is meant.

    Raises AddressError like `select`.
    """
    kinds: tuple[str | None, ...] = (address.kind,) if address.kind != "all" else family_of(model).kinds or (None,)
    return tuple((info.id, kind) for info in select(address, model) for kind in kinds)


def describe(blocks: Sequence[BlockInfo]) -> str:
    """Name the blocks with attention and, where there are several, how many transformer blocks each holds."""
    depths: dict[str, int] = {}
    for info in blocks:
        name = str(BlockId(info.id.room, info.id.number))
        depths[name] = depths.get(name, 0) + 1
    return ", ".join(name if depth == 1 else f"{name} (.0-.{depth - 1})" for name, depth in depths.items())
