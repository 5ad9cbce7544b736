"""LoRA hooks: changes of weights that act with some conditionings only, stronger or weaker in the course of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .model_patcher import ModelPatcher

FindPatches = Callable[[ModelPatcher], Mapping[Any, Any]]


@dataclass(frozen=True, eq=False)
class WeightChange:
    """What a hook does to weights; the patches are found when the model is known. Two are equal if they are one."""

    name: str
    model_patches: FindPatches
    clip_patches: FindPatches
    strength_model: float = 1.0
    strength_clip: float = 1.0


@dataclass(frozen=True)
class Keyframe:
    """A strength from a part of the run on, which stays for at least some steps if the run starts before it."""

    strength: float
    start_percent: float = 0.0
    guarantee_steps: int = 1


@dataclass(frozen=True, eq=False)
class Keyframes:
    """Keyframes in the order of their starts; hooks that share them move from one to the next together."""

    frames: tuple[Keyframe, ...] = ()

    def added(self, frame: Keyframe) -> Keyframes:
        """Return these keyframes and one more, which comes after those of the same start."""
        return Keyframes(tuple(sorted((*self.frames, frame), key=lambda one: one.start_percent)))

    def stretches(self) -> list[tuple[float, float, float]]:
        """Return (start, end, strength) of the parts of a run between two changes of strength."""
        if not self.frames:
            return [(0.0, 1.0, 1.0)]
        found, current = [], self.frames[0]
        for frame in self.frames:
            later = frame.start_percent > current.start_percent
            if later and not math.isclose(frame.strength, current.strength):
                found.append((current.start_percent, frame.start_percent, current.strength))
            if not later or not math.isclose(frame.strength, current.strength):
                current = frame
        if not math.isclose(current.start_percent, 1.0):
            found.append((current.start_percent, 1.0, current.strength))
        return found


@dataclass(frozen=True)
class Hook:
    """A change of weights with its keyframes."""

    change: WeightChange
    keyframes: Keyframes


@dataclass(frozen=True)
class Hooks:
    """What a conditioning carries: hooks, each change once."""

    hooks: tuple[Hook, ...] = ()

    def joined(self, others: Hooks) -> Hooks:
        """Return these hooks, and of others those with changes that are not here yet."""
        here = {hook.change for hook in self.hooks}
        return Hooks((*self.hooks, *(hook for hook in others.hooks if hook.change not in here)))

    def with_keyframes(self, keyframes: Keyframes) -> Hooks:
        """Return these hooks with keyframes of their own, which they share."""
        own = Keyframes(keyframes.frames)
        return Hooks(tuple(replace(hook, keyframes=own) for hook in self.hooks))

    def clip_schedule(self) -> list[tuple[float, float, list[float]]]:
        """Return (start, end, strengths of the hooks) of the parts of a run in which no strength changes.

        As in ComfyUI, the strength before the first keyframe is 1.
        """
        stretches = [hook.keyframes.stretches() for hook in self.hooks]
        edges = sorted({0.0, 1.0} | {edge for parts in stretches for part in parts for edge in part[:2]})
        return [
            (start, end, [_strength_in(parts, start, end) for parts in stretches])
            for start, end in zip(edges, edges[1:], strict=False)
        ]


class Cursor:
    """Where a run is among keyframes: ComfyUI's rule of when the next one comes."""

    def __init__(self, keyframes: Keyframes, percent_to_sigma: Callable[[float], float], first_sigma: float) -> None:
        self.frames = keyframes.frames
        self.starts = [float(percent_to_sigma(frame.start_percent)) for frame in self.frames]
        self.first_sigma = first_sigma
        self.index = 0
        self.used = 0
        self.sigma: float | None = None

    @property
    def strength(self) -> float:
        """Return the strength of the keyframe that counts now."""
        return self.frames[self.index].strength if self.frames else 1.0

    def move(self, sigma: float) -> None:
        """Go on to the keyframe of a sigma; asked again for the same sigma, stay."""
        if not self.frames or sigma == self.sigma:
            return
        self.sigma = sigma
        if self.used >= self._guaranteed(self.index):
            for index in range(self.index + 1, len(self.frames)):
                if self.starts[index] < sigma:
                    break
                self.index, self.used = index, 0
                if self._guaranteed(index) > 0:
                    break
        self.used += 1

    def _guaranteed(self, index: int) -> int:
        """Return for how many steps a keyframe stays; one from before the run's first sigma for none."""
        return 0 if self.starts[index] > self.first_sigma else self.frames[index].guarantee_steps


def _strength_in(parts: list[tuple[float, float, float]], start: float, end: float) -> float:
    """Return the strength of the part that overlaps with a range, 1 where there is none."""
    return next((strength for first, last, strength in parts if first < end and last > start), 1.0)
