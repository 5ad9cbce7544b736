"""Transformer blocks of latent diffusion UNets, over tokens, feature maps and video frames.

Shapes: b batch, s tokens, c channels, h and w height and width, t video frames.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...modules.ops import disable_weight_init as ops
from .diffusionmodules.util import AlphaBlender, checkpoint, timestep_embedding
from .layers import CrossAttention, FeedForward, default


class BasicTransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each after a layer norm and added to its input.

    The patches of `transformer_options` are called as in ComfyUI's UNets.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        d_head: int,
        dropout: float = 0.0,
        context_dim: int | None = None,
        gated_ff: bool = True,
        checkpoint: bool = True,
        ff_in: bool = False,
        inner_dim: int | None = None,
        disable_self_attn: bool = False,
        disable_temporal_crossattention: bool = False,
        switch_temporal_ca_to_sa: bool = False,
        attn_precision: Any = None,
        dtype: Any = None,
        device: Any = None,
        operations: Any = ops,
    ) -> None:
        super().__init__()
        if disable_temporal_crossattention and switch_temporal_ca_to_sa:
            raise ValueError("switch_temporal_ca_to_sa needs the attn2 that disable_temporal_crossattention removes")
        with_ff_in = ff_in or inner_dim is not None
        inner_dim = default(inner_dim, dim)
        kind: dict[str, Any] = {"dtype": dtype, "device": device}
        heads: dict[str, Any] = {
            "heads": n_heads,
            "dim_head": d_head,
            "dropout": dropout,
            "attn_precision": attn_precision,
        }
        forward: dict[str, Any] = {"dropout": dropout, "glu": gated_ff}

        self.is_res = inner_dim == dim
        self.n_heads = n_heads
        self.d_head = d_head
        self.attn_precision = attn_precision
        self.checkpoint = checkpoint
        self.disable_self_attn = disable_self_attn
        self.switch_temporal_ca_to_sa = switch_temporal_ca_to_sa

        self.ff_in = None
        if with_ff_in:
            self.norm_in = operations.LayerNorm(dim, **kind)
            self.ff_in = FeedForward(dim, inner_dim, **forward, **kind, operations=operations)
        context1 = context_dim if disable_self_attn else None
        self.attn1 = CrossAttention(inner_dim, context1, **heads, **kind, operations=operations)
        self.ff = FeedForward(inner_dim, dim, **forward, **kind, operations=operations)
        self.attn2 = None
        if not disable_temporal_crossattention:
            context2 = None if switch_temporal_ca_to_sa else context_dim
            self.attn2 = CrossAttention(inner_dim, context2, **heads, **kind, operations=operations)
            self.norm2 = operations.LayerNorm(inner_dim, **kind)
        self.norm1 = operations.LayerNorm(inner_dim, **kind)
        self.norm3 = operations.LayerNorm(inner_dim, **kind)

    def forward(
        self, x: Tensor, context: Tensor | None = None, transformer_options: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Map tokens (b, s, dim) with context (b, s', context_dim) to (b, s, dim)."""
        inputs = (x, context, default(transformer_options, {}))
        return checkpoint(self._forward, inputs, self.parameters(), self.checkpoint)

    def _forward(self, x: Tensor, context: Tensor | None, transformer_options: Mapping[str, Any]) -> Tensor:
        patches = transformer_options.get("patches", {})
        extra_options = {k: v for k, v in transformer_options.items() if k not in ("patches", "patches_replace")}
        extra_options |= {"n_heads": self.n_heads, "dim_head": self.d_head, "attn_precision": self.attn_precision}

        if self.ff_in is not None:
            h = self.ff_in(self.norm_in(x))
            x = h + x if self.is_res else h

        n = self.norm1(x)
        context1 = context if self.disable_self_attn else None
        x = self._attend("attn1", n, context1, transformer_options, extra_options) + x
        for patch in patches.get("middle_patch", ()):
            x = patch(x, extra_options)

        if self.attn2 is not None:
            n = self.norm2(x)
            context2 = None if self.switch_temporal_ca_to_sa else context
            x = self._attend("attn2", n, context2, transformer_options, extra_options) + x

        h = self.ff(self.norm3(x))
        return h + x if self.is_res else h

    def _attend(
        self,
        name: str,
        n: Tensor,
        context: Tensor | None,
        transformer_options: Mapping[str, Any],
        extra_options: dict[str, Any],
    ) -> Tensor:
        """Run attn1 or attn2 on normed tokens between its input, replace and output patches."""
        attn: CrossAttention = getattr(self, name)
        patches = transformer_options.get("patches", {})
        value: Tensor | None = None
        if patches.get(f"{name}_patch"):
            # patches do arithmetic on all three, so self-attention shows them the tokens as context
            value = context = default(context, n)
            for patch in patches[f"{name}_patch"]:
                n, context, value = patch(n, context, value, extra_options)

        replace = find_replacement(name, transformer_options)
        if replace is None:
            n = attn(n, context=context, value=value, transformer_options=transformer_options)
        else:
            n = attn.to_out(replace(*attn.project(n, context, value), extra_options))
        for patch in patches.get(f"{name}_output_patch", ()):
            n = patch(n, extra_options)
        return n


def find_replacement(name: str, transformer_options: Mapping[str, Any]) -> Callable[..., Tensor] | None:
    """Return the `patches_replace` entry of attn1 or attn2 for the current block, the longer address first."""
    replacements = transformer_options.get("patches_replace", {}).get(name)
    block = transformer_options.get("block")
    if not replacements or block is None:
        return None
    address = (block[0], block[1], transformer_options.get("block_index", 0))
    return replacements.get(address, replacements.get(address[:2]))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, between two projections and added to the input.

    The projections are 1x1 convolutions, or linear layers with `use_linear`.
    """

    def __init__(
        self,
        in_channels: int,
        n_heads: int,
        d_head: int,
        depth: int = 1,
        dropout: float = 0.0,
        context_dim: int | list[int] | None = None,
        disable_self_attn: bool = False,
        use_linear: bool = False,
        use_checkpoint: bool = True,
        attn_precision: Any = None,
        dtype: Any = None,
        device: Any = None,
        operations: Any = ops,
    ) -> None:
        super().__init__()
        inner_dim = n_heads * d_head
        kind: dict[str, Any] = {"dtype": dtype, "device": device}
        self.in_channels = in_channels
        self.use_linear = use_linear
        self.norm = operations.GroupNorm(num_groups=32, num_channels=in_channels, eps=1e-6, affine=True, **kind)
        project = operations.Linear if use_linear else functools.partial(operations.Conv2d, kernel_size=1)
        self.proj_in = project(in_channels, inner_dim, **kind)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(
                inner_dim,
                n_heads,
                d_head,
                dropout=dropout,
                context_dim=dim,
                checkpoint=use_checkpoint,
                disable_self_attn=disable_self_attn,
                attn_precision=attn_precision,
                operations=operations,
                **kind,
            )
            for dim in per_block(context_dim, depth)
        )
        self.proj_out = project(inner_dim, in_channels, **kind)

    def to_tokens(self, x: Tensor) -> Tensor:
        """Normalise and project (b, c, h, w) to tokens (b, h * w, inner)."""
        x = self.norm(x)
        if self.use_linear:
            return self.proj_in(x.permute(0, 2, 3, 1).flatten(1, 2))
        # a contiguous copy here keeps every layer norm and residual of the blocks from making its own
        return self.proj_in(x).permute(0, 2, 3, 1).flatten(1, 2).contiguous()

    def to_image(self, tokens: Tensor, x_in: Tensor) -> Tensor:
        """Project tokens (b, h * w, inner) back to (b, c, h, w) and add the input."""
        x = self.proj_out(tokens) if self.use_linear else tokens
        x = x.unflatten(1, x_in.shape[-2:]).permute(0, 3, 1, 2)
        # the first operand decides the layout of the sum
        return x_in + (x if self.use_linear else self.proj_out(x))

    def forward(
        self,
        x: Tensor,
        context: Tensor | Sequence[Tensor | None] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Map (b, c, h, w) to the same shape; the context is one tensor, or one for each block."""
        options = {**default(transformer_options, {}), "activations_shape": list(x.shape)}
        tokens = self.to_tokens(x)
        contexts = per_block(context, len(self.transformer_blocks))
        for index, (block, own_context) in enumerate(zip(self.transformer_blocks, contexts, strict=True)):
            tokens = block(tokens, context=own_context, transformer_options={**options, "block_index": index})
        return self.to_image(tokens, x)


class SpatialVideoTransformer(SpatialTransformer):
    """Alternate attention within each frame with attention along time, mixed by an `AlphaBlender`."""

    def __init__(
        self,
        in_channels: int,
        n_heads: int,
        d_head: int,
        depth: int = 1,
        dropout: float = 0.0,
        use_linear: bool = False,
        context_dim: int | list[int] | None = None,
        use_spatial_context: bool = False,
        timesteps: int | None = None,
        merge_strategy: str = "fixed",
        merge_factor: float = 0.5,
        time_context_dim: int | list[int] | None = None,
        ff_in: bool = False,
        checkpoint: bool = False,
        time_depth: int = 1,
        disable_self_attn: bool = False,
        disable_temporal_crossattention: bool = False,
        max_time_embed_period: int = 10000,
        attn_precision: Any = None,
        dtype: Any = None,
        device: Any = None,
        operations: Any = ops,
    ) -> None:
        kind: dict[str, Any] = {"dtype": dtype, "device": device}
        shared: dict[str, Any] = {
            "dropout": dropout,
            "disable_self_attn": disable_self_attn,
            "attn_precision": attn_precision,
        }
        super().__init__(
            in_channels,
            n_heads,
            d_head,
            depth=depth,
            context_dim=context_dim,
            use_linear=use_linear,
            use_checkpoint=checkpoint,
            operations=operations,
            **shared,
            **kind,
        )
        inner_dim = n_heads * d_head
        self.depth = depth
        self.time_depth = time_depth
        self.timesteps = timesteps
        self.max_time_embed_period = max_time_embed_period
        self.use_spatial_context = use_spatial_context
        self.time_stack = nn.ModuleList(
            BasicTransformerBlock(
                inner_dim,
                n_heads,
                d_head,
                context_dim=dim,
                checkpoint=checkpoint,
                ff_in=ff_in,
                inner_dim=inner_dim,
                disable_temporal_crossattention=disable_temporal_crossattention,
                operations=operations,
                **shared,
                **kind,
            )
            for dim in per_block(context_dim if use_spatial_context else time_context_dim, depth)
        )
        self.time_pos_embed = nn.Sequential(
            operations.Linear(in_channels, in_channels * 4, **kind),
            nn.SiLU(),
            operations.Linear(in_channels * 4, inner_dim, **kind),
        )
        self.time_mixer = AlphaBlender(merge_factor, merge_strategy)

    def frame_context(self, context: Tensor | None, time_context: Tensor | None, t: int, pixels: int) -> Tensor | None:
        """Return the context of the time blocks, repeated for each pixel of each video: (b * h * w, s, c)."""
        if self.use_spatial_context:
            if context is None or context.ndim != 3:
                raise ValueError("use_spatial_context needs a context of shape (b * t, s, c)")
            time_context = default(time_context, context)[::t]  # the first frame speaks for its video
        if time_context is None:
            return None
        if time_context.ndim == 2:
            time_context = time_context[:, None]
        return time_context.repeat_interleave(pixels, dim=0)

    def frame_embedding(self, x: Tensor, t: int) -> Tensor:
        """Embed the frame number of each image in the batch, (b * t, 1, inner)."""
        frames = torch.arange(t, device=x.device).repeat(x.shape[0] // t)
        embedding = timestep_embedding(frames, self.in_channels, max_period=self.max_time_embed_period)
        return self.time_pos_embed(embedding.to(x.dtype))[:, None]

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        context: Tensor | None = None,
        time_context: Tensor | None = None,
        timesteps: int | None = None,
        image_only_indicator: Tensor | None = None,
        transformer_options: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Map frames (b * t, c, h, w) to the same shape; `timesteps` is t."""
        t = default(timesteps, self.timesteps)
        if t is None or x.shape[0] % t:
            raise ValueError(f"timesteps, the frames of one video, has to divide the batch {x.shape[0]}; it is {t}")
        options = {**default(transformer_options, {}), "activations_shape": list(x.shape)}
        time_context = self.frame_context(context, time_context, t, x.shape[-2] * x.shape[-1])
        tokens = self.to_tokens(x)
        embedding = self.frame_embedding(x, t)
        for index, (block, time_block) in enumerate(zip(self.transformer_blocks, self.time_stack, strict=True)):
            here = {**options, "block_index": index}
            tokens = block(tokens, context=context, transformer_options=here)
            moved = time_block(time_first(tokens + embedding, t), context=time_context, transformer_options=here)
            tokens = self.time_mixer(tokens, pixels_first(moved, tokens.shape[1]), image_only_indicator)
        return self.to_image(tokens, x)


def per_block(value: Any, depth: int) -> Sequence[Any]:
    """Give one value to each of `depth` blocks; a list or tuple already has one for each."""
    return value if isinstance(value, (list, tuple)) else [value] * depth


def time_first(tokens: Tensor, t: int) -> Tensor:
    """Make each pixel a sequence of frames, (b * t, s, c) to (b * s, t, c)."""
    return tokens.unflatten(0, (-1, t)).transpose(1, 2).flatten(0, 1)


def pixels_first(tokens: Tensor, s: int) -> Tensor:
    """Make each frame a sequence of pixels again, (b * s, t, c) to (b * t, s, c)."""
    return tokens.unflatten(0, (-1, s)).transpose(1, 2).flatten(0, 1)
