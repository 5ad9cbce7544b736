"""Self-attention within tiles of the picture, after HyperTile (tfernd 2023, github.com/tfernd/HyperTile)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .draw import step_generator, step_number
from .gate import Gate
from .grid import PIECE, piece_grid
from .hook import Around, Hook, Host
from .schedule import Schedule
from .stack import Inner
from .targets import Address

PIXELS = 8  # of the picture in one latent pixel


@dataclass(frozen=True)
class TiledAttention:
    """Cut the picture into tiles around the self-attention in the blocks of `address` during `schedule`.

    `tile_size` is the least height and width of a tile, in pixels of the picture where a token is one latent pixel (8
    pixels). Deeper blocks of the UNet cut tiles of as many tokens, which cover more of the picture; a picture of less
    than two tiles stays whole. A side that the number of tiles does not divide has tiles that differ by one token.
    `swap` is among how many numbers of tiles each step draws, for rows and columns by themselves: the largest and
    those below it, so that the seams move. The draws are the same in every run. 1 takes the largest.

    The curve of the schedule widens the tiles: at 0.5 they are twice as wide. A tile_size of 0 changes nothing, to
    the bit.

    Raises ValueError naming the value and the fix.
    """

    tile_size: int = 256
    swap: int = 2
    address: Address = Address()
    schedule: Schedule = Schedule()
    kind: ClassVar[str] = "self"
    slot: ClassVar[str] = "attn1"

    def __post_init__(self) -> None:
        if self.tile_size != 0 and self.tile_size < PIXELS:
            raise ValueError(f"tile_size is {self.tile_size}; give 0 for no tiles, or at least {PIXELS} pixels")
        if self.swap < 1:
            raise ValueError(f"swap is {self.swap}; give 1 for a fixed number of tiles, or more to draw from")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether it can never change anything."""
        return self.tile_size == 0

    @property
    def name(self) -> str:
        """Describe it in one line."""
        swap = f" swap {self.swap}" if self.swap > 1 else ""
        return f"tiles of {self.tile_size}{swap} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the layer."""
        return [Around(self.slot, TileLayer(self, gate))]


def tile_count(size: int, tile: int, swap: int, generator: torch.Generator | None) -> int:
    """Return into how many tiles of at least `tile` tokens a side of `size` is cut; drawn from `swap` numbers."""
    largest = max(1, size // tile)
    least = max(1, largest - swap + 1)
    return int(torch.randint(least, largest + 1, (1,), generator=generator)) if least < largest else largest


def bands(size: int, count: int) -> list[tuple[slice, int]]:
    """Split a side into `count` tiles that differ by one at most: each part with tiles of one size, and how many."""
    small, larger = divmod(size, count)
    edge = larger * (small + 1)
    parts = [(slice(0, edge), larger), (slice(edge, size), count - larger)]
    return [(part, tiles) for part, tiles in parts if part.start < part.stop]


def cut(x: Tensor, rows: int, columns: int) -> Tensor:
    """Make tiles of a picture of tokens (b, h, w, c): (b * rows * columns, h / rows * w / columns, c)."""
    tiles = x.unflatten(2, (columns, -1)).unflatten(1, (rows, -1))  # (b, rows, h, columns, w, c)
    return tiles.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def join(tiles: Tensor, rows: int, columns: int, grid: tuple[int, int]) -> Tensor:
    """Put tiles of a grid (b * rows * columns, n, c) back into the picture (b, h, w, c)."""
    picture = tiles.unflatten(1, grid).unflatten(0, (-1, rows, columns)).transpose(2, 3)
    return picture.flatten(3, 4).flatten(1, 2)


@dataclass(frozen=True)
class TileLayer:
    """Tiles around the attention; the layers below get the grid of a tile."""

    tiling: TiledAttention
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.peek(extra_options)
        grid = piece_grid(q, extra_options) if weight else None
        counts = self._counts(grid, weight, extra_options) if grid else (1, 1)
        if grid is None or counts == (1, 1):
            if weight:
                self.gate.skip(extra_options, "the picture is one tile there")
            return inner(q, k, v)
        if k.shape[1] != q.shape[1]:
            raise ValueError(
                f"{self.tiling.name}: {q.shape[1]} queries and {k.shape[1]} keys are not the same picture; take this "
                "block out of it, or put this node behind the one that changed the keys"
            )
        self.gate.weight(extra_options)
        return tiled(inner, q, k, v, grid, counts, extra_options)

    def _counts(self, grid: tuple[int, int], weight: float, options: Mapping[str, Any]) -> tuple[int, int]:
        """Return the numbers of tiles in a column and in a row; all blocks of one size have the same in a step."""
        tile = max(1, int(self.tiling.tile_size / PIXELS / weight))
        generator = None
        if self.tiling.swap > 1:
            generator = step_generator(step_number(options, self.gate.memory(options)))
        rows, columns = (tile_count(size, tile, self.tiling.swap, generator) for size in grid)
        return rows, columns


def tiled(
    inner: Inner,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: tuple[int, int],
    counts: tuple[int, int],
    options: Mapping[str, Any],
) -> Tensor:
    """Attend within each tile of q, k, v (b, h * w, c); one call for all tiles of one size."""
    pictures = [x.unflatten(1, grid) for x in (q, k, v)]  # (b, h, w, c)
    bands_down = []
    for down, rows in bands(grid[0], counts[0]):
        bands_across = []
        for across, columns in bands(grid[1], counts[1]):
            tile = (down.stop - down.start) // rows, (across.stop - across.start) // columns
            q, k, v = (cut(x[:, down, across], rows, columns) for x in pictures)
            out = inner(q, k, v, {**options, PIECE: tile})
            bands_across.append(join(out, rows, columns, tile))
        bands_down.append(torch.cat(bands_across, dim=2))
    return torch.cat(bands_down, dim=1).flatten(1, 2)
