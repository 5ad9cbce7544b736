"""Rotary positions of a transformer's queries and keys: off, and on again, as if what is between came before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..addressing.families import HIDDEN, JOINT, JOINT_INPUT, Family
from ..patcher import TransformerOptions
from .marks import KeywordMark

POSITIONS = "patchbay_positions"  # in the options of a call: where blocks tell the positions of their attention
TURNS = "turns"  # the key of what they tell
TELLING = (JOINT, JOINT_INPUT, HIDDEN)  # contracts by which a family's blocks tell them


@dataclass(frozen=True)
class Positions:
    """A rotation of each pair of channels for each token, (n, d / 2, 2, 2).

    `halves`: a pair is a channel of the first half and one of the second; else they are neighbours.
    """

    turns: Tensor
    halves: bool = False

    def fit(self, x: Tensor) -> bool:
        """Return whether they are those of tokens (b, h, n, d)."""
        return x.shape[2:] == (len(self.turns), 2 * self.turns.shape[1])

    def of(self, part: slice) -> Positions:
        """Return those of a part of the sequence."""
        return Positions(self.turns[part], self.halves)

    def off(self, x: Tensor) -> Tensor:
        """Return tokens (b, h, n, d) as they were before their positions, in the precision of the rotations.

        In that of half of it, going off and on would round each number twice.
        """
        return self._turned(x, self.turns.transpose(-1, -2))  # the inverse of a rotation

    def on(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return tokens with their positions, or with those of the tokens `kept`, (n,) or (b, n)."""
        return self._turned(x, self.turns if kept is None else self.turns[kept])

    def _turned(self, x: Tensor, turns: Tensor) -> Tensor:
        pairs = x.to(turns.dtype)
        pairs = pairs.unflatten(-1, (2, -1)).transpose(-1, -2) if self.halves else pairs.unflatten(-1, (-1, 2))
        turns = turns if turns.ndim == 4 else turns[:, None]  # the same for all heads
        out = turns[..., 0] * pairs[..., :1] + turns[..., 1] * pairs[..., 1:]
        flat: Tensor = (out.transpose(-1, -2) if self.halves else out).flatten(-2)
        return flat


class Telling(KeywordMark):
    """An attn1_patch before the positions, which notes what they are."""

    def __call__(  # type: ignore[override]
        self, q: Tensor, k: Tensor, v: Tensor, *, pe: Any, attn_mask: object, extra_options: TransformerOptions
    ) -> dict[str, Tensor]:
        told = extra_options.get(POSITIONS)
        if told is not None:
            told[TURNS] = pe
        return {}


TELL = Telling("self")


def positions_of(options: TransformerOptions, family: Family, total: int) -> Positions | None:
    """Return the positions of a sequence of so many tokens; None where its block has not told them."""
    turns = options.get(POSITIONS, {}).get(TURNS)
    if not isinstance(turns, Tensor) or turns.ndim < 4 or turns.shape[-2:] != (2, 2):
        return None
    turns = turns[:1].reshape(-1, *turns.shape[-3:])  # those of all rows are the same
    return Positions(turns[:total], family.calls == HIDDEN) if len(turns) >= total else None
