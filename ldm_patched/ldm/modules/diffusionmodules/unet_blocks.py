"""Residual blocks and resampling layers of the UNet.

Shapes: b batch, c channels, h and w height and width, t video frames, e embedding channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....modules.ops import disable_weight_init as ops
from .util import AlphaBlender, avg_pool_nd, checkpoint, timestep_embedding


class TimestepBlock(nn.Module):
    """Base of the layers that take the timestep embedding as second argument."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Apply the layer to `x` given `emb` (b, e)."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(x, emb)")


class Timestep(nn.Module):
    """Embed timesteps as cosines and sines of `dim` channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        """Map (n,) to (n, dim)."""
        return timestep_embedding(t, self.dim)


class Upsample(nn.Module):
    """Double height and width by nearest neighbour, then convolve if `use_conv`; time is left alone."""

    def __init__(
        self,
        channels: int,
        use_conv: bool,
        dims: int = 2,
        out_channels: int | None = None,
        padding: int = 1,
        dtype: Any = None,
        device: Any = None,
        operations: Any = ops,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.out_channels = out_channels or channels
        self.use_conv = use_conv
        self.dims = dims
        if use_conv:
            kind = {"dtype": dtype, "device": device}
            self.conv = operations.conv_nd(dims, channels, self.out_channels, 3, padding=padding, **kind)

    def forward(self, x: Tensor, output_shape: Sequence[int] | None = None) -> Tensor:
        """Map (b, c, h, w) to (b, c', 2h, 2w), or to the height and width of `output_shape`."""
        kept = 3 if self.dims == 3 else 2
        size = list(output_shape[kept:]) if output_shape is not None else [2 * n for n in x.shape[kept:]]
        x = F.interpolate(x, size=[*x.shape[2:kept], *size], mode="nearest")
        return self.conv(x) if self.use_conv else x


class Downsample(nn.Module):
    """Halve height and width, by a convolution of stride 2 or by averaging; time is left alone."""

    def __init__(
        self,
        channels: int,
        use_conv: bool,
        dims: int = 2,
        out_channels: int | None = None,
        padding: int = 1,
        dtype: Any = None,
        device: Any = None,
        operations: Any = ops,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.out_channels = out_channels or channels
        self.use_conv = use_conv
        self.dims = dims
        stride: Any = (1, 2, 2) if dims == 3 else 2
        if use_conv:
            kind = {"dtype": dtype, "device": device}
            self.op = operations.conv_nd(dims, channels, self.out_channels, 3, stride=stride, padding=padding, **kind)
        elif self.out_channels != channels:
            raise ValueError(f"averaging keeps the channels: {channels} cannot become {self.out_channels}")
        else:
            self.op = avg_pool_nd(dims, kernel_size=stride, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to (b, c', ceil(h / 2), ceil(w / 2)); averaging rounds down."""
        return self.op(x)


class ResBlock(TimestepBlock):
    """Two convolutions with the timestep embedding added between them, and a skip connection.

    With `use_scale_shift_norm` the embedding scales and shifts the second norm instead; `skip_t_emb` leaves it out;
    `exchange_temb_dims` reads it as (b, t, e) for a block over video.
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float,
        out_channels: int | None = None,
        use_conv: bool = False,
        use_scale_shift_norm: bool = False,
        dims: int = 2,
        use_checkpoint: bool = False,
        up: bool = False,
        down: bool = False,
        kernel_size: int | Sequence[int] = 3,
        exchange_temb_dims: bool = False,
        skip_t_emb: bool = False,
        dtype: Any = None,
        device: Any = None,
        operations: Any = ops,
    ) -> None:
        super().__init__()
        out = out_channels or channels
        kind = {"dtype": dtype, "device": device}
        self.channels = channels
        self.emb_channels = emb_channels
        self.out_channels = out
        self.use_checkpoint = use_checkpoint
        self.use_scale_shift_norm = use_scale_shift_norm
        self.skip_t_emb = skip_t_emb
        self.exchange_temb_dims = exchange_temb_dims and not skip_t_emb
        self.updown = up or down

        kernel: Any = kernel_size if isinstance(kernel_size, int) else tuple(kernel_size)
        padding: Any = kernel // 2 if isinstance(kernel, int) else tuple(k // 2 for k in kernel)
        self.in_layers = nn.Sequential(
            operations.GroupNorm(32, channels, **kind),
            nn.SiLU(),
            operations.conv_nd(dims, channels, out, kernel, padding=padding, **kind),
        )
        resample = Upsample if up else Downsample
        self.h_upd = resample(channels, False, dims) if self.updown else nn.Identity()
        self.x_upd = resample(channels, False, dims) if self.updown else nn.Identity()
        self.emb_layers = None
        if not skip_t_emb:
            emb_out = 2 * out if use_scale_shift_norm else out
            self.emb_layers = nn.Sequential(nn.SiLU(), operations.Linear(emb_channels, emb_out, **kind))
        self.out_layers = nn.Sequential(
            operations.GroupNorm(32, out, **kind),
            nn.SiLU(),
            nn.Dropout(dropout),
            operations.conv_nd(dims, out, out, kernel, padding=padding, **kind),
        )
        if out == channels:
            self.skip_connection = nn.Identity()
        elif use_conv:
            self.skip_connection = operations.conv_nd(dims, channels, out, kernel, padding=padding, **kind)
        else:
            self.skip_connection = operations.conv_nd(dims, channels, out, 1, **kind)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map (b, c, h, w) with the embedding (b, e) to (b, c', h', w')."""
        return checkpoint(self._forward, (x, emb), self.parameters(), self.use_checkpoint)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, activate, convolve = self.in_layers
        h = convolve(self.h_upd(activate(norm(x))))
        return self.skip_connection(self.x_upd(x)) + self._condition(h, emb)

    def _condition(self, h: Tensor, emb: Tensor) -> Tensor:
        """Bring in the embedding and run the output layers."""
        if self.emb_layers is None:
            return self.out_layers(h)
        added = self.emb_layers(emb).to(h.dtype)
        added = added.reshape(*added.shape, *[1] * (h.ndim - added.ndim))
        if self.use_scale_shift_norm:
            scale, shift = added.chunk(2, dim=1)
            return self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        if self.exchange_temb_dims:
            added = added.movedim(1, 2)
        return self.out_layers(h + added)


class VideoResBlock(ResBlock):
    """A residual block within each frame, mixed with one over the frames of a video."""

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float,
        video_kernel_size: int | Sequence[int] = 3,
        merge_strategy: str = "fixed",
        merge_factor: float = 0.5,
        out_channels: int | None = None,
        use_conv: bool = False,
        use_scale_shift_norm: bool = False,
        dims: int = 2,
        use_checkpoint: bool = False,
        up: bool = False,
        down: bool = False,
        dtype: Any = None,
        device: Any = None,
        operations: Any = ops,
    ) -> None:
        kind = {"dtype": dtype, "device": device, "operations": operations}
        super().__init__(
            channels,
            emb_channels,
            dropout,
            out_channels=out_channels,
            use_conv=use_conv,
            use_scale_shift_norm=use_scale_shift_norm,
            dims=dims,
            use_checkpoint=use_checkpoint,
            up=up,
            down=down,
            **kind,
        )
        self.time_stack = ResBlock(
            self.out_channels,
            emb_channels,
            dropout,
            dims=3,
            kernel_size=video_kernel_size,
            use_checkpoint=use_checkpoint,
            exchange_temb_dims=True,
            **kind,
        )
        self.time_mixer = AlphaBlender(merge_factor, merge_strategy, rearrange_pattern="b t -> b 1 t 1 1")

    def forward(  # type: ignore[override]
        self, x: Tensor, emb: Tensor, num_video_frames: int, image_only_indicator: Tensor | None = None
    ) -> Tensor:
        """Map frames (b * t, c, h, w) with the embedding (b * t, e) to (b * t, c', h', w')."""
        x = super().forward(x, emb)
        video = x.unflatten(0, (-1, num_video_frames)).transpose(1, 2)  # (b, c, t, h, w)
        moved = self.time_stack(video, emb.unflatten(0, (-1, num_video_frames)))
        return self.time_mixer(video, moved, image_only_indicator).transpose(1, 2).flatten(0, 1)


def concatenate(h: Tensor, skip: Tensor | None) -> Tensor:
    """Join a feature map with its skip connection along the channels; a patch may have removed the skip."""
    return h if skip is None else torch.cat([h, skip], dim=1)


def embedder(operations: Any, channels: int, embed_dim: int, **kind: Any) -> nn.Sequential:
    """Build the two-layer network that turns an embedding into what the residual blocks take."""
    return nn.Sequential(
        operations.Linear(channels, embed_dim, **kind), nn.SiLU(), operations.Linear(embed_dim, embed_dim, **kind)
    )


def label_embedder(
    operations: Any, num_classes: int | str, adm_in_channels: int | None, embed_dim: int, **kind: Any
) -> nn.Module:
    """Build the embedding of the argument `y`."""
    if isinstance(num_classes, int):
        return operations.Embedding(num_classes, embed_dim, **kind)
    if num_classes == "continuous":
        return operations.Linear(1, embed_dim, **kind)
    if num_classes != "sequential":
        raise ValueError(f"num_classes is a number, 'continuous' or 'sequential', not {num_classes!r}")
    if adm_in_channels is None:
        raise ValueError("num_classes='sequential' needs adm_in_channels")
    return nn.Sequential(embedder(operations, adm_in_channels, embed_dim, **kind))
