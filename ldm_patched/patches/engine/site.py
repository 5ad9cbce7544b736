"""One attention call as a method sees it, whatever model it comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..addressing.address import BlockId
from ..patcher import TransformerOptions
from ..record.run import Run, current_block, run_of
from .coordinates import PIXELS, places_of
from .gate import Gate
from .positions import Positions
from .sides import COND, chunks_of
from .timeline import Timeline, window_of
from .tokens import TOKENS, Tokens

T = TypeVar("T")
# In transformer_options, which hosts copy from call to call:
COUPLED = "cond_or_uncond_couple"  # other packs' name of the chunks that they have made of those of the call
EXTRA = "patchbay_extra_call"  # the call only serves a guidance or runs a reference
RECORDING = "patchbay_reference_recording"  # the call runs a reference, whose Tokens these are
HELD = "{} changed queries or keys that held their positions already: the result is not that of a change before them."
LENGTH = "patchbay_context"  # how many tokens of the context are its own, where methods appended others


class Beside(NamedTuple):
    """Keys and values (b, h, m, d) that stand beside those of a view, and what is added to their scores."""

    k: Tensor
    v: Tensor
    bias: Tensor | None = None  # (b or 1, h or 1, 1, m)

    def rows(self, some: slice) -> Beside:
        """Return what some rows of the batch have."""
        bias = self.bias if self.bias is None or len(self.bias) == 1 else self.bias[some]
        return Beside(self.k[some], self.v[some], bias)


@dataclass(frozen=True)
class Site:
    """Where an attention call stands: block, kind, rows, tokens, and what the layers around it have changed.

    q, k and v are (b, heads, n, dim_head). On a UNet every query is a token of the image; the keys of `self` are the
    image's too, those of `cross` the text's.

    Args:
        options: the transformer_options of the call.
        kind: `self`, `cross`, `joint` or `text`.
        batch: rows of the queries.
        tokens: queries in a row.
        gate: that of the method which looks at it.
        curve: the strength of the method's schedule now.
        weight: the same times the method's strength.
        positioned: whether positions are already in q and k.
        positions: those positions, where the model tells.
        piece: height and width of the tile that the tokens are, where a layer further out cut the image.
        cut: a patch of others cut the image in a way that nobody knows.
        length: columns of the sampler's own context in keys and values; None: all.
        swapped: another prompt stands in the place of the sampler's.
        left_out: positions in the context whose keys and values a layer further out took away.
        fewer: height and width of the image's tokens among the keys, where a layer further out made them fewer.
        changed_by: the name of the method further out that last changed the number of tokens or keys.
        bias: what a mask of the call adds to the scores of its own keys (b or 1, h or 1, 1, m); None: nothing.
        beside: the keys and values of the same softmax that the method does not get.
        appended: by number of the entry, tokens of each of its further prompts where the model made others of them.
    """

    options: TransformerOptions
    kind: str = "self"
    batch: int = 1
    tokens: int = 0
    gate: Gate | None = None
    curve: float = 1.0
    weight: float = 1.0
    positioned: bool = False
    positions: Positions | None = None
    piece: tuple[int, int] | None = None
    cut: bool = False
    length: int | None = None
    swapped: bool = False
    left_out: frozenset[int] = frozenset()
    fewer: tuple[int, int] | None = None
    changed_by: str = ""
    bias: Tensor | None = None
    beside: tuple[Beside, ...] = ()
    appended: Mapping[int, Sequence[int]] = field(default_factory=dict)

    def but(self, **changes: Any) -> Site:
        """Return the site with what is different for the layers further in."""
        return replace(self, **changes)

    def kept(self, tokens: int) -> list[int]:
        """Return the positions in a context of so many tokens that no layer took away."""
        return [one for one in range(tokens) if one not in self.left_out]

    @property
    def block(self) -> BlockId | None:
        """Return the block, where the model says."""
        return current_block(self.options)

    @property
    def heads(self) -> int:
        """Return the heads of the attention."""
        heads: int = self.options["n_heads"]
        return heads

    @property
    def run(self) -> Run | None:
        """Return the run that the call belongs to."""
        return run_of(self.options)

    @property
    def extra(self) -> bool:
        """Return whether the call only serves a guidance or runs a reference."""
        return EXTRA in self.options

    @property
    def of_reference(self) -> bool:
        """Return whether the rows are references and no images of the run."""
        return RECORDING in self.options

    @property
    def partial(self) -> bool:
        """Return whether the call sees only an area of the run's latent."""
        size = None if self.run is None else self.run.size
        return size is not None and tuple(self.options.get("original_shape", size)[-2:]) != size

    # Rows

    @property
    def chunks(self) -> list[int]:
        """Return what each equal chunk of the batch is: COND, UNCOND or OTHER."""
        coupled: list[int] | None = self.options.get(COUPLED)
        if coupled and self.batch != self.options["activations_shape"][0]:
            return coupled
        return chunks_of(self.options)

    @property
    def parts(self) -> int:
        """Return how many equal chunks there are in the batch."""
        return len(places_of(self.options))

    def rows(self, part: int = COND) -> list[slice]:
        """Return the rows of each chunk of the batch that is `part`."""
        chunks = self.chunks
        size = self.batch // len(chunks)
        return [slice(i * size, (i + 1) * size) for i, current in enumerate(chunks) if current == part]

    # Tokens

    @property
    def image(self) -> slice:
        """Return which queries are tokens of the image."""
        return slice(None)

    @property
    def text(self) -> slice | None:
        """Return which keys are tokens of the sampler's prompt; None where the text is no part of the call."""
        return slice(self.length) if self.kind == "cross" else None

    @property
    def reference(self) -> slice | None:
        """Return which keys are tokens of a reference image; None where the model has none."""
        return None

    @property
    def over_time(self) -> bool:
        """Return whether the tokens are the frames of a video, with its pixels in the batch."""
        if self.piece is not None or self.cut or TOKENS in self.options:
            return False
        # a video UNet attends over time with the frames as tokens and each pixel as a row
        frames, _, height, width = self.options["activations_shape"]
        return bool(height * width != self.tokens and self.batch * self.tokens == frames * height * width)

    @property
    def frames(self) -> int:
        """Return how many images follow one another in the tokens of a row."""
        tokens: Tokens | None = self.options.get(TOKENS)
        return 1 if tokens is None or self.piece is not None else tokens.grid[0]

    def each_frame(self, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return tokens (b, frames * n, c) with those of each frame, (b * frames, n, c), changed."""
        changed: Tensor = change(x.unflatten(1, (self.frames, -1)).flatten(0, 1)).unflatten(0, (len(x), -1))
        return changed.flatten(1, 2)

    @property
    def by_frame(self) -> Site:
        """Return the site of attention over time as if its rows were the frames, and its tokens their pixels."""
        rows, _, height, width = self.options["activations_shape"]
        return self.but(batch=rows, tokens=height * width)

    @property
    def timeline(self) -> Timeline:
        """Return the frames of the latent and which of them the call has; a UNet's are the pictures of the batch."""
        tokens: Tokens | None = self.options.get(TOKENS)
        if tokens is not None:
            return tokens.time.in_window(self.options)
        if PIXELS in self.options and self.run is not None:
            return Timeline(self.run.pictures or 1)
        return Timeline(self.batch // self.parts).in_window(self.options)

    @property
    def image_grid(self) -> tuple[int, int]:
        """Return height and width of the tokens of one frame.

        Raises ValueError where another patch has changed their number, or they are those of a video.
        """
        tokens: Tokens | None = self.options.get(TOKENS)
        if tokens is not None and not tokens.flat and tokens.image == self.tokens:
            return tokens.grid[1], tokens.grid[2]
        if "activations_shape" not in self.options and self.changed_by:
            raise ValueError(
                f"{self._where}: {self.tokens} tokens are not those of the picture, {self.changed_by} merged, cut or "
                "added some; take the block out of one of the two nodes"
            )
        if "activations_shape" not in self.options:
            raise ValueError(
                f"{self._where}: {self.tokens} tokens are no single picture; it needs one, without frames or reference "
                "pictures"
            )
        height, width = self.options["activations_shape"][-2:]
        if height * width != self.tokens:
            others = "" if self.run is None else self.run.others.get("attn1_patch")
            by = self.changed_by or others or "another node"
            raise ValueError(
                f"{self._where}: {self.tokens} tokens are no {height}x{width} picture, {by} merged, cut or added some; "
                "take the block out of one of the two nodes, or put this one after the other"
            )
        return height, width

    @property
    def _where(self) -> str:
        """Name the method and the block, for an error."""
        return f"{'this' if self.gate is None else self.gate.entry.name} in {self.block or 'this block'}"

    @property
    def key_grid(self) -> tuple[int, int]:
        """Return height and width of the image's tokens among the keys, where they come first; see `image_grid`."""
        return self.fewer or self.image_grid

    @property
    def area(self) -> tuple[int, int] | None:
        """Return height and width of what the layer gets: the whole image, or one tile of it.

        None in a video model's attention over time. Raises ValueError where another patch has changed the tokens.
        """
        if self.piece is not None and math.prod(self.piece) == self.tokens:
            return self.piece
        return None if self.over_time else self.image_grid

    @property
    def grid(self) -> tuple[int, int, int]:
        """Return frames, height and width of the tokens of one row; raises ValueError like `area`."""
        area = self.area
        return (self.tokens, 1, 1) if area is None else (self.frames, *area)

    @property
    def layout(self) -> str:
        """Return what a mask at the tokens (`at_tokens.py`) hangs on beside itself, as a part of a key for `once`."""
        grid = None if self.over_time else self.image_grid
        return f"{self.frames} {grid} {self.batch} {self.parts} {self.tokens} {window_of(self.options)}"

    @property
    def pictures(self) -> Tensor:
        """Return which picture of the latent each row is (b,); the frames of a UNet's video are its pictures."""
        pixels: Tensor | None = self.options.get(PIXELS)
        if pixels is not None:
            return pixels[:, 0, 0, 0].long()
        picture = torch.arange(self.batch) % (self.batch // self.parts)
        here = None if TOKENS in self.options else self.timeline.here
        return picture if here is None else torch.tensor(here)[picture]

    # Positions

    def bare(self, x: Tensor) -> Tensor:
        """Return queries or keys (b, h, n, d) without their positions, where the model tells those.

        Where it does not, they are as they are, and the report says so.
        """
        if not self.positioned or self.positions is None or not self.positions.fit(x):
            if self.positioned and self.run is not None:
                self.run.notes.add(HELD.format("A method" if self.gate is None else self.gate.entry.name))
            return x
        return self.positions.off(x)

    def before_positions(
        self, x: Tensor, change: Callable[[Tensor], Tensor], kept: Callable[[], Tensor] | None = None
    ) -> Tensor:
        """Return queries or keys (b, h, n, d) with a change that acts before their positions; see `bare`.

        Where they become fewer, `kept` tells the tokens, (m,) or (b, m), whose positions they get.
        """
        changed = change(self.bare(x))
        if self.positions is None or not self.positions.fit(x):
            return changed
        return self.positions.on(changed, None if kept is None else kept()).to(x.dtype)

    # The run

    @property
    def memory(self) -> dict[str, Any]:
        """Return what the method keeps during the run, in all its blocks; empty outside of one."""
        return {} if self.gate is None else self.gate.memory(self.options)

    def once(self, key: str, make: Callable[[], T]) -> T:
        """Return what `make` gives, made once in a run for each key; anew for a part of the image."""
        memory = self.memory
        if PIXELS in self.options:  # tiles can be elsewhere in each step
            return make()
        if key not in memory:
            memory[key] = self.lasting(make)
        made: T = memory[key]
        return made

    def lasting(self, make: Callable[[], T]) -> T:
        """Return what `make` gives, which may outlive the block."""
        return make() if self.gate is None else self.gate.lasting(make)

    def skip(self, reason: str) -> None:
        """Note why the method cannot act here; the report shows the last reason."""
        if self.gate is not None:
            self.gate.skip(self.options, reason)

    @property
    def step(self) -> int:
        """Return the step of the run, from 1; 0 where the host does not tell."""
        return 0 if self.run is None else self.run.step(self.options)

    def generator(self) -> torch.Generator:
        """Return a generator on the CPU, the same for each call of a step in every run and host."""
        return torch.Generator().manual_seed(max(0, self.step - 1))

    def over(self, h: Tensor) -> Site:
        """Return the site with the pixels of what a UNet block hands on, (b, c, h, w), as its tokens."""
        options = {**self.options, "activations_shape": list(h.shape)}
        return self.but(options=options, tokens=h.shape[-2] * h.shape[-1])
