"""Elementary changes of tokens (b, n, c); each blends from no change at weight 0 to the whole of it at 1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..addressing.grid import blurred
from ..addressing.refused import readable


class Gain(NamedTuple):
    """A factor for the channels from `first` to `last`; None: to the end."""

    first: int
    last: int | None
    factor: float


def scale(x: Tensor, value: float, weight: float) -> Tensor:
    """Multiply by 1 + (value - 1) * weight."""
    return x * (1.0 + (value - 1.0) * weight)


def temperature(x: Tensor, value: float, weight: float) -> Tensor:
    """Divide queries or keys, and with them the scores before the softmax, by 1 + (value - 1) * weight."""
    return x / (1.0 + (value - 1.0) * weight)


def mean(x: Tensor, value: float, weight: float) -> Tensor:
    """Blend every token towards the mean over the tokens."""
    return torch.lerp(x, x.mean(dim=1, keepdim=True), weight)


def zero(x: Tensor, value: float, weight: float) -> Tensor:
    """Blend towards zero."""
    return x * (1.0 - weight)


def clamp(x: Tensor, value: float, weight: float) -> Tensor:
    """Blend towards the numbers cut off at -value and value."""
    return torch.lerp(x, x.clamp(-value, value), weight)


def noise(x: Tensor, value: float, weight: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise of `value` times the deviation of each row of the batch; the same noise in every row."""
    drawn = torch.randn(x.shape[1:], generator=generator).to(x)
    return x + weight * value * x.std(dim=(1, 2), keepdim=True) * drawn


def blur(x: Tensor, value: float, weight: float, grid: tuple[int, int]) -> Tensor:
    """Blend towards the tokens blurred over their grid by a Gaussian of deviation `value`."""
    return torch.lerp(x, blurred(x, grid, value), weight)


def shuffle(x: Tensor, weight: float, generator: torch.Generator) -> Tensor:
    """Blend towards the tokens in another order, the same for every row of the batch."""
    order = torch.randperm(x.shape[1], generator=generator).to(x.device)
    return torch.lerp(x, x[:, order], weight)


def gain(x: Tensor, gains: Sequence[Gain], weight: float) -> Tensor:
    """Multiply channels, each by 1 + (factor - 1) * weight."""
    factors = x.new_ones(x.shape[2])
    for one in gains:
        factors[one.first : None if one.last is None else one.last + 1] *= 1.0 + (one.factor - 1.0) * weight
    return x * factors


def towards(x: Tensor, other: Tensor, weight: float) -> Tensor:
    """Blend a context (b, n, c) towards another prompt (1 or b, m, c), which is repeated to the same length.

    Raises ValueError where m does not divide n.
    """
    if x.shape[1] % other.shape[1]:
        raise ValueError(
            f"the prompt to go towards has {other.shape[1]} tokens, the sampler's {x.shape[1]}; give prompts of the "
            "same length, or of the same number of 77-token parts"
        )
    return torch.lerp(x, other.to(x).repeat(1, x.shape[1] // other.shape[1], 1).expand_as(x), weight)


def parse_gains(text: str) -> tuple[Gain, ...]:
    """Read channels and their factors, such as `0:1.5, 4-7:0, 100-:0.5`.

    Raises ValueError naming the part and the way to write it.
    """
    return tuple(_gain(part.strip()) for part in readable(text, "channels").split(",") if part.strip())


def _gain(part: str) -> Gain:
    match = re.fullmatch(r"(?P<first>\d+)(?P<dash>-)?(?P<last>\d+)?\s*:\s*(?P<factor>[-+]?\d+(?:\.\d+)?)", part)
    if match is None or (match["last"] and not match["dash"]):
        raise ValueError(f"channels: cannot read {part!r}; write 0:1.5, 4-7:0 or 100-:0.5, separated by commas")
    first = int(match["first"])
    last = int(match["last"]) if match["last"] else None if match["dash"] else first
    if last is not None and last < first:
        raise ValueError(f"channels: the range {first}-{last} runs backwards; write {last}-{first}")
    return Gain(first, last, float(match["factor"]))
