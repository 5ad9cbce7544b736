"""Regional prompting: each part of the picture attends to a prompt of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from .context import POSITIVE, ContextPatch, attend_to, rows, take_off
from .gate import Gate
from .grid import on_grid, token_grid
from .hook import Around, Hook, Host, Listed
from .schedule import Schedule
from .stack import Inner
from .targets import Address

OVERLAPS = ("average", "last on top")


@dataclass(frozen=True, eq=False)
class Region:
    """The tokens (1, n, c) of a prompt, the mask (b, h, w) of 0 to 1 that says where it holds, and its weight.

    The mask has any size; b is 1 or the number of pictures. Raises ValueError naming the value and the fix.
    """

    tokens: Tensor
    mask: Tensor
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.mask.ndim != 3:
            raise ValueError(f"a region's mask has the shape {tuple(self.mask.shape)}; give (pictures, height, width)")
        if not 0.0 <= self.weight < float("inf"):
            raise ValueError(f"weight is {self.weight}; give a number from 0")


@dataclass(frozen=True, eq=False)
class RegionalPrompt:
    """Mix the cross-attention to several prompts by masks.

    Where regions cover a token, their prompts take the share 1 - `base` of it and the sampler's prompt keeps `base`;
    elsewhere the sampler's prompt holds alone. Where regions overlap, `average` shares by mask times weight, and
    `last on top` lays each over those before it, mask times weight (1 at most) being how opaque it is. `strength`
    (0..1) times the curve scales the shares of the regions. Only the positive side is changed.

    Raises ValueError naming the value and the fix.
    """

    regions: tuple[Region, ...]
    base: float = 0.0
    overlap: str = "average"
    strength: float = 1.0
    address: Address = field(default_factory=Address)
    schedule: Schedule = field(default_factory=Schedule)
    kind: ClassVar[str] = "cross"
    slot: ClassVar[str] = "attn2"

    def __post_init__(self) -> None:
        if self.overlap not in OVERLAPS:
            raise ValueError(f"unknown overlap rule {self.overlap!r}; choose one of {', '.join(OVERLAPS)}")
        for name in ("base", "strength"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number from 0 to 1")
        pictures = {len(region.mask) for region in self.regions} - {1}
        if len(pictures) > 1:
            raise ValueError(f"the regions' masks are for {sorted(pictures)} pictures; give each 1 or the same number")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether the method can never change anything."""
        seen = any(bool((region.mask * region.weight > 0).any()) for region in self.regions)
        return self.strength == 0.0 or self.base == 1.0 or not seen

    @property
    def name(self) -> str:
        """Describe the method in one line."""
        strength = f" x {self.strength:g}" if self.strength != 1.0 else ""
        text = f"{len(self.regions)} regions, {self.overlap}, base {self.base:g}{strength}"
        return f"{text} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return what appends the prompts, and what mixes the attention to them."""
        contexts = tuple(region.tokens for region in self.regions)
        return [Listed("attn2_patch", ContextPatch(contexts, gate)), Around("attn2", RegionLayer(self, contexts, gate))]


def shares(masks: Sequence[Tensor], weights: Sequence[float], overlap: str, amount: float) -> list[Tensor]:
    """Return the share of each region at each token, for masks (b, n) in 0..1; what is left is the base prompt's.

    `amount` is what regions take of a token that they cover wholly.
    """
    parts = [mask * weight for mask, weight in zip(masks, weights, strict=True)]
    if overlap == "average":
        total = torch.stack(parts).sum(0)
        cover = torch.stack(tuple(masks)).sum(0).clamp(max=1.0) * amount
        return [torch.where(part > 0, part / total.clamp(min=1e-9), 0.0) * cover for part in parts]
    result: list[Tensor] = []
    for part in parts:
        opaque = part.clamp(max=1.0)
        result = [share * (1.0 - opaque) for share in result] + [opaque]
    return [share * amount for share in result]


@dataclass(frozen=True, eq=False)
class RegionLayer:
    """The mixture around cross-attention."""

    method: RegionalPrompt
    contexts: tuple[Tensor, ...]
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        weight = self.gate.weight(extra_options)
        if weight == 0.0:
            return inner(q, k, v)
        k, more_k = take_off(k, self.contexts)
        v, more_v = take_off(v, self.contexts)
        out = inner(q, k, v)
        positive = rows(POSITIVE, extra_options, len(q))
        parts = self._shares(q, extra_options, weight) if positive else {}
        results = {i: attend_to(inner, q, k, v, (more_k[i], more_v[i]), extra_options) for i in parts}
        return self._mixed(out, results, parts, positive) if results else out

    def _shares(self, q: Tensor, options: Mapping[str, Any], weight: float) -> dict[int, Tensor]:
        """Return the share of each region that holds somewhere, by its number; made once a run for each grid."""
        grid, memory = token_grid(q.shape[1], options), self.gate.memory(options)
        key = f"shares {grid} {weight} {q.device}"
        if key not in memory:
            memory[key] = self._made(grid, weight, q.device)
        return memory[key]

    def _made(self, grid: tuple[int, int], weight: float, device: torch.device) -> dict[int, Tensor]:
        regions = self.method.regions
        masks = [on_grid(region.mask.to(device, torch.float32).clamp(0.0, 1.0), grid) for region in regions]
        masks = list(torch.broadcast_tensors(*masks))
        amount = (1.0 - self.method.base) * self.method.strength * weight
        parts = shares(masks, [region.weight for region in regions], self.method.overlap, amount)
        return {i: part for i, part in enumerate(parts) if bool(part.any())}

    def _mixed(
        self, out: Tensor, results: dict[int, Tensor], parts: dict[int, Tensor], positive: list[slice]
    ) -> Tensor:
        left = 1.0 - torch.stack([parts[i] for i in results]).sum(0)
        mixed = out.clone()
        for some in positive:
            whole = out[some] * _for_rows(left, out[some])
            for i, result in results.items():
                whole = whole + result[some] * _for_rows(parts[i], out[some])
            mixed[some] = whole
        return mixed


def _for_rows(share: Tensor, x: Tensor) -> Tensor:
    """Shape shares (b, n) for the rows of x (rows, n, c); several masks go round the pictures in turn."""
    repeated = share if len(share) in (1, len(x)) else share.repeat(-(-len(x) // len(share)), 1)[: len(x)]
    return repeated[..., None].to(x.dtype)
