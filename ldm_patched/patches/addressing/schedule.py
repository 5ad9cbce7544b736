"""When a patch acts: a window of the sampling run, and a curve of strength inside it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from .refused import Refused, readable

CURVES = ("constant", "linear", "cosine")


# Percents are compared on this grid: far finer than a step, far coarser than the rounding of a host's sigmas.
DIGITS = 6


@dataclass(frozen=True)
class Schedule:
    """A window from `start_percent` to `end_percent` of the run (0..1) and a curve over it.

    How far a run is, is read off its sigma through the model's own `percent_to_sigma`, inverted: so a window means the
    same noise levels in every host, with any sampler, scheduler and number of steps, and the extra calls of a
    second-order sampler need no counting. The position inside the window is measured on the same scale: 0 at
    `start_percent`, 1 at `end_percent`. A window holds its start and not its end, so that neighbours share no step;
    1.0 is the end of the run and belongs to it.

    `curve` is `constant`, `linear` (1 down to 0), `cosine` (1 down to 0), or points `position: strength` such as
    `0:0, 0.5:1, 1:0`, both from 0 to 1, positions in rising order, with straight lines between.

    Raises ValueError naming the value and the fix.
    """

    start_percent: float = 0.0
    end_percent: float = 1.0
    curve: str = "constant"

    def __post_init__(self) -> None:
        for name in ("start_percent", "end_percent"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:  # also false for NaN
                raise Refused(f"{name} is {value}; give a number from 0 to 1", name)
        if self.start_percent > self.end_percent:
            text = f"start_percent {self.start_percent} lies after end_percent {self.end_percent}; swap them"
            raise Refused(text, "start_percent", "end_percent")
        parse_curve(self.curve)

    @property
    def always(self) -> bool:
        """Return whether the strength is 1 at any time."""
        return self.start_percent == 0.0 and self.end_percent == 1.0 and self.curve == "constant"

    @property
    def suffix(self) -> str:
        """Return how to name the schedule behind what it belongs to; empty for `always`."""
        window = f" {100 * self.start_percent:g}-{100 * self.end_percent:g}%"
        curve = "" if self.curve == "constant" else f" {self.curve}"
        return "" if self.always else window + curve

    def weight(self, percent: float) -> float:
        """Return the strength at `percent` of the run, 0 outside the window."""
        percent = round(percent, DIGITS)
        if percent < self.start_percent or (percent >= self.end_percent and self.end_percent < 1.0):
            return 0.0
        width = self.end_percent - self.start_percent
        if width <= 0.0:
            return 0.0
        return parse_curve(self.curve)(min(1.0, (percent - self.start_percent) / width))


@functools.lru_cache(64)
def parse_curve(text: str) -> Callable[[float], float]:
    """Return the strength as a function of the position (0..1) inside the window.

    Raises ValueError for a curve that is neither a name nor points.
    """
    name = text.strip().lower()
    if name == "constant":
        return _constant
    if name == "linear":
        return _linear
    if name == "cosine":
        return _cosine
    points = _points(text)

    def interpolate(position: float) -> float:
        if position <= points[0][0]:
            return points[0][1]
        for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
            if position <= x1:
                return y0 + (y1 - y0) * (position - x0) / (x1 - x0)
        return points[-1][1]

    return interpolate


def _constant(position: float) -> float:
    return 1.0


def _linear(position: float) -> float:
    return 1.0 - position


def _cosine(position: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * position))


def _points(text: str) -> list[tuple[float, float]]:
    how = f"write {', '.join(CURVES)}, or points such as '0:0, 0.5:1, 1:0'"
    points = []
    for part in readable(text, "curve").split(","):
        position, colon, strength = part.partition(":")
        try:
            points.append((float(position), float(strength)))
        except ValueError:
            raise Refused(f"curve: cannot read {part.strip()!r}; {how}", "curve") from None
        if not all(0.0 <= number <= 1.0 for number in points[-1]):
            text = f"curve: point {part.strip()!r} is out of range; positions and strengths go from 0 to 1"
            raise Refused(text, "curve")
        if len(points) > 1 and points[-1][0] <= points[-2][0]:
            text = f"curve: positions must rise, {points[-2][0]} is followed by {points[-1][0]}"
            raise Refused(text, "curve")
    return points


def percent_of(sigma: float, percent_to_sigma: Callable[[float], float]) -> float:
    """Return how far the run is at `sigma`: the smallest percent (0..1) whose sigma is not above it, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        if percent_to_sigma(middle) > sigma:
            low = middle
        else:
            high = middle
    return 0.0 if high < 1e-9 else high  # halving comes close to the start and never onto it
