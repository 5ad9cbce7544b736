"""Scale between a VAE's latents and the latents a diffusion model was trained on."""

from __future__ import annotations

import torch
from torch import Tensor


class LatentFormat:
    """Latents as the VAE gives them, times `scale_factor`, are what the model sees."""

    scale_factor: float = 1.0
    latent_channels: int = 4
    latent_dimensions: int = 2
    spacial_downscale_ratio: int = 8

    def process_in(self, latent: Tensor) -> Tensor:
        """Scale a VAE latent for the model."""
        return latent * self.scale_factor

    def process_out(self, latent: Tensor) -> Tensor:
        """Scale a model latent back for the VAE."""
        return latent / self.scale_factor


class SD15(LatentFormat):
    """SD1.x and SD2.x."""

    scale_factor = 0.18215


class SDXL(LatentFormat):
    """SDXL base and refiner."""

    scale_factor = 0.13025


class SDXLPlayground25(LatentFormat):
    """Playground 2.5: SDXL's latents with the mean and the spread of each channel taken out."""

    scale_factor = 0.5
    mean = (-1.6574, 1.886, -1.383, 2.5155)
    spread = (8.4927, 5.9022, 6.5498, 5.2299)

    def process_in(self, latent: Tensor) -> Tensor:
        """Scale a VAE latent (b, 4, h, w) for the model."""
        mean, spread = _by_channel(self.mean, latent), _by_channel(self.spread, latent)
        return (latent - mean) * self.scale_factor / spread

    def process_out(self, latent: Tensor) -> Tensor:
        """Scale a model latent (b, 4, h, w) back for the VAE."""
        mean, spread = _by_channel(self.mean, latent), _by_channel(self.spread, latent)
        return latent * spread / self.scale_factor + mean


def _by_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)
