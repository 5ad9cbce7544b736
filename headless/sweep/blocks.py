"""`each(ADDRESS)` as the values of an axis: every block of a node's model that the address names, by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ldm_patched.files.checkpoint import CheckpointError
from ...ldm_patched.patches.addressing.address import AddressError, BlockId, parse
from ...ldm_patched.patches.addressing.blocks import model_blocks, select
from ...ldm_patched.patches.reading.block_map import block_map, rows
from ..api.folders import Folders
from ..engine.errors import Failure
from ..engine.models import loaded, loader_of
from ..engine.workflow import Prompt, find_node, short

Map = list[dict[str, Any]]  # the Block Map of a model as plain values


def each_block(prompt: Prompt, node: str, address: str, folders: Folders) -> tuple[tuple[str, ...], Map]:
    """Return the addresses of single blocks, and the map of the model they are of.

    A node whose `kind` is `block` gets whole blocks, any other those with attention. Raises Failure.
    """
    model = _model(prompt, node, folders)
    kind = prompt[find_node(prompt, node)]["inputs"].get("kind")
    try:
        chosen = select(parse(address).narrowed("block" if kind == "block" else "all"), model)
    except AddressError as error:
        raise Failure(f"each({short(address)}): {error}") from None
    all = [info.id for info in model_blocks(model)]
    return _names([info.id for info in chosen], all), rows(block_map(model))


def _names(chosen: Sequence[BlockId], all: Sequence[BlockId]) -> tuple[str, ...]:
    """Name blocks as a whole, or one by one those of which only some are meant."""
    found: dict[str, None] = {}
    for id in chosen:
        here = {one for one in all if one[:2] == id[:2]}
        name = str(BlockId(*id[:2]))
        found[name if here <= set(chosen) | {id} else f"{name}.{id.inner}"] = None
    return tuple(found)


def _model(prompt: Prompt, node: str, folders: Folders) -> Any:
    try:
        id = find_node(prompt, node)
    except ValueError as error:
        raise Failure(f"{short(node)}: {error}") from None
    loader = loader_of(prompt, id)
    try:
        model = None if loader is None else loaded(prompt[loader], folders)
    except CheckpointError as error:
        raise Failure(f"{short(node)}: {error}") from None
    if model is None:
        how = "its model file is not in --models here, or of no known family; write the blocks one by one instead"
        raise Failure(f"{short(node)}: each(...) asks what blocks there are, and {how}")
    return model
