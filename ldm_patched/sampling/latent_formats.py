"""Scale between a VAE's latents and the latents a diffusion model was trained on."""

from __future__ import annotations

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
