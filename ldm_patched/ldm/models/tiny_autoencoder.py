"""TAESD (Ollin Boer Bohan 2023, github.com/madebyollin/taesd): a small autoencoder of the same latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...modules.ops import disable_weight_init as ops

WIDTH = 64
LARGEST = 3.0  # of the latents it decodes


class Block(nn.Module):
    """Three convolutions beside the identity."""

    def __init__(self, **kind: Any) -> None:
        super().__init__()
        layers = [
            conv(WIDTH, WIDTH, **kind),
            nn.ReLU(),
            conv(WIDTH, WIDTH, **kind),
            nn.ReLU(),
            conv(WIDTH, WIDTH, **kind),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (b, 64, h, w)."""
        return (self.conv(x) + x).relu()


class Bounded(nn.Module):
    """Bound latents smoothly."""

    def forward(self, x: Tensor) -> Tensor:
        """Return latents in -3..3."""
        return torch.tanh(x / LARGEST) * LARGEST


def conv(before: int, after: int, **settings: Any) -> nn.Module:
    """Return a convolution of 3x3 pixels."""
    layer: nn.Module = ops.Conv2d(before, after, 3, padding=1, **settings)
    return layer


def encoder(channels: int, **kind: Any) -> nn.Sequential:
    """Return the layers from pictures (b, 3, 8 h, 8 w) to latents (b, channels, h, w)."""
    layers = [conv(3, WIDTH, **kind), Block(**kind)]
    for _ in range(3):
        layers += [conv(WIDTH, WIDTH, stride=2, bias=False, **kind), *(Block(**kind) for _ in range(3))]
    return nn.Sequential(*layers, conv(WIDTH, channels, **kind))


def decoder(channels: int, **kind: Any) -> nn.Sequential:
    """Return the layers from latents (b, channels, h, w) to pictures (b, 3, 8 h, 8 w)."""
    layers = [Bounded(), conv(channels, WIDTH, **kind), nn.ReLU()]
    for _ in range(3):
        layers += [*(Block(**kind) for _ in range(3)), nn.Upsample(scale_factor=2)]
        layers += [conv(WIDTH, WIDTH, bias=False, **kind)]
    return nn.Sequential(*layers, Block(**kind), conv(WIDTH, 3, **kind))


class TinyAutoencoder(nn.Module):
    """Encode images (b, 3, h, w) in -1..1 to latents of a VAE and decode them, quickly and roughly.

    `scale` is what the model multiplies the VAE's latents by: these networks know the latents of the model.
    """

    downscale_ratio = 8

    def __init__(self, channels: int = 4, scale: float = 1.0, **kind: Any) -> None:
        super().__init__()
        self.taesd_encoder, self.taesd_decoder = encoder(channels, **kind), decoder(channels, **kind)
        self.scale = scale

    def encode(self, x: Tensor) -> Tensor:
        """Encode an image to a latent."""
        found: Tensor = self.taesd_encoder(x * 0.5 + 0.5) / self.scale
        return found

    def decode(self, z: Tensor) -> Tensor:
        """Decode a latent to an image."""
        found: Tensor = (self.taesd_decoder(z * self.scale) - 0.5) * 2
        return found
