"""Self-attention within tiles of the image, after HyperTile (tfernd 2023, github.com/tfernd/HyperTile)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import Refused, acts, method, whole
from ..engine.method import Method
from ..engine.site import Site
from ..engine.stack import Inner, merged, split

PIXELS = 8  # of the image in one latent pixel
VIDEO = "the tokens are those of a video, of which it knows no tiles"


@method(
    node="PatchbayTiledAttention",
    title="Tiled Attention (HyperTile)",
    text="Run self-attention within tiles of the picture: several times faster for large pictures. Tiles do not see "
    "each other there; the rest of the model joins them.",
    aliases=("HyperTile", "hyper tile", "tiled self-attention", "large pictures", "faster", "speed", "low vram"),
    gives="with tiled attention",
)
class TiledAttention(Method):
    """Cut the image into tiles around self-attention.

    `tile_size` is the least height and width of a tile, in pixels of the image where a token is one latent pixel (8
    pixels). Deeper blocks of the UNet cut tiles of as many tokens, which cover more of the image; an image of less
    than two tiles stays whole. A side that the number of tiles does not divide has tiles that differ by one token.
    `swap` is among how many numbers of tiles each step draws, for rows and columns by themselves: the largest and
    those below it, so that the seams move. The draws are the same in every run. 1 takes the largest.

    The curve of the schedule widens the tiles: at 0.5 they are twice as wide. A tile_size of 0 changes nothing, to
    the bit.
    """

    tile_size: int = whole(
        256,
        0,
        4096,
        step=8,
        tip="Least side of a tile in pixels of the picture, 8 to a token. Deeper blocks have tiles of as many tokens, "
        "which cover more of it. 0 changes nothing.",
    )
    swap: int = whole(
        2,
        1,
        128,
        tip="Among how many numbers of tiles each step draws, so that the seams move; 1 keeps the largest. The draws "
        "are the same in every run.",
    )
    where: Where = acts(kind="self")

    def check(self) -> None:
        """Refuse tiles that are none."""
        if self.tile_size != 0 and self.tile_size < PIXELS:
            raise Refused(
                f"tile_size is {self.tile_size}; give 0 for no tiles, or at least {PIXELS} pixels", "tile_size"
            )
        if self.swap < 1:
            raise Refused(f"swap is {self.swap}; give 1 for a fixed number of tiles, or more to draw from", "swap")

    @property
    def neutral(self) -> bool:
        """Return whether it can never change anything."""
        return self.tile_size == 0

    @property
    def pictured(self) -> bool:
        """Return that tiles are parts of a picture."""
        return True

    @property
    def piecemeal(self) -> bool:
        """Return that it attends with tiles."""
        return True

    @property
    def label(self) -> str:
        """Describe it."""
        swap = f" swap {self.swap}" if self.swap > 1 else ""
        return f"tiles of {self.tile_size}{swap}"

    def counts(self, site: Site) -> tuple[int, int]:
        """Return the numbers of tiles in a column and in a row; all blocks of one size have the same in a step."""
        if site.area is None:
            return 1, 1
        tile = max(1, int(self.tile_size / PIXELS / site.weight))
        generator = site.generator() if self.swap > 1 else None
        rows, columns = (tile_count(size, tile, self.swap, generator) for size in site.area)
        return rows, columns

    def idle(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return why there is nothing to cut."""
        if site.frames > 1:
            return VIDEO
        return "the picture is one tile there" if self.counts(site) == (1, 1) else None

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend within each tile of q, k, v (b, heads, h * w, d); one call for all tiles of one size."""
        if k.shape[2] != site.tokens:
            raise ValueError(
                f"{self.name}: {site.tokens} queries and {k.shape[2]} keys are not the same picture; take this "
                "block out of it, or put this node behind the one that changed the keys"
            )
        grid, counts = site.area, self.counts(site)
        assert grid is not None  # it would be idle
        images = [merged(x).unflatten(1, grid) for x in (q, k, v)]  # (b, h, w, c)
        bands_down = []
        for down, rows in bands(grid[0], counts[0]):
            bands_across = []
            for across, columns in bands(grid[1], counts[1]):
                tile = (down.stop - down.start) // rows, (across.stop - across.start) // columns
                cuts = [split(cut(x[:, down, across], rows, columns), q.shape[1]) for x in images]
                out = merged(inner(cuts[0], cuts[1], cuts[2], site.but(piece=tile)))
                bands_across.append(join(out, rows, columns, tile))
            bands_down.append(torch.cat(bands_across, dim=2))
        return split(torch.cat(bands_down, dim=1).flatten(1, 2), q.shape[1])


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
    """Make tiles of an image of tokens (b, h, w, c): (b * rows * columns, h / rows * w / columns, c)."""
    tiles: Tensor = x.unflatten(2, (columns, -1)).unflatten(1, (rows, -1))  # (b, rows, h, columns, w, c)
    return tiles.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def join(tiles: Tensor, rows: int, columns: int, grid: tuple[int, int]) -> Tensor:
    """Put tiles of a grid (b * rows * columns, n, c) back into the image (b, h, w, c)."""
    image: Tensor = tiles.unflatten(1, grid).unflatten(0, (-1, rows, columns)).transpose(2, 3)
    return image.flatten(3, 4).flatten(1, 2)
