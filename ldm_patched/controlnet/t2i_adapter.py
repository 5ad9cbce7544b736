"""T2I adapters (Mou et al. 2023, arXiv 2302.08453): a few convolutions from a hint to tensors for a UNet's encoder.

Shapes: b batch, c channels, h and w height and width of the latent. A hint has 8 pixels on a latent pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..files.shapes import Shapes, count_blocks, side
from ..modules.ops import disable_weight_init as ops
from ..sampling.upscale import common_upscale
from .control import HINT_SCALE, Control, ControlNet, hint_for_batch

SD_SHUFFLE, XL_SHUFFLE = 8, 16  # hint pixels that become channels of one
XL_CHANNELS = (256, 768)  # of one and of three colours
BLOCKS = 2  # of each stage
GIVEN_EVERY = 3  # blocks of a UNet's encoder
XL_BEFORE = (3, 1, 2, 1)  # blocks of SDXL's encoder between two stages


class Residual(nn.Module):
    """Two convolutions beside the identity, behind a halving and a change of channels where there are any."""

    def __init__(self, before: int, channels: int, halved: bool, learned: bool, size: int, **kind: Any) -> None:
        super().__init__()
        self.halved = halved
        if halved and learned:
            self.down_opt = nn.ModuleDict({"op": ops.Conv2d(before, before, 3, stride=2, padding=1, **kind)})
        self.in_conv = None if before == channels else ops.Conv2d(before, channels, size, padding=size // 2, **kind)
        self.block1 = ops.Conv2d(channels, channels, 3, padding=1, **kind)
        self.block2 = ops.Conv2d(channels, channels, size, padding=size // 2, **kind)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (b, channels, h, w), or of half the size."""
        if self.halved:
            x = self.down_opt["op"](x) if hasattr(self, "down_opt") else halved(x)
        if self.in_conv is not None:
            x = self.in_conv(x)
        found: Tensor = x + self.block2(F.relu(self.block1(x)))
        return found


class Light(nn.Module):
    """A stage of a light adapter: residual blocks of a quarter of the channels."""

    def __init__(self, before: int, channels: int, blocks: int, halved: bool, **kind: Any) -> None:
        super().__init__()
        inner = channels // 4
        self.halved = halved
        self.in_conv = ops.Conv2d(before, inner, 1, **kind)
        self.body = nn.Sequential(*(Residual(inner, inner, False, False, 3, **kind) for _ in range(blocks)))
        self.out_conv = ops.Conv2d(inner, channels, 1, **kind)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (b, channels, h, w), or of half the size."""
        found: Tensor = self.out_conv(self.body(self.in_conv(halved(x) if self.halved else x)))
        return found


def halved(x: Tensor) -> Tensor:
    """Return means of 2x2; an odd side has zeros at both ends."""
    return F.avg_pool2d(x, 2, 2, padding=(x.shape[2] % 2, x.shape[3] % 2))


class Adapter(nn.Module):
    """The network: stages of features, the first of the latent's size or, for SDXL, of half of it."""

    def __init__(self, config: Mapping[str, Any], **kind: Any) -> None:
        super().__init__()
        channels: Sequence[int] = config["channels"]
        self.channels_in, self.xl = config["channels_in"], config["xl"]
        self.shuffle = XL_SHUFFLE if self.xl else SD_SHUFFLE
        self.dtype = kind.get("dtype")
        if config["light"]:
            sources = (self.channels_in, *channels)
            stages = [Light(sources[i], c, config["blocks"], i > 0, **kind) for i, c in enumerate(channels)]
            self.body, self.stage = nn.ModuleList(stages), 1
            return
        self.conv_in = ops.Conv2d(self.channels_in, channels[0], 3, padding=1, **kind)
        body = []
        for i, c in enumerate(channels):
            before = channels[max(0, i - 1)]
            half = i == 2 if self.xl else i > 0
            body += [Residual(before, c, half, config["learned"], config["size"], **kind)]
            body += [Residual(c, c, False, False, config["size"], **kind) for _ in range(BLOCKS - 1)]
        self.body, self.stage = nn.ModuleList(body), BLOCKS

    def forward(self, hint: Tensor) -> Control:
        """Return what is added to a UNet's input and middle blocks, the last first, for a hint (b, c, 8 h, 8 w)."""
        x = F.pixel_unshuffle(hint, self.shuffle)
        if hasattr(self, "conv_in"):
            x = self.conv_in(x)
        features: list[Tensor | None] = []
        for i, block in enumerate(self.body):
            x = block(x)
            if (i + 1) % self.stage == 0:
                features += [*[None] * self._blocks_before(i // self.stage), x]
        features.reverse()
        return {"input": features[1:], "middle": features[:1]} if self.xl else {"input": features}

    def _blocks_before(self, stage: int) -> int:
        """Return how many blocks of a UNet lie between a stage and the one before it."""
        return XL_BEFORE[stage] if self.xl else GIVEN_EVERY - 1


def adapter_config(shapes: Shapes) -> dict[str, Any] | None:
    """Return the arguments of the network from the keys of an adapter in its own layout; None for anything else.

    Raises CheckpointError for an adapter of which something is missing.
    """
    if "body.0.in_conv.weight" in shapes and "conv_in.weight" not in shapes:
        channels = [side(shapes, f"body.{i}.out_conv.weight") for i in range(count_blocks(shapes, "body."))]
        blocks, first = count_blocks(shapes, "body.0.body."), side(shapes, "body.0.in_conv.weight", 1)
        return {"light": True, "channels_in": first, "channels": channels, "blocks": blocks, "xl": False}
    if "conv_in.weight" not in shapes or "body.0.block1.weight" not in shapes:
        return None
    width, first = side(shapes, "conv_in.weight"), side(shapes, "conv_in.weight", 1)
    learned = any(key.endswith("down_opt.op.weight") for key in shapes)
    config = {"light": False, "channels_in": first, "channels": [width, 2 * width, 4 * width, 4 * width]}
    return {**config, "learned": learned, "size": side(shapes, "body.0.block2.weight", 2), "xl": first in XL_CHANNELS}


class T2IAdapter(ControlNet):
    """One use of a T2I adapter; it sees neither latents nor prompt, so it runs once in a run."""

    features: Control | None = None  # of the run in progress
    size: Any = None  # of its latents

    def _computed(self, x: Tensor, t: Tensor, cond: Mapping[str, Any], batched_number: int) -> Control:
        """Return what is added to the UNet, before its strength."""
        network: Any = self.control_model
        if self.cond_hint is None or self.features is None or self.size != x.shape[-2:]:
            self.cond_hint, self.size = self._resized(x), x.shape[-2:]
            self.features = network.to(x.device)(self.cond_hint.to(x.device, network.dtype))
        return {
            name: [None if one is None else hint_for_batch(one, len(x), batched_number).to(x.dtype) for one in tensors]
            for name, tensors in self.features.items()
        }

    def _resized(self, x: Tensor) -> Tensor:
        """Return the hint in the pixels of latents (b, c, h, w), up to whole ones of the smallest features."""
        network: Any = self.control_model
        height, width = (math.ceil(side * HINT_SCALE / network.shuffle) * network.shuffle for side in x.shape[-2:])
        hint = common_upscale(self.hint(), width, height, "nearest-exact", "center").float()
        one_colour = network.channels_in == network.shuffle**2
        return hint.mean(1, keepdim=True) if one_colour else hint

    def cleanup(self) -> None:
        """Drop what belongs to a run, in the whole chain."""
        self.features = self.size = None
        super().cleanup()
