"""The VAE object of a graph: latents to pictures (b, h, w, 3) in 0..1 and back."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from ..ldm.models.autoencoder import AutoencoderKL
from . import model_management
from .model_patcher import ModelPatcher

log = logging.getLogger(__name__)

TILE, OVERLAP = 64, 16  # in latent pixels
BYTES_PER_PIXEL = 2200  # of one picture while it is decoded, per byte of the dtype


class VAE:
    """An autoencoder that works in batches that fit in memory, and in tiles where a single picture does not."""

    def __init__(
        self,
        model: AutoencoderKL,
        dtype: torch.dtype = torch.float32,
        load_device: torch.device | str = "cpu",
        offload_device: torch.device | str = "cpu",
    ) -> None:
        self.first_stage_model = model.requires_grad_(False).eval()
        self.dtype = dtype
        self.downscale_ratio = 2 ** (len(model.decoder.up) - 1)
        self.patcher = ModelPatcher(model, load_device, offload_device)

    @torch.no_grad()
    def decode(self, samples: Tensor) -> Tensor:
        """Decode latents (b, c, h, w), not scaled for the model, to pictures (b, 8 h, 8 w, 3)."""
        return self._run(samples, self._decode_batch, samples.shape[-1] * samples.shape[-2] * self.downscale_ratio**2)

    @torch.no_grad()
    def decode_tiled(self, samples: Tensor, tile: int = TILE, overlap: int = OVERLAP) -> Tensor:
        """Decode in overlapping tiles of that many latent pixels, blended where they overlap."""
        self._load()
        return tiled(samples, self._decode_batch, tile, overlap, self.downscale_ratio)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Encode pictures (b, h, w, 3 or more) to the means of their latents; sizes are cut to multiples of 8."""
        pixels = self.crop(pixels)
        return self._run(pixels, self._encode_batch, pixels.shape[1] * pixels.shape[2])

    def crop(self, pixels: Tensor) -> Tensor:
        """Cut pictures (b, h, w, c) around their middle to whole latent pixels, and leave out an alpha channel."""
        for dim in (1, 2):
            rest = pixels.shape[dim] % self.downscale_ratio
            pixels = pixels.narrow(dim, rest // 2, pixels.shape[dim] - rest)
        return pixels[..., :3]

    def _run(self, batch: Tensor, function: Callable[[Tensor], Tensor], pixels: int) -> Tensor:
        self._load()
        needed = pixels * BYTES_PER_PIXEL * self.dtype.itemsize
        size = max(1, int(self.patcher.get_free_memory(self.patcher.load_device) // needed))
        try:
            return torch.cat([function(part) for part in batch.split(size)])
        except model_management.OOM_EXCEPTION:
            log.warning("not enough memory for a whole picture; going on in tiles")
        model_management.soft_empty_cache()
        if function == self._decode_batch:
            return tiled(batch, function, TILE, OVERLAP, self.downscale_ratio)
        ratio = self.downscale_ratio
        return tiled(batch.movedim(-1, 1), self._encode_tile, TILE * ratio, OVERLAP * ratio, 1 / ratio).movedim(-1, 1)

    def _load(self) -> None:
        self.patcher.patch_model(self.patcher.load_device)
        self.patcher.unpatch_model()

    def _decode_batch(self, samples: Tensor) -> Tensor:
        pixels = self.first_stage_model.decode(samples.to(self.patcher.load_device, self.dtype))
        return ((pixels.float().cpu() + 1.0) / 2.0).clamp(0.0, 1.0).movedim(1, -1)

    def _encode_batch(self, pixels: Tensor) -> Tensor:
        pixels = pixels.movedim(-1, 1).to(self.patcher.load_device, self.dtype)
        return self.first_stage_model.encode(pixels * 2.0 - 1.0).float().cpu()

    def _encode_tile(self, pixels: Tensor) -> Tensor:
        return self._encode_batch(pixels.movedim(1, -1)).movedim(1, -1)


def tiled(batch: Tensor, function: Callable[[Tensor], Tensor], tile: int, overlap: int, scale: float) -> Tensor:
    """Apply a function of (b, c, h, w) to (b, h * scale, w * scale, c) tile by tile.

    Every result is weighted by a ramp that rises over the overlap, so that neighbouring tiles fade into each other.
    """
    total, weight = None, None
    for y in _starts(batch.shape[-2], tile, overlap):
        for x in _starts(batch.shape[-1], tile, overlap):
            part = function(batch[..., y : y + tile, x : x + tile])
            if total is None or weight is None:
                height, width = (round(size * scale) for size in batch.shape[-2:])
                total = part.new_zeros(part.shape[0], height, width, part.shape[-1])
                weight = torch.zeros_like(total[..., :1])
            ramp = _ramp(part.shape[1], part.shape[2], max(1, round(overlap * scale)))
            top, left = round(y * scale), round(x * scale)
            total[:, top : top + part.shape[1], left : left + part.shape[2]] += part * ramp
            weight[:, top : top + part.shape[1], left : left + part.shape[2]] += ramp
    if total is None or weight is None:
        raise ValueError(f"nothing to do for an empty batch of shape {tuple(batch.shape)}")
    return total / weight


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def _ramp(height: int, width: int, overlap: int) -> Tensor:
    """Return (h, w, 1) that rises from every edge over the overlap."""
    rows, columns = (torch.minimum(torch.arange(1, n + 1), torch.arange(n, 0, -1)) for n in (height, width))
    return torch.minimum(rows[:, None], columns[None, :]).clamp(max=overlap).unsqueeze(-1) / overlap
