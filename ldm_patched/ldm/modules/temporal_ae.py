"""The decoder of Stable Video Diffusion's autoencoder (Blattmann et al. 2023, arXiv 2311.15127).

The batch is the frames of one video: t frames, c channels, h and w height and width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...modules import ops
from .diffusionmodules.model import Decoder, ResnetBlock
from .diffusionmodules.unet_blocks import ResBlock

KERNEL = (3, 1, 1)  # over the frame before, this one and the one after


class VideoResnetBlock(ResnetBlock):
    """A residual block within each frame, mixed with one over the frames."""

    def __init__(self, in_channels: int, out_channels: int, operations: Any, **factory: Any) -> None:
        super().__init__(in_channels, out_channels, operations, **factory)
        shared = {"kernel_size": KERNEL, "operations": operations, **factory}
        self.time_stack = ResBlock(out_channels, 0, 0.0, dims=3, skip_t_emb=True, **shared)
        self.mix_factor = nn.Parameter(torch.zeros(1, dtype=factory.get("dtype"), device=factory.get("device")))

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (t, in_channels, h, w) to (t, out_channels, h, w)."""
        video = as_video(super().forward(x))
        moved = self.time_stack(video, None)
        share = torch.sigmoid(self.mix_factor.to(video))
        return as_frames(share * moved + (1.0 - share) * video)


class VideoDecoder(Decoder):
    """Turn the latents of a video into its frames; a convolution over the frames comes last."""

    resnet = VideoResnetBlock

    def __init__(
        self,
        *,
        out_ch: int,
        dtype: Any = None,
        device: Any = None,
        operations: Any = ops.disable_weight_init,
        **config: Any,
    ) -> None:
        factory = {"dtype": dtype, "device": device}
        super().__init__(out_ch=out_ch, operations=operations, **factory, **config)
        # public checkpoints have this layer's keys below the last layer's
        over_time = operations.Conv3d(out_ch, out_ch, KERNEL, padding=(1, 0, 0), **factory)
        self.conv_out.add_module("time_mix_conv", over_time)

    def forward(self, z: Tensor) -> Tensor:
        """Map (t, z_channels, h, w) to (t, out_ch, f * h, f * w)."""
        return as_frames(self.conv_out.get_submodule("time_mix_conv")(as_video(super().forward(z))))


def as_video(frames: Tensor) -> Tensor:
    """Turn (t, c, h, w) into (1, c, t, h, w)."""
    return frames.transpose(0, 1).unsqueeze(0)


def as_frames(video: Tensor) -> Tensor:
    """Turn (1, c, t, h, w) into (t, c, h, w)."""
    return video.squeeze(0).transpose(0, 1)
