"""Ways to weaken self-attention for guidance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .grid import blurred, over_time, token_grid
from .stack import Inner


@dataclass(frozen=True)
class Perturbed:
    """Every token attends to itself alone: perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377)."""

    name: str = "perturbed-attention"

    def attend(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Return the values themselves, what an identity attention matrix gives."""
        return v


@dataclass(frozen=True)
class SmoothedEnergy:
    """The queries are blurred over the picture: smoothed-energy guidance (Hong 2024, arXiv 2408.00760).

    `sigma` is the deviation of the Gaussian in tokens; infinity blurs to the mean. A finite blur leaves a video's
    attention over time as it is.

    Raises ValueError naming the value and the fix.
    """

    sigma: float = math.inf

    def __post_init__(self) -> None:
        if not self.sigma > 0.0:  # also for NaN
            raise ValueError(f"blur is {self.sigma}; give a number above 0, or inf for the mean over the picture")

    @property
    def name(self) -> str:
        """Describe the method."""
        return f"smoothed-energy {self.sigma:g}"

    def attend(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Attend with blurred queries."""
        if math.isinf(self.sigma):
            return inner(q.mean(dim=1, keepdim=True).expand_as(q), k, v)
        if over_time(q, options):
            return inner(q, k, v)
        return inner(blurred(q, token_grid(q.shape[1], options), self.sigma), k, v)
