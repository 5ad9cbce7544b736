"""The transformer blocks of a loaded model, and those that an address selects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..patcher import Patcher
from .address import Address, AddressError, BlockId, Term, address_error
from .families import UNET, Family, blocks_of, family_of, head_shape, is_unet

Targets = tuple[tuple[BlockId, str | None], ...]  # blocks, each with a kind of attention
UNET_TYPES = ("input", "middle", "output")
WHOLE = [Term(type, exclude=out) for type in ("input", "output") for out in (False, True)]
WHOLE += [Term("middle", 0, 0, exclude=out) for out in (False, True)]


@dataclass(frozen=True)
class BlockInfo:
    """A transformer block of a loaded model, with the heads and the head dim of its self-attention."""

    id: BlockId
    heads: int
    dim_head: int


def block_modules(net: Any, family: Family) -> Iterator[tuple[BlockId, Any]]:
    """Yield each transformer block of a network with its module, in the order they run; none for an unknown family."""
    if family.calls != UNET:
        yield from ((BlockId(type, number), block) for type, number, block in blocks_of(net, family))
        return
    middle = getattr(net, "middle_block", None)
    lists = (
        ("input", net.input_blocks),
        ("middle", [middle] if middle is not None else []),
        ("output", net.output_blocks),
    )
    for type, blocks in lists:
        for number, block in enumerate(blocks):
            for layer in (layer for layer in block if hasattr(layer, "transformer_blocks")):
                yield from ((BlockId(type, number, i), inner) for i, inner in enumerate(layer.transformer_blocks))


def model_blocks(model: Patcher) -> list[BlockInfo]:
    """List the transformer blocks of a model patcher in the order they run; empty for an unknown model family."""
    family = family_of(model)
    found = block_modules(model.model.diffusion_model, family)
    if family.calls != UNET:
        return [BlockInfo(id, *head_shape(block)) for id, block in found]
    return [BlockInfo(id, block.n_heads, block.d_head) for id, block in found]


def whole_blocks(model: Patcher) -> list[BlockInfo]:
    """List all blocks in the order they run: those of a UNet with or without attention, as blocks of no heads."""
    unet, inner = model.model.diffusion_model, model_blocks(model)
    if not inner or not is_unet(model):
        return inner
    ids = [BlockId("input", number) for number in range(len(unet.input_blocks))]
    ids += [BlockId("middle", 0)] if unet.middle_block is not None else []
    ids += [BlockId("output", number) for number in range(len(unet.output_blocks))]
    return [BlockInfo(id, 0, 0) for id in ids]


def select(address: Address, model: Patcher) -> list[BlockInfo]:
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
    text, columns = address.written
    ids = [info.id[:2] for info in blocks]
    found = [meant(term, ids) for term in address.terms]
    for term, column, terms in zip(address.terms, columns, found, strict=True):
        if not any(one.matches(*info.id) for info in blocks for one in terms):
            what = "" if address.kind == "block" else " with attention"
            raise address_error(text, column, f"this model has no block '{term}'{what}; it has {describe(blocks)}")
    wanted = Address(tuple(chain.from_iterable(found)), address.kind)
    chosen = [info for info in blocks if wanted.matches(*info.id, address.kind)]
    if not chosen:
        raise AddressError(f"'{address}' excludes every block; the model has {describe(blocks)}")
    return chosen


def meant(term: Term, ids: Sequence[tuple[str, int]]) -> list[Term]:
    """Return a term as a model has it, by type and number of its blocks: where it has none of a UNet's types, `middle`
    is the eighth of its blocks that runs in the middle, `input` those before and `output` those behind."""
    types = {type for type, _ in ids}
    if term.type not in UNET_TYPES or types & set(UNET_TYPES) or term not in WHOLE:
        return [term]
    start = (len(ids) - -(-len(ids) // 8)) // 2
    end = start + -(-len(ids) // 8)
    part = {"input": slice(0, start), "middle": slice(start, end), "output": slice(end, None)}[term.type]
    numbers: dict[str, list[int]] = {}
    for type, number in ids[part]:
        numbers.setdefault(type, []).append(number)
    return [Term(type, some[0], some[-1], None, term.exclude, term.column) for type, some in numbers.items()]


def meant_in(address: Address, model: Patcher) -> Address:
    """Return an address as a model has its terms; see `meant`."""
    ids = [info.id[:2] for info in whole_blocks(model)]
    return Address(tuple(chain.from_iterable(meant(term, ids) for term in address.terms)), address.kind)


def check_address(address: Address, model: Patcher) -> None:
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


def check_layers(address: Address, model: Patcher) -> None:
    """Raise AddressError for an address that no layers lie in; where it is of whole blocks the error lists those."""
    inside = address.kind != "all" or any(term.index is not None for term in address.terms)
    if inside or not whole_blocks(model):
        check_address(address, model)
    elif not address.everywhere:
        select(address.narrowed("block"), model)


def _check_kind(address: Address, family: Family) -> None:
    if address.kind in ("all", "block", *family.kinds):
        return
    joint, silent = "have one attention of text and picture, which counts as self", "do not tell self from cross"
    what = joint if family.kinds else silent
    raise AddressError(f"{family.name} models {what}; leave '{address.kind}' out of '{address}'")


def targets(address: Address, model: Patcher) -> Targets:
    """Return the blocks of a model that an address selects, each with every kind of attention that is meant.

    Raises AddressError like `select`.
    """
    kinds: tuple[str | None, ...] = (address.kind,) if address.kind != "all" else family_of(model).kinds or (None,)
    return tuple((info.id, kind) for info in select(address, model) for kind in kinds)


def describe(blocks: Sequence[BlockInfo]) -> str:
    """Name the blocks with attention and, where there are several, how many transformer blocks each holds."""
    depths: dict[str, int] = {}
    for info in blocks:
        name = str(BlockId(info.id.type, info.id.number))
        depths[name] = depths.get(name, 0) + 1
    return ", ".join(name if depth == 1 else f"{name} (.0-.{depth - 1})" for name, depth in depths.items())
