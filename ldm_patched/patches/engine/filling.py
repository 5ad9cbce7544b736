"""Texts of several lengths in one batch: how far, where and with what the shorter ones are filled up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .tokens import Tokens


class Filling(NamedTuple):
    """To how many tokens all texts of a batch are filled up.

    Args:
        tokens: of each text when it is filled up.
        ends: whether all end together, so that what they lack stands in front of them.
        multiple: to a multiple of how many tokens the model fills up a text itself, which belong to the text.
    """

    tokens: int
    ends: bool = False
    multiple: int = 1

    def size(self, length: int) -> int:
        """Return how many tokens the model makes of so many."""
        return -(-length // self.multiple) * self.multiple

    def text(self, x: Tensor) -> Tensor:
        """Return a text (b, n, c) filled up with the mean of its tokens: HunyuanVideo reads that of all tokens."""
        front, behind = self._around(x.shape[1])
        mean = x.mean(1, keepdim=True)
        return torch.cat([mean.expand(-1, front, -1), x, mean.expand(-1, behind, -1)], dim=1)

    def mask(self, x: Tensor) -> Tensor:
        """Return the mask (b, n) of a text, which hides what that is filled up with."""
        return F.pad(x, self._around(x.shape[1]))

    def _around(self, length: int) -> tuple[int, int]:
        front = self.tokens - self.size(length) if self.ends else 0
        return front, self.tokens - length - front


def filling_of(made: Tokens | None, lengths: Sequence[int]) -> Filling:
    """Return how texts of these lengths are filled up in a call that makes such tokens.

    The filled texts never have as many tokens as an image or its references: outside of the blocks only that number
    tells the attention of the text.
    """
    if len(set(lengths)) == 1 or made is None:
        return Filling(max(lengths))
    one = Filling(0, made.ends, made.multiple)
    tokens, image = max(map(one.size, lengths)), made.image + made.padding
    while tokens in (made.image, image, made.references, image + made.references):
        tokens += made.multiple
    return one._replace(tokens=tokens)
