"""What a mask over the picture, or some frames of a video, are at each token of a call."""

from __future__ import annotations

import torch
from torch import Tensor

from ..addressing.frames import Frames
from ..addressing.grid import on_grid, touched
from .coordinates import PIXELS, at_pixels
from .site import Site
from .tokens import TOKENS

PARTS = (
    "The model was called for parts of the picture, and nobody said which: a mask lies on each as if it were the whole."
)
STRETCHED = (
    "A mask of {}x{} lies on a picture of {}x{} latent pixels, which has other proportions: it was stretched. Where a "
    "detailer or upscaler samples a part as a picture of its own, a mask lies on the part as if it were the whole."
)


def at_tokens(site: Site, mask: Tensor, touching: bool = False) -> Tensor:
    """Return what a mask (m, y, x) of 0 to 1 over the whole image is at each token: (b, n).

    That is its mean over the token's area, or where `touching` its highest value there. Several masks go round the
    images of a chunk in turn. Where an image is a video in the tokens of a row, as many as there are videos are one for
    each; any other number are masks of its frames. Raises ValueError like `Site.image_grid`.
    """
    if site.over_time:
        return _by_pixel(site, at_tokens(site.by_frame, mask, touching))
    scale = touched if touching else on_grid
    grid, pixels, size = site.image_grid, site.options.get(PIXELS), None if site.run is None else site.run.size
    if pixels is not None and size is not None:
        return scale(at_pixels(mask, pixels, size), grid)  # (b, h * w); only images have such a note
    if site.partial and site.run is not None:
        site.run.notes.add(PARTS)
    if size is not None and site.run is not None and stretched(mask, size):
        site.run.notes.add(STRETCHED.format(*reversed(mask.shape[-2:]), *reversed(size)))
    shares = scale(mask, grid)
    if len(mask) == 1:
        return shares.repeat(site.batch, site.frames)
    if site.frames > 1 and len(mask) != site.batch // site.parts:
        return site.timeline.in_call(shares).flatten().expand(site.batch, -1)
    return shares.repeat(1, site.frames)[site.pictures.to(mask.device) % len(mask)]


def during(site: Site, frames: Frames, device: torch.device) -> Tensor:
    """Return what of each token (b, n) lies in some frames of the video: all of it in references, which have none.

    Raises ValueError where the video has no such frames.
    """
    if site.of_reference:
        return torch.ones(site.batch, site.tokens, device=device)
    if site.over_time:
        return _by_pixel(site, during(site.by_frame, frames, device))
    timeline = site.timeline
    weights = frames.weights(timeline.shown).to(device)
    if site.run is not None:
        site.run.notes.add(timeline.about)
    if TOKENS not in site.options:
        return weights[site.pictures.to(device)][:, None].expand(-1, site.tokens)
    each = timeline.in_call(weights)
    return each.repeat_interleave(site.tokens // len(each)).expand(site.batch, -1)


def _by_pixel(site: Site, shares: Tensor) -> Tensor:
    """Return what frames as rows have, (b * t, h * w), as attention over time has it: (b * h * w, t)."""
    by_frame: Tensor = shares.unflatten(0, (-1, site.tokens))
    return by_frame.transpose(1, 2).flatten(0, 1)


def stretched(mask: Tensor, size: tuple[int, ...]) -> bool:
    """Return whether a mask (m, y, x) has other proportions than a latent, by more than a pixel, and that matters."""
    (y, x), (height, width) = mask.shape[-2:], size
    return abs(x * height / y - width) > 1.0 and bool((mask != mask.flatten()[0]).any())
