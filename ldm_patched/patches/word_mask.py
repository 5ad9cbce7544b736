"""Where words may act: outside a mask, the picture cannot attend to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from .context import HIDDEN, LENGTH, OTHER, POSITIVE, columns, places, rows
from .gate import Gate
from .grid import on_grid, token_grid
from .hook import Around, Hook, Host
from .schedule import Schedule
from .stack import Inner
from .targets import Address


@dataclass(frozen=True, eq=False)
class WordMask:
    """Let only the masked part of the picture attend to some words.

    `positions` are the words' places in the prompt of `length` tokens, `mask` (b, h, w) of 0 to 1 says where they may
    act; b is 1 or the number of pictures. A token at mask m gets m times its usual result and 1 - m times that of
    attention in which the words' keys are missing, which is the softmax with their scores at -inf. `strength` (0..1)
    times the curve is how much of this is applied. Only the positive prompt is changed.

    Raises ValueError naming the value and the fix.
    """

    positions: tuple[int, ...]
    mask: Tensor
    length: int = 77
    strength: float = 1.0
    address: Address = field(default_factory=Address)
    schedule: Schedule = field(default_factory=Schedule)
    kind: ClassVar[str] = "cross"
    slot: ClassVar[str] = "attn2"

    def __post_init__(self) -> None:
        if self.mask.ndim != 3:
            raise ValueError(f"the mask has the shape {tuple(self.mask.shape)}; give (pictures, height, width)")
        outside = [position for position in self.positions if not 0 <= position < self.length]
        if outside:
            raise ValueError(f"position {outside[0]} lies outside the prompt of {self.length} tokens")
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"strength is {self.strength}; give a number from 0 to 1")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether the method can never change anything."""
        return self.strength == 0.0 or not self.positions or bool((self.mask >= 1.0).all())

    @property
    def name(self) -> str:
        """Describe the method in one line."""
        places = ", ".join(map(str, self.positions))
        strength = f" x {self.strength:g}" if self.strength != 1.0 else ""
        return f"words {places} within a mask{strength} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the layer around cross-attention."""
        return [Around("attn2", WordMaskLayer(self, gate))]


@dataclass(frozen=True, eq=False)
class WordMaskLayer:
    """Both attentions of one call: with the words and without them."""

    method: WordMask
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        weight = 0.0 if OTHER in extra_options else self.gate.weight(extra_options) * self.method.strength
        positive = rows(POSITIVE, extra_options, len(q)) if weight else []
        if not positive:
            return inner(q, k, v)
        memory = self.gate.memory(extra_options)
        words = places(self.method.positions, self.method.length, k, extra_options, memory)
        gone = set(columns(words, extra_options))
        left = [column for column in range(k.shape[1]) if column not in gone]
        notes: dict[str, Any] = {HIDDEN: extra_options.get(HIDDEN, frozenset()) | set(words)}
        if LENGTH in extra_options:
            notes[LENGTH] = extra_options[LENGTH] - len(gone)
        out = inner(q, k, v).clone()
        without = inner(q, k[:, left], v[:, left], {**extra_options, **notes})
        outside = self._outside(q, extra_options) * weight
        for some in positive:
            part = outside if len(outside) == 1 else outside.repeat(len(out[some]) // len(outside) + 1, 1, 1)
            out[some] = torch.lerp(out[some], without[some], part[: len(out[some])].to(out.dtype))
        return out

    def _outside(self, q: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Return what of each token (b, n, 1) lies outside the mask; made once a run for each grid."""
        grid, memory = token_grid(q.shape[1], options), self.gate.memory(options)
        key = f"outside {grid} {q.device}"
        if key not in memory:
            mask = self.method.mask.to(q.device, torch.float32).clamp(0.0, 1.0)
            memory[key] = 1.0 - on_grid(mask, grid)[..., None]
        return memory[key]
