"""The VAE object of a graph: latents to images (b, h, w, 3) in 0..1 and back."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from ..ldm.models.autoencoder import AutoencoderKL
from ..ldm.models.tiny_autoencoder import TinyAutoencoder
from ..modules import model_management
from ..modules.model_patcher import ModelPatcher
from .vae_tiles import averaged_tiles

log = logging.getLogger(__name__)

TILE, OVERLAP = 64, 16  # in latent pixels
BYTES_PER_PIXEL = 2200  # of one image while it is decoded, per byte of the dtype


class VAE:
    """An autoencoder that works in batches that fit in memory, and in tiles where a single image does not."""

    def __init__(
        self,
        model: AutoencoderKL | TinyAutoencoder,
        dtype: torch.dtype = torch.float32,
        load_device: torch.device | str = "cpu",
        offload_device: torch.device | str = "cpu",
    ) -> None:
        self.first_stage_model = model.requires_grad_(False).eval()
        self.dtype = dtype
        self.downscale_ratio = model.downscale_ratio
        self.patcher = ModelPatcher(model, load_device, offload_device)

    @torch.no_grad()
    def decode(self, samples: Tensor) -> Tensor:
        """Decode latents (b, c, h, w), not scaled for the model, to images (b, 8 h, 8 w, 3)."""
        return self._run(samples, self._decode_batch, samples.shape[-1] * samples.shape[-2] * self.downscale_ratio**2)

    @torch.no_grad()
    def decode_tiled(self, samples: Tensor, tile: int = TILE, overlap: int = OVERLAP) -> Tensor:
        """Decode in overlapping tiles of that many latent pixels, blended where they overlap."""
        self._load()
        return self._decode_tiles(samples, tile, overlap)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Encode images (b, h, w, 3 or more) to the means of their latents; sizes are cut to multiples of 8."""
        pixels = self.crop(pixels)
        return self._run(pixels, self._encode_batch, pixels.shape[1] * pixels.shape[2])

    @torch.no_grad()
    def encode_tiled(self, pixels: Tensor, tile: int = 512, overlap: int = 64) -> Tensor:
        """Encode in overlapping tiles of that many image pixels, blended where they overlap."""
        self._load()
        return self._encode_tiles(self.crop(pixels), tile, overlap)

    def crop(self, pixels: Tensor) -> Tensor:
        """Cut images (b, h, w, c) around their middle to whole latent pixels, and leave out an alpha channel."""
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
            return self._decode_tiles(batch, TILE, OVERLAP)
        return self._encode_tiles(batch, TILE * self.downscale_ratio, OVERLAP * self.downscale_ratio)

    def _load(self) -> None:
        self.patcher.patch_model(self.patcher.load_device)
        self.patcher.unpatch_model()

    def _decode_batch(self, samples: Tensor) -> Tensor:
        return _images(self._decode(samples))

    def _encode_batch(self, pixels: Tensor) -> Tensor:
        return self._encode(pixels.movedim(-1, 1))

    def _decode_tiles(self, samples: Tensor, tile: int, overlap: int) -> Tensor:
        return _images(averaged_tiles(samples, self._decode, tile, overlap, self.downscale_ratio))

    def _encode_tiles(self, pixels: Tensor, tile: int, overlap: int) -> Tensor:
        return averaged_tiles(pixels.movedim(-1, 1), self._encode, tile, overlap, 1 / self.downscale_ratio)

    def _decode(self, samples: Tensor) -> Tensor:
        return self.first_stage_model.decode(samples.to(self.patcher.load_device, self.dtype)).float().cpu()

    def _encode(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.patcher.load_device, self.dtype)
        return self.first_stage_model.encode(pixels * 2.0 - 1.0).float().cpu()


def _images(raw: Tensor) -> Tensor:
    """Turn what the decoder gives, (b, 3, h, w) in -1..1, into images (b, h, w, 3) in 0..1."""
    return ((raw + 1.0) / 2.0).clamp(0.0, 1.0).movedim(1, -1)
