"""Statistics of repeated cells: paired differences, Student's t, Holm's correction, and Bradley-Terry scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LEVEL = 0.95  # of every interval
NORMAL = 1.959963984540054  # the normal distribution stays within this with the chance LEVEL
TIE = 0.5  # of a win for each side
PRIOR = 0.5  # of a win, and of a loss, against a setting of mean strength: whoever won or lost all stays finite


class Scale(NamedTuple):
    """What a measure is where nothing differs, and the least and the most that it can be."""

    neutral: float = 0.0
    least: float = -math.inf
    most: float = math.inf


DIFFERENCE = Scale()  # of times, to either side


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval of `LEVEL`, and the chance `p` of one as far from neutral if the true mean were that.

    `low`, `high` and `p` are None for a single value, of which nothing is known beside itself.
    """

    n: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def estimate(values: Sequence[float], scale: Scale = DIFFERENCE) -> Estimate | None:
    """Return the mean of independent values, by Student's t, its interval within the scale; None without any."""
    n = len(values)
    if n == 0:
        return None
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    if n == 1:
        return Estimate(1, mean)
    error = float(x.std(ddof=1)) / math.sqrt(n)
    if error == 0.0:  # every value is the same
        return Estimate(n, mean, mean, mean, 1.0 if mean == scale.neutral else 0.0)
    reach = t_quantile(LEVEL, n - 1) * error
    low, high = max(mean - reach, scale.least), min(mean + reach, scale.most)
    return Estimate(n, mean, low, high, 1.0 - t_within(abs(mean - scale.neutral) / error, n - 1))


def t_within(t: float, degrees: int) -> float:
    """Return the chance that Student's t lies within -t and t (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    square = math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= square * (k - 1) / k
        total += term
    if odd:
        return min(1.0, 2.0 / math.pi * (angle + math.sin(angle) * total))
    return min(1.0, math.sin(angle) * total)


def t_quantile(level: float, degrees: int) -> float:
    """Return the t that Student's t stays within with the chance `level`."""
    low, high = 0.0, 1.0
    while t_within(high, degrees) < level:
        high *= 2.0
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if t_within(middle, degrees) < level else (low, middle)
    return high


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """Return chances corrected for how many there are (Holm, 1979); None stays None and does not count."""
    places = sorted((p, place) for place, p in enumerate(chances) if p is not None)
    found: list[float | None] = [None] * len(chances)
    most = 0.0
    for rank, (p, place) in enumerate(places):
        most = max(most, min(1.0, p * (len(places) - rank)))
        found[place] = most
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Return the median and the quartiles around it, as low, median, high; None without values."""
    if not values:
        return None
    low, middle, high = np.quantile(np.asarray(values, dtype=np.float64), (0.25, 0.5, 0.75))
    return float(low), float(middle), float(high)


def scores(wins: np.ndarray) -> list[Estimate]:
    """Return the Bradley-Terry score of each setting as log odds against the mean of all, with its interval.

    Args:
        wins: (n, n), how often the setting of a row was chosen over that of a column; a tie is `TIE` for each.
    """
    n = len(wins)
    games = wins + wins.T
    won = wins.sum(axis=1) + PRIOR
    theta = np.zeros(n)
    for _ in range(100):  # Newton's steps on a concave likelihood
        chance = 1.0 / (1.0 + np.exp(theta[None] - theta[:, None]))  # (n, n) that a row beats a column
        alone = 1.0 / (1.0 + np.exp(-theta))  # (n,) against the mean
        slope = won - (games * chance).sum(axis=1) - 2 * PRIOR * alone
        weight = games * chance * (1.0 - chance)
        bend = np.diag(weight.sum(axis=1) + 2 * PRIOR * alone * (1.0 - alone)) - weight
        step = np.linalg.solve(bend, slope)
        theta = theta + np.clip(step, -1.0, 1.0)
        if np.abs(step).max(initial=0.0) < 1e-10:
            break
    if n == 0:
        return []
    centred = np.eye(n) - 1.0 / n  # only differences of scores are known
    theta = centred @ theta
    reach = NORMAL * np.sqrt(np.diag(centred @ np.linalg.inv(bend) @ centred))
    return [
        Estimate(round(float(c)), float(m), float(m - r), float(m + r))
        for c, m, r in zip(games.sum(axis=1), theta, reach, strict=True)
    ]
