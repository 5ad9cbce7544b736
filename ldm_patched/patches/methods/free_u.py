"""FreeU: more of the backbone, less of the skip connections' low frequencies (Si et al. 2023, arXiv 2309.11497).

The backbone carries the shapes, the low frequencies of the skip connections carry much of the texture and noise; more
of the one and less of the other gives cleaner images at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import Refused, acts, amount, choice, method, number
from ..engine.gate import Gate
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import BlockIn, Listed, Place
from ..engine.site import Site
from ..patcher import Patcher

VERSIONS = (1, 2)


def check_factors(**factors: float) -> None:
    """Refuse a factor that is no finite number."""
    for name, given in factors.items():
        if not math.isfinite(given):
            raise Refused(f"{name} is {given}; give a finite number, 1 changes nothing", name)


@method(
    node="PatchbayFreeU",
    title="FreeU by Block",
    text="Strengthen the backbone of the UNet and weaken the low frequencies of its skip connections: cleaner shapes "
    "at no cost, over a part of the run and in the blocks you name.",
    aliases=("FreeU_V2", "free lunch", "backbone scale", "skip scale"),
    gives="with FreeU on top",
)
class FreeU(Method):
    """Scale half of the backbone by `b1`, `b2` and the low frequencies of the skip connections by `s1`, `s2`.

    The first of each pair is for the output blocks that get as many channels as the widest level has, the second for
    the second widest. Version 2 scales the backbone where its mean over the channels is high, version 1 everywhere.
    `strength` (0..1) times the curve is how much of it is applied; 0, or all factors 1, changes nothing, to the bit.
    """

    b1: float = number(
        1.3, 0.0, 10.0, step=0.01, tip="Factor of half of the backbone where it has most channels; 1 changes nothing."
    )
    b2: float = number(1.4, 0.0, 10.0, step=0.01, tip="Factor of half of the backbone one level up; 1 changes nothing.")
    s1: float = number(
        0.9, 0.0, 10.0, step=0.01, tip="Factor of the skip's lowest frequencies where there are most channels."
    )
    s2: float = number(
        0.2, 0.0, 10.0, step=0.01, tip="Factor of the skip's lowest frequencies one level up; 1 changes nothing."
    )
    version: int = choice(VERSIONS, 2, tip="2 scales the backbone where it is active, 1 everywhere.")
    strength: float = amount()
    where: Where = acts("output", kind="block")

    def check(self) -> None:
        """Refuse wrong factors, versions and blocks."""
        check_factors(b1=self.b1, b2=self.b2, s1=self.s1, s2=self.s2)
        if self.version not in VERSIONS:
            raise Refused(f"version is {self.version}; choose 1 or 2", "version")
        included = [term for term in self.address.terms if not term.exclude]
        if not included or any(term.type != "output" for term in included):
            text = f"FreeU works on output blocks, not on '{self.address}'; write output, output:0-5 or such"
            raise Refused(text, "blocks")

    @property
    def slot(self) -> str:
        """Return the list it is in."""
        return "output_block_patch"

    @property
    def needs_skips(self) -> bool:
        """Return that it scales skip connections."""
        return True

    @property
    def neutral(self) -> bool:
        """Return whether it can never change anything."""
        return self.strength == 0.0 or {self.b1, self.b2, self.s1, self.s2} == {1.0}

    @property
    def label(self) -> str:
        """Describe it."""
        return f"FreeU {self.version} b {self.b1:g} {self.b2:g} s {self.s1:g} {self.s2:g}{self.times}"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return its one place, with the channels of the model's levels."""
        channels = widest(model.model.diffusion_model)
        return [Listed(self.slot, BlockIn(gate, partial(self.change, channels=channels), counts=channels))]

    def change(self, site: Site, h: Tensor, skip: Tensor, channels: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Change what an output block gets, (b, c, h, w); `channels` are those of the widest levels."""
        return self.apply(h, skip, channels.index(h.shape[1]), site.weight)

    def apply(self, h: Tensor, skip: Tensor, level: int, weight: float) -> tuple[Tensor, Tensor]:
        """Apply a part of it; `level` is 0 for the widest level, 1 for the second widest."""
        backbone = blended((self.b1, self.b2)[level], weight)
        factor = backbone if self.version == 1 else ((backbone - 1.0) * hidden_mean(h) + 1.0).to(h.dtype)
        return scale_first_half(h, factor), scale_low_frequencies(skip, blended((self.s1, self.s2)[level], weight))


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
    """Return the mean over the channels of (b, c, h, w), stretched to 0..1 over each image: (b, 1, h, w)."""
    mean = h.mean(dim=1, keepdim=True, dtype=torch.float32)
    low, high = mean.amin((-2, -1), keepdim=True), mean.amax((-2, -1), keepdim=True)
    return (mean - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)


def widest(unet: Any) -> tuple[int, ...]:
    """Return the channels of the widest and the second widest level of a UNet: 4 and 2 times those of SD's first."""
    return tuple(sorted({unet.model_channels * mult for mult in unet.channel_mult}, reverse=True)[:2])
