"""Scale what the blocks of a UNet hand on: the backbone, the skip connections, and FreeU's choice of both.

FreeU: Si et al. 2023, arXiv 2309.11497. The backbone carries the shapes, the low frequencies of the skip connections
carry much of the texture and noise; more of the one and less of the other gives cleaner pictures at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .gate import Gate
from .hook import Hook, Host, Listed
from .schedule import Schedule
from .targets import Address, Term

VERSIONS = (1, 2)
OUTPUT = Address((Term("output"),))


def blended(factor: float, weight: float) -> float:
    """Return a factor at a part of its strength; 1 changes nothing."""
    return 1.0 + (factor - 1.0) * weight


def low_frequencies(x: Tensor) -> Tensor:
    """Return the part of (b, c, h, w) in the frequencies 0 and -1 of both directions, its real part.

    These four are what FreeU's Fourier filter scales: two by two about the middle of the shifted spectrum. As a sum
    of cosines they need no complex numbers, so every device and dtype can; it is computed in float32.
    """
    even_h, odd_h = _waves(x.shape[-2], x.device)
    even_w, odd_w = _waves(x.shape[-1], x.device)
    wide = x.float()
    # the sum over a, b in (0, -1) of cos(a y + b x) is (1 + cos y)(1 + cos x) - sin y sin x
    return (even_h @ wide @ even_w.T - odd_h @ wide @ odd_w.T).to(x.dtype)


def _waves(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    position = torch.arange(size, device=device, dtype=torch.float32)
    angle = (position[:, None] - position) * (2.0 * math.pi / size)
    return (1.0 + angle.cos()) / size, angle.sin() / size


def scale_low_frequencies(skip: Tensor, factor: float) -> Tensor:
    """Multiply the lowest frequencies of a skip connection (b, c, h, w)."""
    return skip + (factor - 1.0) * low_frequencies(skip)


def scale_first_half(h: Tensor, factor: Tensor | float) -> Tensor:
    """Multiply the first half of the channels of (b, c, h, w); a factor tensor is (b, 1, h, w)."""
    first, second = h.split([h.shape[1] // 2, h.shape[1] - h.shape[1] // 2], dim=1)
    return torch.cat([first * factor, second], dim=1)


def hidden_mean(h: Tensor) -> Tensor:
    """Return the mean over the channels of (b, c, h, w), stretched to 0..1 over each picture: (b, 1, h, w)."""
    mean = h.mean(dim=1, keepdim=True, dtype=torch.float32)
    low, high = mean.amin((-2, -1), keepdim=True), mean.amax((-2, -1), keepdim=True)
    return (mean - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)


def widest(unet: Any) -> tuple[int, ...]:
    """Return the channels of the widest and the second widest level of a UNet: 4 and 2 times those of SD's first."""
    return tuple(sorted({unet.model_channels * mult for mult in unet.channel_mult}, reverse=True)[:2])


@dataclass(frozen=True)
class FreeU:
    """Scale half of the backbone by `b1`, `b2` and the low frequencies of the skip connections by `s1`, `s2`.

    The first of each pair is for the output blocks that get as many channels as the widest level has, the second for
    the second widest. Version 2 scales the backbone where its mean over the channels is high, version 1 everywhere.
    `strength` (0..1) times the curve is how much of it is applied; 0, or all factors 1, changes nothing, to the bit.

    Raises ValueError naming the value and the fix.
    """

    b1: float = 1.3
    b2: float = 1.4
    s1: float = 0.9
    s2: float = 0.2
    version: int = 2
    strength: float = 1.0
    address: Address = OUTPUT
    schedule: Schedule = Schedule()
    kind: ClassVar[str] = "block"
    slot: ClassVar[str] = "output_block_patch"

    def __post_init__(self) -> None:
        _check(self.strength, b1=self.b1, b2=self.b2, s1=self.s1, s2=self.s2)
        if self.version not in VERSIONS:
            raise ValueError(f"version is {self.version}; choose 1 or 2")
        _only_output(self.address)
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether it can never change anything."""
        return self.strength == 0.0 or {self.b1, self.b2, self.s1, self.s2} == {1.0}

    @property
    def name(self) -> str:
        """Describe it in one line."""
        factors = f"b {self.b1:g} {self.b2:g} s {self.s1:g} {self.s2:g}"
        return f"FreeU {self.version} {factors}{_times(self.strength)} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the one hook before the output blocks."""
        return [FreeUHook(self, gate)]

    def apply(self, h: Tensor, skip: Tensor, level: int, weight: float) -> tuple[Tensor, Tensor]:
        """Change what an output block gets, (b, c, h, w); `level` is 0 for the widest, 1 for the second widest."""
        weight *= self.strength
        if weight == 0.0:
            return h, skip
        backbone = blended((self.b1, self.b2)[level], weight)
        factor = backbone if self.version == 1 else ((backbone - 1.0) * hidden_mean(h) + 1.0).to(h.dtype)
        return scale_first_half(h, factor), scale_low_frequencies(skip, blended((self.s1, self.s2)[level], weight))


@dataclass(frozen=True)
class FreeUHook:
    """Put FreeU on a clone, with the channels of the clone's levels."""

    freeu: FreeU
    gate: Gate

    def put(self, clone: Any, gate: Gate, host: Host) -> None:
        """Append the function."""
        channels = widest(clone.model.diffusion_model)
        clone.set_model_patch(FreeUPatch(self.freeu, gate, channels), self.freeu.slot)


@dataclass(frozen=True)
class FreeUPatch:
    """FreeU as an output_block_patch; `channels` are those of the widest and the second widest level."""

    freeu: FreeU
    gate: Gate
    channels: tuple[int, ...]

    def __call__(self, h: Tensor, hsp: Tensor, transformer_options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        if h.shape[1] not in self.channels:
            return h, hsp
        weight = self.gate.weight(transformer_options)
        return self.freeu.apply(h, hsp, self.channels.index(h.shape[1]), weight)


@dataclass(frozen=True)
class BlockScale:
    """Multiply what blocks hand on.

    In an output block `backbone` multiplies what comes from the block before it and `skip` what comes over the skip
    connection; in an input block and in the middle `backbone` multiplies the output, which for an input block is also
    what its skip connection keeps. `strength` (0..1) times the curve is how much of it is applied; 0, or both factors
    1, changes nothing, to the bit.

    Raises ValueError naming the value and the fix.
    """

    backbone: float = 1.0
    skip: float = 1.0
    strength: float = 1.0
    address: Address = OUTPUT
    schedule: Schedule = Schedule()
    kind: ClassVar[str] = "block"
    slot: ClassVar[str] = "block patches"

    def __post_init__(self) -> None:
        _check(self.strength, backbone=self.backbone, skip=self.skip)
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether it can never change anything."""
        return self.strength == 0.0 or self.backbone == self.skip == 1.0

    @property
    def name(self) -> str:
        """Describe it in one line."""
        factors = f"backbone {self.backbone:g} skip {self.skip:g}"
        return f"scale {factors}{_times(self.strength)} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return a hook for each room."""
        return [
            Listed("input_block_patch", ScaleInput(self, gate)),
            Listed("middle_block_after_patch", ScaleMiddle(self, gate)),
            Listed("output_block_patch", ScaleOutput(self, gate)),
        ]


@dataclass(frozen=True)
class ScaleInput:
    """A block scale as an input_block_patch."""

    scale: BlockScale
    gate: Gate

    def __call__(self, h: Tensor, transformer_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.weight(transformer_options) * self.scale.strength
        return h if weight == 0.0 else h * blended(self.scale.backbone, weight)


@dataclass(frozen=True)
class ScaleMiddle:
    """A block scale as a middle_block_after_patch, which gets and gives a dict."""

    scale: BlockScale
    gate: Gate

    def __call__(self, args: dict[str, Any]) -> dict[str, Any]:
        return {**args, "h": ScaleInput(self.scale, self.gate)(args["h"], args["transformer_options"])}


@dataclass(frozen=True)
class ScaleOutput:
    """A block scale as an output_block_patch."""

    scale: BlockScale
    gate: Gate

    def __call__(self, h: Tensor, hsp: Tensor, transformer_options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        weight = self.gate.weight(transformer_options) * self.scale.strength
        if weight == 0.0:
            return h, hsp
        return h * blended(self.scale.backbone, weight), hsp * blended(self.scale.skip, weight)


def _check(strength: float, **factors: float) -> None:
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength is {strength}; give a number from 0 to 1")
    for name, factor in factors.items():
        if not math.isfinite(factor):
            raise ValueError(f"{name} is {factor}; give a finite number, 1 changes nothing")


def _only_output(address: Address) -> None:
    included = [term for term in address.terms if not term.exclude]
    if not included or any(term.room != "output" for term in included):
        raise ValueError(f"FreeU works on output blocks, not on '{address}'; write output, output:0-5 or such")


def _times(strength: float) -> str:
    return f" x {strength:g}" if strength != 1.0 else ""
