"""The latent autoencoder of Stable Diffusion (Rombach et al. 2021, arXiv 2112.10752)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...modules import ops
from ..modules.diffusionmodules.model import Decoder, Encoder
from ..modules.temporal_ae import VideoDecoder

_SHARED = ("ch", "ch_mult", "num_res_blocks", "z_channels")


class AutoencoderKL(nn.Module):
    """Encode images to Gaussian latents and decode latents to images.

    `ddconfig` is the public configuration (ch, ch_mult, num_res_blocks, z_channels, in_channels, out_ch).
    Images are (b, 3, h, w) in -1..1; latents are not yet multiplied by the model's latent scale.
    """

    def __init__(
        self,
        ddconfig: Mapping[str, Any],
        embed_dim: int = 4,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = ops.disable_weight_init,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"dtype": dtype, "device": device}
        shared = {name: ddconfig[name] for name in _SHARED}
        z = ddconfig["z_channels"]
        self.encoder = Encoder(in_channels=ddconfig.get("in_channels", 3), **shared, **factory, operations=operations)
        self.decoder = Decoder(out_ch=ddconfig.get("out_ch", 3), **shared, **factory, operations=operations)
        self.quant_conv = operations.Conv2d(2 * z, 2 * embed_dim, 1, **factory)
        self.post_quant_conv = operations.Conv2d(embed_dim, z, 1, **factory)

    @property
    def downscale_ratio(self) -> int:
        """Return how many pixels a latent pixel has in width and in height."""
        ratio: int = 2 ** (len(self.decoder.up) - 1)
        return ratio

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give the latent's mean and log-variance, each (b, embed_dim, h / f, w / f)."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def encode(self, x: Tensor, sample: bool = False) -> Tensor:
        """Encode an image to the latent's mean, or to a sample of the latent."""
        mean, logvar = self.moments(x)
        return mean + torch.exp(0.5 * logvar) * torch.randn_like(mean) if sample else mean

    def decode(self, z: Tensor) -> Tensor:
        """Decode a latent (b, embed_dim, h, w) to an image."""
        return self.decoder(self.post_quant_conv(z))


class VideoAutoencoder(AutoencoderKL):
    """Encode images one by one and decode a batch of latents as one video.

    There is no convolution in front of the decoder, and one behind the encoder only with `quant` in `ddconfig`.
    """

    def __init__(
        self,
        ddconfig: Mapping[str, Any],
        embed_dim: int = 4,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = ops.disable_weight_init,
    ) -> None:
        super().__init__(ddconfig, embed_dim, dtype, device, operations)
        factory: dict[str, Any] = {"dtype": dtype, "device": device}
        shared = {name: ddconfig[name] for name in _SHARED}
        self.decoder = VideoDecoder(out_ch=ddconfig.get("out_ch", 3), **shared, **factory, operations=operations)
        self.post_quant_conv = nn.Identity()
        if not ddconfig.get("quant", False):
            self.quant_conv = nn.Identity()
