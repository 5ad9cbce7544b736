"""Resize latents and images (b, c, h, w), with the methods and the rounding of ComfyUI's nodes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

UPSCALE_METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "bislerp")
SAME_DIRECTION = 1e-5  # as a cosine's distance from 1


def common_upscale(samples: Tensor, width: int, height: int, upscale_method: str, crop: str = "disabled") -> Tensor:
    """Resize (b, c, h, w) to (b, c, height, width); crop "center" first cuts it to the new aspect ratio."""
    if crop == "center":
        samples = centred(samples, width / height)
    if upscale_method == "bislerp":
        return bislerp(samples, width, height)
    return F.interpolate(samples, size=(height, width), mode=upscale_method)


def centred(samples: Tensor, aspect: float) -> Tensor:
    """Cut the longer side of (b, c, h, w) equally at both ends, down to width / height = aspect."""
    height, width = samples.shape[-2:]
    old = width / height
    x = round((width - width * (aspect / old)) / 2) if old > aspect else 0
    y = round((height - height * (old / aspect)) / 2) if old < aspect else 0
    return samples[..., y : height - y, x : width - x]


def bislerp(samples: Tensor, width: int, height: int) -> Tensor:
    """Resize by turning channel vectors from one neighbour's direction to the other's, first in x, then in y."""
    x = samples.float().movedim(1, -1).contiguous()  # (b, h, w, c)
    for dim, length in ((2, width), (1, height)):
        lower, upper, ratio = _neighbours(x.shape[dim], length, x.device)
        ratio = ratio.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
        x = _slerp(x.index_select(dim, lower), x.index_select(dim, upper), ratio)
    return x.movedim(-1, 1).to(samples.dtype)


def _neighbours(old: int, new: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each new place the old places around it, and where it lies between them."""
    places = torch.arange(old, dtype=torch.float32, device=device)
    stretched = [
        F.interpolate(line.reshape(1, 1, 1, -1), size=(1, new), mode="bilinear").flatten()
        for line in (places, (places + 1).clamp(max=old - 1))
    ]
    return stretched[0].long(), stretched[1].long(), stretched[0] - stretched[0].floor()


def _slerp(a: Tensor, b: Tensor, ratio: Tensor) -> Tensor:
    """Return vectors (..., c) between a and b on the arc from one direction to the other, of a length between both."""
    lengths = [torch.norm(v, dim=-1, keepdim=True) for v in (a, b)]
    start, end = (torch.where(n == 0, 0.0, v / n) for v, n in zip((a, b), lengths, strict=True))
    cosine = (start * end).sum(-1, keepdim=True)
    angle = torch.acos(cosine)
    turned = torch.sin((1.0 - ratio) * angle) / torch.sin(angle) * start
    turned = turned + torch.sin(ratio * angle) / torch.sin(angle) * end
    turned = turned * (lengths[0] * (1.0 - ratio) + lengths[1] * ratio)
    turned = torch.where(cosine > 1 - SAME_DIRECTION, a, turned)
    return torch.where(cosine < SAME_DIRECTION - 1, a * (1.0 - ratio) + b * ratio, turned)
