"""The blocks of a model as a map: where each lies, what attention it holds, and how large its tokens are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..addressing.address import Address, BlockId
from ..addressing.blocks import BlockInfo, meant, model_blocks, whole_blocks
from ..addressing.families import BOTH, UNET, family_of
from ..engine.choice import function_name
from ..engine.preferred import preferences
from ..patcher import Patcher
from ..record.run import AttentionId
from .report import Row, layout

COLUMNS = ("block", "depth", "heads", "token", "tokens", "chosen")


class MapBlock(NamedTuple):
    """One block of a model.

    Args:
        depth: transformer blocks in it; 0 without attention.
        factor: latent pixels along the side of a token; 0 where that is not known.
        prefers: the functions that the checkpoint asks for in its layers, by kind of attention; empty for none.
    """

    type: str
    number: int
    depth: int
    heads: int
    dim_head: int
    factor: int
    prefers: str = ""

    @property
    def name(self) -> str:
        """Return the address of the block."""
        return str(BlockId(self.type, self.number))

    def grid(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """Return height and width in tokens for a latent of `size`, None where they are not known."""
        if size is None or self.factor == 0:
            return None
        height, width = size
        return -(-height // self.factor), -(-width // self.factor)


def block_map(model: Patcher, asked: Mapping[AttentionId, str] | None = None) -> list[MapBlock]:
    """Return every block of a model patcher in the order they run; empty for an unknown family.

    `asked` names the functions that its checkpoint asks for; None: as the host has loaded them.
    """
    inner = model_blocks(model)
    if asked is None:
        found = preferences(model.model.diffusion_model)
        asked = {attention: function_name(function) for attention, function in found.items()}
    places = whole_blocks(model) or inner
    factors = _factors(model.model.diffusion_model) if family_of(model).calls == UNET else {}
    blocks = []
    for place in places:
        here = [info for info in inner if info.id[:2] == place.id[:2]]
        heads, dim_head = (here[0].heads, here[0].dim_head) if here else (0, 0)
        factor, prefers = factors.get(place.id[:2], 0), _prefers(here, asked)
        blocks.append(MapBlock(*place.id[:2], len(here), heads, dim_head, factor, prefers))
    return blocks


def _prefers(here: Sequence[BlockInfo], asked: Mapping[AttentionId, str]) -> str:
    """Say which functions the transformer blocks of one block ask for."""
    found = Counter((kind, asked[info.id, kind]) for kind in BOTH for info in here if (info.id, kind) in asked)
    some = {count: f" ({count} of {len(here)})" for count in found.values() if count < len(here)}
    return ", ".join(f"{kind} {name}{some.get(count, '')}" for (kind, name), count in found.items())


def _factors(unet: Any) -> dict[tuple[str, int], int]:
    """Return the factor of each UNet block, by the layers that halve and double the image."""
    factor, found = 1, {}
    for type, number, layers in _layers(unet):
        names = {layer.__class__.__name__ for layer in layers}
        factor *= 2 if "Downsample" in names else 1
        found[type, number] = factor
        factor //= 2 if "Upsample" in names else 1  # it comes last in its block
    return found


def _layers(unet: Any) -> Iterator[tuple[str, int, Iterable[Any]]]:
    yield from (("input", number, block) for number, block in enumerate(unet.input_blocks))
    yield "middle", 0, ()
    yield from (("output", number, block) for number, block in enumerate(unet.output_blocks))


def chosen(address: Address, blocks: Sequence[MapBlock]) -> list[str]:
    """Return the names of the blocks that an address selects at least in part."""
    ids = [(block.type, block.number) for block in blocks]
    wanted = Address(tuple(one for term in address.terms for one in meant(term, ids)), address.kind)
    return [
        block.name
        for block in blocks
        if any(wanted.matches(block.type, block.number, inner, address.kind) for inner in range(max(1, block.depth)))
    ]


def rows(blocks: Sequence[MapBlock], size: tuple[int, int] | None = None) -> list[Row]:
    """Return the map as plain values, with the token grid (height, width) for a latent of `size`."""
    return [{**block._asdict(), "name": block.name, "grid": block.grid(size)} for block in blocks]


def text(address: Address, blocks: Sequence[MapBlock], size: tuple[int, int] | None = None) -> str:
    """Return the map for reading."""
    if not blocks:
        return "This model tells no blocks; only the address 'all' fits it."
    names = chosen(address, blocks)
    lines = [list(COLUMNS), *(_row(block, block.name in names, size) for block in blocks)]
    if any(block.prefers for block in blocks):
        lines = [[*line, more] for line, more in zip(lines, ["prefers", *(one.prefers for one in blocks)], strict=True)]
    return "\n".join(layout(lines))


def _row(block: MapBlock, taken: bool, size: tuple[int, int] | None) -> list[str]:
    grid = block.grid(size)
    return [
        block.name,
        str(block.depth or "-"),
        f"{block.heads} x {block.dim_head}" if block.heads else "-",
        f"1/{block.factor}" if block.factor else "-",
        f"{grid[0]}x{grid[1]}" if grid and block.depth else "-",
        "yes" if taken else "",
    ]
