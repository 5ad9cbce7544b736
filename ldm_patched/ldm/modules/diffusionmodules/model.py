"""The two halves of the latent autoencoder, in the layout of public Stable Diffusion checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ....modules import ops
from ..backends import dispatch

# Layers


def group_norm(channels: int, operations: Any, **factory: Any) -> nn.Module:
    """Make the autoencoder's normalisation: 32 groups, epsilon 1e-6."""
    return operations.GroupNorm(32, channels, eps=1e-6, affine=True, **factory)


class Upsample(nn.Module):
    """Double height and width by repetition, then smooth with a 3x3 convolution."""

    def __init__(self, channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to (b, c, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Downsample(nn.Module):
    """Halve height and width with a strided convolution, padded on the right and bottom only."""

    def __init__(self, channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, stride=2, padding=0, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to (b, c, h // 2, w // 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions beside a skip connection."""

    def __init__(self, in_channels: int, out_channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels, operations, **factory)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1, **factory)
        self.norm2 = group_norm(out_channels, operations, **factory)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1, **factory)
        self.nin_shortcut = (
            operations.Conv2d(in_channels, out_channels, 1, **factory) if in_channels != out_channels else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, in_channels, h, w) to (b, out_channels, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + h


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions, beside a skip connection."""

    def __init__(self, channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.norm = group_norm(channels, operations, **factory)
        self.q = operations.Conv2d(channels, channels, 1, **factory)
        self.k = operations.Conv2d(channels, channels, 1, **factory)
        self.v = operations.Conv2d(channels, channels, 1, **factory)
        self.proj_out = operations.Conv2d(channels, channels, 1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (b, c, h, w)."""
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))  # (b, h * w, c)
        out = dispatch.optimized_attention(q, k, v, heads=1)
        return x + self.proj_out(out.transpose(1, 2).reshape(x.shape))


class Mid(nn.Module):
    """The lowest resolution: residual block, attention, residual block."""

    def __init__(self, channels: int, operations: Any, resnet: type[nn.Module] = ResnetBlock, **factory: Any) -> None:
        super().__init__()
        self.block_1 = resnet(channels, channels, operations, **factory)
        self.attn_1 = AttnBlock(channels, operations, **factory)
        self.block_2 = resnet(channels, channels, operations, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (b, c, h, w)."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """All blocks of one resolution, and the way to the next one."""

    def __init__(
        self,
        widths: Sequence[int],
        resample: type[nn.Module] | None,
        name: str,
        operations: Any,
        resnet: type[nn.Module] = ResnetBlock,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            resnet(a, b, operations, **factory) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.resample_name = name if resample is not None else None
        if resample is not None:
            self.add_module(name, resample(widths[-1], operations, **factory))

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks, then change the resolution if this is not the last level."""
        for block in self.block:
            x = block(x)
        return x if self.resample_name is None else self.get_submodule(self.resample_name)(x)


# Halves


class Encoder(nn.Module):
    """Turn an image into the mean and log-variance of its latent."""

    def __init__(
        self,
        *,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        z_channels: int,
        in_channels: int = 3,
        double_z: bool = True,
        dtype: Any = None,
        device: Any = None,
        operations: Any = ops.disable_weight_init,
    ) -> None:
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        widths = [ch * mult for mult in (1, *ch_mult)]
        last = len(ch_mult) - 1
        self.conv_in = operations.Conv2d(in_channels, ch, 3, padding=1, **factory)
        self.down = nn.ModuleList(
            Level(
                [widths[i]] + [widths[i + 1]] * num_res_blocks,
                Downsample if i < last else None,
                "downsample",
                operations,
                **factory,
            )
            for i in range(len(ch_mult))
        )
        self.mid = Mid(widths[-1], operations, **factory)
        self.norm_out = group_norm(widths[-1], operations, **factory)
        self.conv_out = operations.Conv2d(widths[-1], z_channels * (2 if double_z else 1), 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, in_channels, h, w) to (b, 2 * z_channels, h / f, w / f) with f = 2 ** (levels - 1)."""
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Turn a latent into an image; `resnet` is the class of its residual blocks."""

    resnet: type[nn.Module] = ResnetBlock

    def __init__(
        self,
        *,
        ch: int,
        ch_mult: Sequence[int],
        num_res_blocks: int,
        z_channels: int,
        out_ch: int = 3,
        dtype: Any = None,
        device: Any = None,
        operations: Any = ops.disable_weight_init,
    ) -> None:
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        widths = [ch * mult for mult in (*ch_mult, ch_mult[-1])]
        self.conv_in = operations.Conv2d(z_channels, widths[-1], 3, padding=1, **factory)
        self.mid = Mid(widths[-1], operations, self.resnet, **factory)
        self.up = nn.ModuleList(
            Level(
                [widths[i + 1]] + [widths[i]] * (num_res_blocks + 1),
                Upsample if i > 0 else None,
                "upsample",
                operations,
                self.resnet,
                **factory,
            )
            for i in range(len(ch_mult))
        )
        self.norm_out = group_norm(widths[0], operations, **factory)
        self.conv_out = operations.Conv2d(widths[0], out_ch, 3, padding=1, **factory)

    def forward(self, z: Tensor) -> Tensor:
        """Map (b, z_channels, h, w) to (b, out_ch, f * h, f * w)."""
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))
