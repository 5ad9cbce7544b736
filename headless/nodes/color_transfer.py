"""ComfyUI's core node that gives pictures the colours of others, for the embedded host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..api import comfy_io as io
from ..api.dynamic_io import DynamicCombo
from .declared import Nodes

NODES = Nodes("image/filters")
SMALLEST, LEVELS = 1e-6, 256
Change = Callable[[Tensor], Tensor]  # of colours (3, n)

# CIE Lab of linear Rec. 709 colours in the light D65
TO_XYZ = torch.tensor([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
WHITE = torch.tensor([[0.95047], [1.0], [1.08883]])
KNEE, SLOPE, FOOT = 0.008856, 7.787, 4.0 / 29.0


def to_lab(rgb: Tensor) -> Tensor:
    """Return colours (3, n) of sRGB in 0..1 as CIE Lab."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055).clamp(min=0.0) / 1.055) ** 2.4, rgb / 12.92)
    xyz = TO_XYZ.to(rgb) @ linear / WHITE.to(rgb)
    f = torch.where(xyz > KNEE, xyz.clamp(min=KNEE) ** (1 / 3), SLOPE * xyz + FOOT)
    return torch.stack([116.0 * f[1] - 16.0, 500.0 * (f[0] - f[1]), 200.0 * (f[1] - f[2])])


def from_lab(lab: Tensor) -> Tensor:
    """Return colours (3, n) of CIE Lab as sRGB in 0..1."""
    y = (lab[0] + 16.0) / 116.0
    f = torch.stack([lab[1] / 500.0 + y, y, (y - lab[2] / 200.0).clamp(min=0.0)])
    xyz = torch.where(f > 0.2068966, f**3, (f - FOOT) / SLOPE) * WHITE.to(lab)
    linear = torch.linalg.inv(TO_XYZ.double()).to(lab) @ xyz
    edge = 0.0031308
    return torch.where(linear > edge, 1.055 * linear.clamp(min=edge) ** (1 / 2.4) - 0.055, 12.92 * linear).clamp(0, 1)


def reinhard(source: Tensor, reference: Tensor) -> Change:
    """Give each channel (3, n) the mean and the deviation of another (Reinhard et al., 2001)."""
    means = source.mean(1, keepdim=True), reference.mean(1, keepdim=True)
    spreads = [part.std(1, keepdim=True, unbiased=False).clamp_min(SMALLEST) for part in (source, reference)]
    return lambda colours: (colours - means[0]) * (spreads[1] / spreads[0]) + means[1]


def monge_kantorovitch(source: Tensor, reference: Tensor) -> Change:
    """Give colours (3, n) the mean and the covariance of others by the shortest way (Pitie and Kokaram, 2007)."""
    means = source.mean(1, keepdim=True), reference.mean(1, keepdim=True)
    spreads = [_covariance(part - mean) for part, mean in zip((source, reference), means, strict=True)]
    values, axes = torch.linalg.eigh(spreads[0])
    deviations = values.clamp_min(0).sqrt().clamp_min(SMALLEST)
    whitened, back = axes * deviations, axes / deviations
    values, turned = torch.linalg.eigh(whitened.T @ spreads[1] @ whitened)
    matrix = back @ (turned * values.clamp_min(0).sqrt() @ turned.T) @ back.T
    return lambda colours: matrix @ (colours - means[0]) + means[1]


def _covariance(centred: Tensor) -> Tensor:
    return centred @ centred.T / centred.shape[1]


def histogram(source: Tensor, reference: Tensor) -> Change:
    """Give each channel (c, n) in 0..1 the histogram of another, in steps of 256 levels."""
    table = torch.searchsorted(_shares(reference), _shares(source)).clamp_max(LEVELS - 1).float() / (LEVELS - 1)
    return lambda colours: table.gather(1, _levels(colours))


def _levels(colours: Tensor) -> Tensor:
    return (colours * (LEVELS - 1)).long().clamp(0, LEVELS - 1)


def _shares(colours: Tensor) -> Tensor:
    """Return for each level what part of a channel is not above it (c, 256)."""
    counts = torch.zeros(len(colours), LEVELS).scatter_add_(1, _levels(colours), torch.ones_like(colours))
    sums = counts.cumsum(1)
    return sums / sums[:, -1:]


METHODS = {"reinhard_lab": reinhard, "mkl_lab": monge_kantorovitch, "histogram": histogram}


def transferred(target: Tensor, reference: Tensor, method: str, baseline: dict[str, Any], strength: float) -> Tensor:
    """Return pictures (b, h, w, c) with the colours of others; `baseline` says which of them are compared."""
    by_lab = method != "histogram"
    own, theirs = (
        [to_lab(one) if by_lab else one for one in pictures.float().permute(0, 3, 1, 2).flatten(2)]
        for pictures in (target, reference)
    )
    each, found = baseline["source_stats"] == "per_frame", []
    for i, colours in enumerate(own):
        if each or i == 0:
            change = METHODS[method](*_compared(own, theirs, i if each else None, baseline))
        found.append(torch.lerp(colours, change(colours), strength) if strength != 1.0 else change(colours))
    pictures = torch.stack([from_lab(colours) if by_lab else colours for colours in found])
    return pictures.unflatten(2, target.shape[1:3]).permute(0, 2, 3, 1).clamp(0, 1)


def _compared(
    own: list[Tensor], theirs: list[Tensor], i: int | None, baseline: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return the colours that are compared, for the picture `i` or, with None, for all."""
    if i is not None:
        return own[i], theirs[min(i, len(theirs) - 1)]
    chosen = own[min(baseline.get("target_index", 0), len(own) - 1)]
    return torch.cat(own, 1) if baseline["source_stats"] == "uniform" else chosen, torch.cat(theirs, 1)


def _baselines() -> list[DynamicCombo.Option]:
    frame = io.Int.Input("target_index", default=0, min=0, max=10000, tooltip="The number of that picture, from 0.")
    chosen = DynamicCombo.Option("target_frame", [frame])
    return [DynamicCombo.Option("per_frame", []), DynamicCombo.Option("uniform", []), chosen]


@NODES.add(
    "ColorTransfer",
    "Transfer Color",
    [
        io.Image.Input("image_target", tooltip="The pictures that get other colours."),
        io.Image.Input("image_ref", tooltip="The pictures whose colours they get."),
        io.Combo.Input("method", options=list(METHODS), tooltip="What is made equal."),
        DynamicCombo.Input(
            "source_stats", _baselines(), tooltip="Each picture by itself, all of them, or one of them."
        ),
        io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.01, tooltip="How much of the change."),
    ],
    io.Image.Output(display_name="image"),
)
def color_transfer(
    image_target: Tensor, image_ref: Tensor, method: str, source_stats: dict[str, Any], strength: float = 1.0
) -> Tensor:
    """Give pictures the colours of others."""
    return image_target if strength == 0 else transferred(image_target, image_ref, method, source_stats, strength)
