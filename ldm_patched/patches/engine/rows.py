"""What a call of a transformer holds of further prompts: rows of the batch, or columns behind its text.

The image of such a row is kept the same as that of the row it belongs to (`engine/views.py`), so it costs a row and
changes nothing by itself. Layers get its keys and values behind the text's own, as on a UNet (`engine/prompts.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..addressing.families import TEXT
from ..patcher import Executor, TransformerOptions
from .gate import Gate
from .prompts import Prompt

PREPARE_SAMPLING = "prepare_sampling"  # ComfyUI's name of the place
WANTED = "patchbay_more_prompts"  # in the options of a model: what asks for rows, in order
ROWS = "patchbay_rows"  # in the options of a call that has more prompts: its Rows, or its Columns


class Rows(NamedTuple):
    """What the rows of a call are: first its own, then a chunk for each prompt and each chunk that is positive.

    Args:
        base: rows of the call itself.
        positive: which of its chunks are positive.
        chunk: rows of each chunk.
        prompts: of each further prompt the number of the entry that asked for it, and its tokens.
        own: tokens of the call's own context.
        tokens: tokens to which all contexts were filled up.
        given: what the options said of the call itself.
        ends: whether the contexts end together, and not begin.
        pads: how many tokens of the network's own stand behind the call's context and that of each prompt.
        shown: of each prompt the places (m,) of the tokens in its text that its mask does not hide; None: all.
        seen: the same of the text of each positive chunk, where a method asks; none: all.
    """

    base: int
    positive: tuple[int, ...]
    chunk: int
    prompts: tuple[tuple[int, int], ...]
    own: int
    tokens: int
    given: dict[str, Any]
    ends: bool = False
    pads: tuple[int, ...] = ()
    shown: tuple[Tensor | None, ...] = ()
    seen: tuple[Sequence[int], ...] = ()

    @property
    def total(self) -> int:
        """Return how many rows there are."""
        return self.base + len(self.prompts) * len(self.positive) * self.chunk

    @property
    def uneven(self) -> bool:
        """Return whether any context was filled up."""
        return any(length != self.tokens for _, length in self.texts)

    @property
    def texts(self) -> list[tuple[slice, int]]:
        """Return the rows of the call itself and of each further prompt, and how many tokens their text has."""
        ends = range(self.base, self.total + 1, len(self.positive) * self.chunk)
        further = [(slice(*at), length) for at, (_, length) in zip(pairwise(ends), self.prompts, strict=True)]
        return [(slice(0, self.base), self.own), *further]

    def alone(self, rows: int) -> Rows:
        """Return what is true of so many rows that are like the call's own, without further prompts."""
        return self._replace(
            base=rows, positive=(0,), chunk=rows, prompts=(), given={}, pads=self.pads[:1], shown=(), seen=()
        )

    def hold(self, sizes: tuple[int, int, int]) -> bool:
        """Return whether so many rows, queries and keys are all texts to themselves, some of them filled up."""
        return self.uneven and sizes == (self.total, self.tokens, self.tokens)

    def more(self, x: Tensor) -> Tensor:
        """Return (base, ...) with the rows of the positive chunks again for each prompt."""
        return torch.cat([x, *[self.of_positive(x)] * len(self.prompts)])

    def of_positive(self, x: Tensor) -> Tensor:
        """Return the rows of the positive chunks."""
        return torch.cat([x[i * self.chunk : (i + 1) * self.chunk] for i in self.positive])

    def of_prompt(self, x: Tensor, place: int) -> Tensor:
        """Return the rows of one further prompt, a chunk for each positive one."""
        start = self.base + place * len(self.positive) * self.chunk
        return x[start : start + len(self.positive) * self.chunk]

    def beside_each(self, x: Tensor, place: int) -> Tensor:
        """Return the rows of one further prompt for all of the call's own; those of no positive chunk get the first."""
        chunks = self.of_prompt(x, place).split(self.chunk)
        places = [self.positive.index(i) if i in self.positive else 0 for i in range(self.base // self.chunk)]
        return torch.cat([chunks[i] for i in places])

    def lists(self, rows: int) -> dict[str, Any]:
        """Return what the options say of the chunks of so many rows: the call's own, or those of one further prompt."""
        if rows % self.base == 0:
            return self.given
        return {name: [some[i] for i in self.positive] for name, some in self.given.items()}

    def text(self, parts: dict[str, slice], length: int) -> dict[str, slice]:
        """Return the parts of a sequence for a text of fewer tokens than the contexts were filled up to."""
        text, missing = parts.get(TEXT), self.tokens - length
        if text is None:
            return parts
        own = slice(text.start + missing, text.stop) if self.ends else slice(text.start, text.stop - missing)
        return {**parts, TEXT: own}

    def lengths(self, parts: dict[str, slice]) -> list[int]:
        """Return how many tokens of a sequence each further prompt has to be looked at."""
        found = (self.text(parts, length)[TEXT] for _, length in self.prompts)
        shown = self.shown or (None,) * len(self.prompts)
        return [part.stop - part.start if some is None else len(some) for part, some in zip(found, shown, strict=True)]

    def beside(self, x: Tensor, place: int, parts: dict[str, slice]) -> Tensor:
        """Return the keys or values (b, h, n, d) of one further prompt for all of the call's own rows."""
        text = self.beside_each(x, place)[:, :, self.text(parts, self.prompts[place][1])[TEXT]]
        shown = self.shown[place] if self.shown else None
        return text if shown is None else text[:, :, shown]


class Columns(NamedTuple):
    """What stands behind the text of a call: `own` tokens are its own, then come those of each prompt.

    Args:
        prompts: of each further prompt the number of the entry that asked for it, and its tokens.
    """

    own: int
    prompts: tuple[tuple[int, int], ...]

    @property
    def tokens(self) -> int:
        """Return how many tokens there are."""
        return self.own + sum(self.lengths())

    def lengths(self, parts: Mapping[str, slice] | None = None) -> list[int]:
        """Return how many tokens each further prompt has."""
        return [length for _, length in self.prompts]

    def beside(self, x: Tensor, place: int, parts: Mapping[str, slice] | None = None) -> Tensor:
        """Return the keys or values (b, h, n, d) of one further prompt."""
        return x[:, :, self.at(place)]

    def at(self, place: int) -> slice:
        """Return where one further prompt stands."""
        start = self.own + sum(self.lengths()[:place])
        return slice(start, start + self.lengths()[place])


class Asking(Protocol):
    """What asks for rows: `MorePrompts`."""

    @property
    def gate(self) -> Gate: ...
    @property
    def prompts(self) -> tuple[Prompt | Tensor, ...]: ...
    @property
    def alike(self) -> bool: ...


def without_rows(options: TransformerOptions) -> set[int]:
    """Return the numbers of the entries whose further prompts have no rows in a call, as one of the negative alone."""
    rows: Rows | Columns | None = options.get(ROWS)
    given = {number for number, _ in rows.prompts} if rows is not None else set()
    return {one.gate.entry.number for one in options.get(WANTED, ())} - given


def estimate_rows(
    executor: Executor, model: Any, noise_shape: Sequence[int], conds: Any, model_options: Any = None, **kwargs: Any
) -> Any:
    """Let the host's estimate of memory know the rows that are asked for, one for each prompt and positive row.

    A wrapper for PREPARE_SAMPLING. The host counts two rows for each of the noise, so half of them are added.
    """
    asking: tuple[Asking, ...] = (model_options or {}).get("transformer_options", {}).get(WANTED, ())
    rows, *rest = noise_shape
    more = math.ceil(rows * sum(len(one.prompts) for one in asking) / 2)
    return executor(model, [rows + more, *rest], conds, model_options=model_options, **kwargs)
