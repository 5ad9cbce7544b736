"""The UNet of latent diffusion, with every slot for patches that ComfyUI calls inside it.

Shapes: b batch, c channels, h and w height and width, e embedding channels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ....modules.ops import disable_weight_init as ops
from ....modules.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from ..layers import default
from ..transformer import SpatialTransformer, SpatialVideoTransformer
from .unet_blocks import (
    Downsample,
    ResBlock,
    Timestep,
    TimestepBlock,
    Upsample,
    VideoResBlock,
    concatenate,
    embedder,
    label_embedder,
)
from .unet_config import check_config, expand_depth, output_depth
from .util import timestep_embedding

__all__ = [
    "Downsample",
    "ResBlock",
    "Timestep",
    "TimestepBlock",
    "TimestepEmbedSequential",
    "UNetModel",
    "Upsample",
    "VideoResBlock",
    "apply_control",
    "forward_timestep_embed",
]

log = logging.getLogger(__name__)


def forward_timestep_embed(
    ts: Any,
    x: Tensor,
    emb: Tensor,
    context: Any = None,
    transformer_options: MutableMapping[str, Any] | None = None,
    output_shape: Sequence[int] | None = None,
    time_context: Tensor | None = None,
    num_video_frames: int | None = None,
    image_only_indicator: Tensor | None = None,
) -> Tensor:
    """Run the layers of one UNet block, giving each what it takes; (b, c, h, w) to (b, c', h', w').

    A `forward_timestep_embed_patch` of the layer's class runs in its place. A `transformer_index` in
    `transformer_options` counts the spatial transformers that ran.
    """
    options: MutableMapping[str, Any] = {} if transformer_options is None else transformer_options
    handlers = options.get("patches", {}).get("forward_timestep_embed_patch", ())
    for layer in ts:
        handler = next((run for kind, run in handlers if isinstance(layer, kind)), None)
        if handler is not None:
            x = handler(
                layer, x, emb, context, options, output_shape, time_context, num_video_frames, image_only_indicator
            )
        elif isinstance(layer, VideoResBlock):
            x = layer(x, emb, num_video_frames, image_only_indicator)
        elif isinstance(layer, TimestepBlock):
            x = layer(x, emb)
        elif isinstance(layer, SpatialTransformer):
            if isinstance(layer, SpatialVideoTransformer):
                x = layer(x, context, time_context, num_video_frames, image_only_indicator, options)
            else:
                x = layer(x, context, options)
            if "transformer_index" in options:
                options["transformer_index"] += 1
        elif isinstance(layer, Upsample):
            x = layer(x, output_shape=output_shape)
        else:
            x = layer(x)
    return x


class TimestepEmbedSequential(nn.Sequential, TimestepBlock):
    """The layers of one UNet block in order, each given the embedding, the context or neither."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layers as `forward_timestep_embed` does."""
        return forward_timestep_embed(self, *args, **kwargs)


def apply_control(h: Any, control: MutableMapping[str, list[Any]] | None, name: str) -> Any:
    """Add the last waiting control of a group (input, middle, output) to `h` and take it off its list.

    A control of another shape is left out with a warning, as for a UNet patched to run at a lower resolution.
    """
    waiting = control.get(name) if control else None
    ctrl = waiting.pop() if waiting else None
    if ctrl is None:
        return h
    if ctrl.ndim != h.ndim or any(n not in (1, size) for n, size in zip(ctrl.shape, h.shape, strict=True)):
        log.warning("%s control of shape %s does not fit %s; left out", name, tuple(ctrl.shape), tuple(h.shape))
        return h
    return h + ctrl.to(h.dtype)


class UNetModel(nn.Module):
    """Predict from a noisy latent, its timestep and a context, in input, middle and output blocks.

    Args:
        num_res_blocks: residual blocks on each level, one number or one for each level of `channel_mult`.
        num_heads, num_head_channels: the count of heads or the channels of each; the other one is -1.
        transformer_depth: transformer blocks after each input residual block, one number or a list over all of them;
            `transformer_depth_output` the same for the output, counted from the highest resolution.
        transformer_depth_middle: as above; -1 leaves one residual block in the middle, -2 no middle block.
        num_classes: None, a number of labels, "continuous" for one float, "sequential" for a vector of
            `adm_in_channels`; anything but None makes the argument `y` of forward necessary.
        legacy: derive the head channels from `num_heads` even if `num_head_channels` is set.
        image_size, num_heads_upsample, use_new_attention_order: accepted from published configs, without effect.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int | Sequence[int],
        dropout: float = 0,
        channel_mult: Sequence[int] = (1, 2, 4, 8),
        conv_resample: bool = True,
        dims: int = 2,
        num_classes: int | str | None = None,
        use_checkpoint: bool = False,
        dtype: Any = torch.float32,
        num_heads: int = -1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        use_spatial_transformer: bool = False,
        transformer_depth: int | Sequence[int] = 1,
        context_dim: Any = None,
        n_embed: int | None = None,
        legacy: bool = True,
        disable_self_attentions: Sequence[bool] | None = None,
        num_attention_blocks: Sequence[int] | None = None,
        disable_middle_self_attn: bool = False,
        use_linear_in_transformer: bool = False,
        adm_in_channels: int | None = None,
        transformer_depth_middle: int | None = None,
        transformer_depth_output: Sequence[int] | None = None,
        use_temporal_resblock: bool = False,
        use_temporal_attention: bool = False,
        time_context_dim: int | None = None,
        extra_ff_mix_layer: bool = False,
        use_spatial_context: bool = False,
        merge_strategy: str | None = None,
        merge_factor: float = 0.0,
        video_kernel_size: int | Sequence[int] | None = None,
        disable_temporal_crossattention: bool = False,
        max_ddpm_temb_period: int = 10000,
        attn_precision: Any = None,
        heatmap_head: bool = False,
        device: Any = None,
        operations: Any = ops,
    ) -> None:
        super().__init__()
        levels = len(channel_mult)
        blocks = [num_res_blocks] * levels if isinstance(num_res_blocks, int) else list(num_res_blocks)
        check_config(levels, blocks, num_heads, num_head_channels, disable_self_attentions, num_attention_blocks)
        if heatmap_head:
            raise ValueError("heatmap_head is not supported")
        depths_in = expand_depth(transformer_depth, blocks)
        depths_out = output_depth(depths_in, blocks) if transformer_depth_output is None else transformer_depth_output
        depth_middle = depths_in[-1] if transformer_depth_middle is None else transformer_depth_middle

        self.in_channels = in_channels
        self.model_channels = model_channels
        self.out_channels = out_channels
        self.num_res_blocks = blocks
        self.channel_mult = channel_mult
        self.num_classes = num_classes
        self.use_checkpoint = use_checkpoint
        self.dtype = dtype
        self.num_heads = num_heads
        self.num_head_channels = num_head_channels
        self.predict_codebook_ids = n_embed is not None
        self.default_num_video_frames: int | None = None

        kind = {"dtype": dtype, "device": device}
        embed_dim = model_channels * 4
        self.time_embed = embedder(operations, model_channels, embed_dim, **kind)
        if num_classes is not None:
            self.label_emb = label_embedder(operations, num_classes, adm_in_channels, embed_dim, **kind)

        video: dict[str, Any] = {"merge_strategy": merge_strategy, "merge_factor": merge_factor}
        shared = {"dropout": dropout, "use_checkpoint": use_checkpoint, "operations": operations, **kind}

        def res_block(channels: int, out: int, **updown: bool) -> ResBlock:
            options = {"dims": dims, "use_scale_shift_norm": use_scale_shift_norm, **shared, **updown}
            if not use_temporal_resblock:
                return ResBlock(channels, embed_dim, out_channels=out, **options)
            kernel = 3 if video_kernel_size is None else video_kernel_size
            return VideoResBlock(channels, embed_dim, video_kernel_size=kernel, out_channels=out, **video, **options)

        def attention(channels: int, depth: int, disable_self_attn: bool) -> SpatialTransformer:
            heads = num_heads if num_head_channels == -1 else channels // num_head_channels
            dim_head = channels // heads if num_head_channels == -1 or legacy else num_head_channels
            options = {
                "depth": depth,
                "context_dim": context_dim,
                "disable_self_attn": disable_self_attn,
                "use_linear": use_linear_in_transformer,
                "attn_precision": attn_precision,
                **shared,
            }
            if not use_temporal_attention:
                return SpatialTransformer(channels, heads, dim_head, **options)
            return SpatialVideoTransformer(
                channels,
                heads,
                dim_head,
                checkpoint=options.pop("use_checkpoint"),
                time_context_dim=time_context_dim,
                ff_in=extra_ff_mix_layer,
                use_spatial_context=use_spatial_context,
                disable_temporal_crossattention=disable_temporal_crossattention,
                max_time_embed_period=max_ddpm_temb_period,
                **video,
                **options,
            )

        def res_and_attention(channels: int, out: int, level: int, index: int, depth: int) -> list[nn.Module]:
            layers: list[nn.Module] = [res_block(channels, out)]
            if depth > 0 and (num_attention_blocks is None or index < num_attention_blocks[level]):
                layers.append(attention(out, depth, bool(disable_self_attentions and disable_self_attentions[level])))
            return layers

        resample = {"dims": dims, "operations": operations, **kind}
        widths = [model_channels * mult for mult in channel_mult]

        # input: each level ends by halving the resolution, except the last
        ch = model_channels
        skips = [ch]
        self.input_blocks = nn.ModuleList(
            [TimestepEmbedSequential(operations.conv_nd(dims, in_channels, ch, 3, padding=1, **kind))]
        )
        depths = iter(depths_in)
        for level, width in enumerate(widths):
            for index in range(blocks[level]):
                layers = res_and_attention(ch, width, level, index, next(depths))
                self.input_blocks.append(TimestepEmbedSequential(*layers))
                ch = width
                skips.append(ch)
            if level != levels - 1:
                down = res_block(ch, ch, down=True) if resblock_updown else Downsample(ch, conv_resample, **resample)
                self.input_blocks.append(TimestepEmbedSequential(down))
                skips.append(ch)

        self.middle_block: TimestepEmbedSequential | None = None
        if depth_middle >= 0:
            around = attention(ch, depth_middle, disable_middle_self_attn)
            self.middle_block = TimestepEmbedSequential(res_block(ch, ch), around, res_block(ch, ch))
        elif depth_middle == -1:
            self.middle_block = TimestepEmbedSequential(res_block(ch, ch))

        # output: the mirror image, one residual block more on each level, fed with the skip connections
        self.output_blocks = nn.ModuleList([])
        depths = reversed(depths_out)
        for level, width in reversed(list(enumerate(widths))):
            for index in range(blocks[level] + 1):
                layers = res_and_attention(ch + skips.pop(), width, level, index, next(depths))
                ch = width
                if level and index == blocks[level]:
                    up = res_block(ch, ch, up=True) if resblock_updown else Upsample(ch, conv_resample, **resample)
                    layers.append(up)
                self.output_blocks.append(TimestepEmbedSequential(*layers))

        self.out = nn.Sequential(
            operations.GroupNorm(32, ch, **kind),
            nn.SiLU(),
            operations.conv_nd(dims, ch, out_channels, 3, padding=1, **kind),
        )
        if n_embed is not None:
            self.id_predictor = nn.Sequential(
                operations.GroupNorm(32, ch, **kind), operations.conv_nd(dims, ch, n_embed, 1, **kind)
            )

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | None = None,
        context: Any = None,
        y: Tensor | None = None,
        control: Mapping[str, Sequence[Tensor | None]] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Map a latent (b, c, h, w) to a prediction (b, c', h, w).

        Args:
            timesteps: (b,), may be fractional.
            context: (b, s, context_dim) for cross-attention.
            y: labels (b,) or a vector (b, adm_in_channels), for a model with `num_classes`.
            control: tensors to add to the input, middle and output blocks; each list is used from its end.
            transformer_options: patches and what they may read; neither it nor `control` is changed.
            kwargs: `num_video_frames`, `image_only_indicator` and `time_context` of a video model.
        """
        options = default(transformer_options, {})
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timesteps, context, y, control, options, **kwargs)

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Any = None,
        y: Tensor | None = None,
        control: Mapping[str, Sequence[Tensor | None]] | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        # one private copy for the whole pass: the blocks write into it and patches may pass notes to later ones
        options = {**default(transformer_options, {}), "original_shape": list(x.shape), "transformer_index": 0}
        waiting = {name: list(tensors) for name, tensors in default(control, {}).items()}
        patches = options.get("patches", {})
        video: dict[str, Any] = {
            "time_context": kwargs.get("time_context"),
            "num_video_frames": kwargs.get("num_video_frames", self.default_num_video_frames),
            "image_only_indicator": kwargs.get("image_only_indicator"),
        }
        emb = self._embed(x, timesteps, y, options)

        h = x
        skips: list[Tensor] = []
        for number, module in enumerate(self.input_blocks):
            options["block"] = ("input", number)
            h = forward_timestep_embed(module, h, emb, context, options, **video)
            h = apply_control(h, waiting, "input")
            for patch in patches.get("input_block_patch", ()):
                h = patch(h, options)
            skips.append(h)
            for patch in patches.get("input_block_patch_after_skip", ()):
                h = patch(h, options)

        options["block"] = ("middle", 0)
        if self.middle_block is not None:
            h = forward_timestep_embed(self.middle_block, h, emb, context, options, **video)
        h = apply_control(h, waiting, "middle")
        for patch in patches.get("middle_block_after_patch", ()):
            seen = {"h": h, "x": x, "emb": emb, "context": context, "y": y, "timesteps": timesteps}
            h = patch({**seen, "transformer_options": options})["h"]

        for number, module in enumerate(self.output_blocks):
            options["block"] = ("output", number)
            skip = apply_control(skips.pop(), waiting, "output")
            for patch in patches.get("output_block_patch", ()):
                h, skip = patch(h, skip, options)
            h = concatenate(h, skip)
            output_shape = skips[-1].shape if skips else None
            h = forward_timestep_embed(module, h, emb, context, options, output_shape, **video)

        h = h.to(x.dtype)
        return self.id_predictor(h) if self.predict_codebook_ids else self.out(h)

    def _embed(self, x: Tensor, timesteps: Tensor, y: Tensor | None, options: dict[str, Any]) -> Tensor:
        """Return the embedding of timesteps and `y`, (b, 4 * model_channels)."""
        if (y is None) != (self.num_classes is None):
            wanted = "needs y" if y is None else "takes no y"
            raise ValueError(f"this model {wanted}: it was built with num_classes={self.num_classes!r}")
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(x.dtype))
        for patch in options.get("patches", {}).get("emb_patch", ()):
            emb = patch(emb, self.model_channels, options)
        return emb if y is None else emb + self.label_emb(y).to(emb.dtype)
