"""ControlNet (Zhang et al. 2023, arXiv 2302.05543): a UNet's encoder, fed a hint, with a zero convolution per block.

Shapes: b batch, c channels, h and w height and width of the latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..ldm.modules.diffusionmodules.openaimodel import TimestepEmbedSequential, UNetModel
from ..ldm.modules.diffusionmodules.util import timestep_embedding
from ..modules.ops import disable_weight_init as ops

# channels and stride of the convolutions that bring the hint from pixels to the latent's size
HINT_LAYERS = ((16, 1), (16, 1), (32, 2), (32, 1), (96, 2), (96, 1), (256, 2))


class ControlNet(nn.Module):
    """Turn a hint image into tensors to add to the blocks of a UNet of the same configuration.

    Args:
        hint_channels: channels of the hint, 3 for an image.
        config: the arguments of `UNetModel`, without `out_channels`.
    """

    def __init__(
        self,
        hint_channels: int,
        dtype: Any = None,
        device: Any = None,
        operations: Any = ops,
        **config: Any,
    ) -> None:
        super().__init__()
        kind = {"dtype": dtype, "device": device}
        encoder = UNetModel(**config, out_channels=config["in_channels"], **kind, operations=operations)
        self.model_channels = encoder.model_channels
        self.num_classes = encoder.num_classes
        self.dtype = dtype
        self.time_embed = encoder.time_embed
        if self.num_classes is not None:
            self.label_emb = encoder.label_emb
        self.input_blocks = encoder.input_blocks
        if encoder.middle_block is None:
            raise ValueError("a ControlNet needs a middle block; transformer_depth_middle is -2")
        self.middle_block = encoder.middle_block

        def zero_conv(channels: int) -> TimestepEmbedSequential:
            return TimestepEmbedSequential(operations.conv_nd(2, channels, channels, 1, **kind))

        self.zero_convs = nn.ModuleList(zero_conv(channels) for channels in block_channels(encoder))
        self.middle_block_out = zero_conv(encoder.model_channels * encoder.channel_mult[-1])
        self.input_hint_block = hint_block(operations, hint_channels, encoder.model_channels, **kind)

    def forward(
        self,
        x: Tensor,
        hint: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        control_type: Sequence[int] = (),
    ) -> dict[str, list[Tensor]]:
        """Return the tensors to add: `output` in the order of the input blocks, and `middle`.

        Args:
            x: noisy latent (b, c, h, w).
            hint: image (b, hint_channels, 8 * h, 8 * w) in 0..1.
            context: text (b, s, context_dim).
            y: vector (b, adm_in_channels), for a ControlNet of SDXL.
            control_type: the kind of the hint, read by a union ControlNet only.
        """
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels).to(x.dtype))
        emb, guided = self.guide(emb, self.input_hint_block(hint, emb, context), control_type)
        if self.num_classes is not None:
            if y is None:
                raise ValueError(
                    "this ControlNet needs y: it belongs to a model with a vector conditioning, such as SDXL"
                )
            emb = emb + self.label_emb(y)

        outputs = []
        h = x
        for number, (block, zero_conv) in enumerate(zip(self.input_blocks, self.zero_convs, strict=True)):
            h = block(h, emb, context)
            if number == 0:
                h = h + guided
            outputs.append(zero_conv(h, emb, context))
        h = self.middle_block(h, emb, context)
        return {"middle": [self.middle_block_out(h, emb, context)], "output": outputs}

    def guide(self, emb: Tensor, guided: Tensor, control_type: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the embedding (b, e) and the encoded hint (b, c, h, w) for the kind of the hint."""
        return emb, guided


def block_channels(unet: UNetModel) -> list[int]:
    """Return the channels that each input block of a UNet gives out."""
    channels = [unet.model_channels]
    levels = list(zip(unet.channel_mult, unet.num_res_blocks, strict=True))
    for level, (mult, blocks) in enumerate(levels):
        downsample = int(level != len(levels) - 1)
        channels += [unet.model_channels * mult] * (blocks + downsample)
    return channels


def hint_block(operations: Any, hint_channels: int, out_channels: int, **kind: Any) -> TimestepEmbedSequential:
    """Return the convolutions from a hint (b, hint_channels, 8 * h, 8 * w) to (b, out_channels, h, w)."""
    layers: list[nn.Module] = []
    ch = hint_channels
    for out, stride in HINT_LAYERS:
        layers += [operations.conv_nd(2, ch, out, 3, padding=1, stride=stride, **kind), nn.SiLU()]
        ch = out
    layers.append(operations.conv_nd(2, ch, out_channels, 3, padding=1, **kind))
    return TimestepEmbedSequential(*layers)
