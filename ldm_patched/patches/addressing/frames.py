"""Parts of a video as text: `0-50%`, `0-12`, `25-`, `0-10, 40- fade 8`, and what of each frame lies in them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from .refused import Refused, readable

WIDGET = "frames"
HOW = "write 0-50%, 0-12, 25- or several with commas, and perhaps fade 8 behind them"
_NUMBER = r"(?:\d{1,7}(?:\.\d{1,4})?)"
_RANGE = re.compile(rf"({_NUMBER})(%?)(?:\s*(-)\s*(?:({_NUMBER})(%?))?)?")
_FADE = re.compile(rf"(.*?)\s+fade\s+({_NUMBER})\s*", re.DOTALL)


@dataclass(frozen=True)
class Range:
    """Frames from `first` to `last` and with it, numbered from 0; in `percent` the part of the video between both.

    Without a `last` they go on to the end.
    """

    first: float
    last: float | None
    percent: bool = False

    def edges(self, count: int) -> tuple[float, float]:
        """Return where it begins and ends in a video of `count` frames; a frame is as long as 1."""
        if self.percent:
            return self.first / 100 * count, count if self.last is None else self.last / 100 * count
        return self.first, count if self.last is None else self.last + 1


@dataclass(frozen=True)
class Frames:
    """Some ranges of a video, whose edges become ramps `fade` frames long; `text` is how they were written."""

    ranges: tuple[Range, ...]
    fade: float = 0.0
    text: str = ""

    def weights(self, count: int) -> Tensor:
        """Return what of each of `count` frames lies in them: (count,) of 0 to 1.

        Where two ranges meet, their ramps add up to 1. Raises ValueError where there is no such frame.
        """
        if count == 1:
            raise ValueError(
                f"{WIDGET} {self.text}: there is one picture and no video; leave {WIDGET} empty, or sample a latent of "
                "several frames"
            )
        for one in self.ranges:
            furthest = one.first if one.last is None else one.last
            if not one.percent and furthest >= count:
                told = f"there is no frame {furthest:g}, the video has the frames 0-{count - 1}"
                raise ValueError(f"{WIDGET} {self.text}: {told}; write those, or parts such as 0-50%")
        return torch.stack([self._inside(one, count) for one in self.ranges]).sum(0).clamp(max=1.0).float()

    def _inside(self, one: Range, count: int) -> Tensor:
        start, end = one.edges(count)
        return _behind(start, count, self.fade) - _behind(end, count, self.fade)


def _behind(edge: float, count: int, fade: float) -> Tensor:
    """Return the part of each frame behind an edge, or the mean of the ramp over it; begin and end have no ramp."""
    if edge <= 0.0 or edge >= count:
        return torch.full((count,), float(edge <= 0.0), dtype=torch.float64)
    ends = torch.arange(count + 1, dtype=torch.float64) - edge
    area = (ends - fade / 2).clamp(min=0.0)
    if fade:
        area = area + (ends + fade / 2).clamp(0.0, fade) ** 2 / (2 * fade)
    return area.diff()


def parse_frames(text: str) -> Frames | None:
    """Read ranges parted by commas, perhaps with `fade` and a number of frames behind them; None for an empty text.

    Raises Refused, which names the range and how to write it.
    """
    if not text.strip():
        return None
    faded = _FADE.fullmatch(readable(text, WIDGET))
    ranges, fade = (faded[1], float(faded[2])) if faded else (text, 0.0)
    return Frames(tuple(_range(part.strip()) for part in ranges.split(",")), fade, text.strip())


def _range(text: str) -> Range:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise Refused(f"{WIDGET}: cannot read {text!r}; {HOW}", WIDGET)
    first, percent, dash, last, last_percent = found.groups()
    if percent and (dash is None or (last and not last_percent)):
        raise Refused(f"{WIDGET}: {text!r} has a percent sign on one end; write both, such as 0-50%", WIDGET)
    made = Range(float(first), _last(first, dash, last), bool(percent or last_percent))
    _check(made, text)
    return made


def _last(first: str, dash: str | None, last: str | None) -> float | None:
    if dash is None:
        return float(first)
    return None if last is None else float(last)


def _check(one: Range, text: str) -> None:
    """Refuse a range that holds nothing, lies outside of the video, or begins within a frame."""
    ends = [end for end in (one.first, one.last) if end is not None]
    if one.percent and max(ends) > 100.0:
        raise Refused(f"{WIDGET}: {text!r} goes beyond 100%; write parts of the video from 0% to 100%", WIDGET)
    if not one.percent and any(end % 1.0 for end in ends):
        raise Refused(
            f"{WIDGET}: {text!r} is no number of a frame; write whole numbers, or parts such as 0-50%", WIDGET
        )
    if one.edges(100)[0] >= one.edges(100)[1] and (one.percent or one.last is not None):
        raise Refused(f"{WIDGET}: {text!r} holds no frame; write the first before the last, such as 0-12", WIDGET)
