"""Grounded generation (GLIGEN, Li et al. 2023, arXiv 2301.07093): gated attention layers run as middle patches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...modules.ops import manual_cast as ops
from .attention import CrossAttention, FeedForward

MAX_OBJECTS = 30


class _Gated(nn.Module):
    """Hold what every gated layer has: two tanh gates that start closed, an attention and a feed-forward."""

    def __init__(self, query_dim: int, context_dim: int, n_heads: int, d_head: int) -> None:
        super().__init__()
        self.attn = CrossAttention(query_dim, context_dim, n_heads, d_head, operations=ops)
        self.ff = FeedForward(query_dim, glu=True, operations=ops)
        self.norm1 = ops.LayerNorm(query_dim)
        self.norm2 = ops.LayerNorm(query_dim)
        self.alpha_attn = nn.Parameter(torch.tensor(0.0))
        self.alpha_dense = nn.Parameter(torch.tensor(0.0))
        self.scale = 1.0

    def _add(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.scale * torch.tanh(self.alpha_attn) * attended
        return x + self.scale * torch.tanh(self.alpha_dense) * self.ff(self.norm2(x))


class GatedCrossAttentionDense(_Gated):
    """Let the image tokens attend to the objects."""

    def forward(self, x: Tensor, objs: Tensor) -> Tensor:
        """Return x (b, n, query_dim) with objs (b, m, context_dim) attended to."""
        return self._add(x, self.attn(self.norm1(x), objs, objs))


class GatedSelfAttentionDense(_Gated):
    """Let image tokens and projected objects attend to each other, and keep the image tokens (paper, eq. 8)."""

    def __init__(self, query_dim: int, context_dim: int, n_heads: int, d_head: int) -> None:
        super().__init__(query_dim, query_dim, n_heads, d_head)
        self.linear = ops.Linear(context_dim, query_dim)

    def attend(self, x: Tensor, objs: Tensor) -> Tensor:
        """Return the attention over both token sets, (b, n + m, query_dim)."""
        return self.attn(self.norm1(torch.cat([x, self.linear(objs)], dim=1)))

    def forward(self, x: Tensor, objs: Tensor) -> Tensor:
        """Return x (b, n, query_dim) with objs (b, m, context_dim) mixed in."""
        return self._add(x, self.attend(x, objs)[:, : x.shape[1]])


class GatedSelfAttentionDense2(GatedSelfAttentionDense):
    """Keep the object tokens instead, resized as an image to the grid of the image tokens.

    Both token counts must be squares; ValueError otherwise.
    """

    def forward(self, x: Tensor, objs: Tensor) -> Tensor:
        """Return x (b, n, query_dim) with the grid of objs (b, m, context_dim) added."""
        grid, side = math.isqrt(objs.shape[1]), math.isqrt(x.shape[1])
        if grid**2 != objs.shape[1] or side**2 != x.shape[1]:
            raise ValueError(f"token counts must be squares, not {x.shape[1]} image and {objs.shape[1]} object tokens")
        out = self.attend(x, objs)[:, x.shape[1] :]  # (b, m, c)
        out = out.transpose(1, 2).unflatten(2, (grid, grid))  # (b, c, g, g)
        out = nn.functional.interpolate(out, (side, side), mode="bicubic")
        return self._add(x, out.flatten(2).transpose(1, 2))


class FourierEmbedder:
    """Embed coordinates as sines and cosines of `num_freqs` geometric frequencies."""

    def __init__(self, num_freqs: int = 64, temperature: float = 100.0) -> None:
        self.freq_bands = temperature ** (torch.arange(num_freqs) / num_freqs)

    def __call__(self, x: Tensor) -> Tensor:
        """Return (..., c * 2 * num_freqs) for x (..., c): for each frequency all sines, then all cosines."""
        angles = x.unsqueeze(-2) * self.freq_bands.to(x).unsqueeze(-1)  # (..., f, c)
        return torch.stack([angles.sin(), angles.cos()], dim=-2).flatten(-3)


class PositionNet(nn.Module):
    """Turn boxes and their text features into grounding tokens; an absent object becomes the learnt null token."""

    def __init__(self, in_dim: int, out_dim: int, fourier_freqs: int = 8) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.fourier_embedder = FourierEmbedder(num_freqs=fourier_freqs)
        position_dim = fourier_freqs * 2 * 4  # sine and cosine of x1, y1, x2, y2
        self.linears = nn.Sequential(
            ops.Linear(in_dim + position_dim, 512), nn.SiLU(), ops.Linear(512, 512), nn.SiLU(), ops.Linear(512, out_dim)
        )
        self.null_positive_feature = nn.Parameter(torch.zeros(in_dim))
        self.null_position_feature = nn.Parameter(torch.zeros(position_dim))

    def forward(self, boxes: Tensor, masks: Tensor, positive_embeddings: Tensor) -> Tensor:
        """Return tokens (b, m, out_dim) for boxes (b, m, 4) in 0..1, masks (b, m) and text features (b, m, in_dim)."""
        present = masks.unsqueeze(-1)
        text = torch.lerp(self.null_positive_feature.to(boxes), positive_embeddings, present)
        place = torch.lerp(self.null_position_feature.to(boxes), self.fourier_embedder(boxes), present)
        return self.linears(torch.cat([text, place], dim=-1))


class Gligen(nn.Module):
    """Hold the gated layers of a UNet in transformer_index order, and the network that makes their tokens."""

    def __init__(self, modules: Sequence[nn.Module], position_net: PositionNet, key_dim: int) -> None:
        super().__init__()
        self.module_list = nn.ModuleList(modules)
        self.position_net = position_net
        self.key_dim = key_dim
        self.max_objs = MAX_OBJECTS

    def set_position(
        self, latent_shape: Sequence[int], params: Sequence[tuple[Tensor, int, int, int, int]], device: torch.device
    ) -> _MiddlePatch:
        """Return the middle patch for objects (text feature (1, key_dim), height, width, y, x), in latent pixels.

        Raises ValueError when there are more than `max_objs` objects.
        """
        if len(params) > self.max_objs:
            raise ValueError(f"{len(params)} grounded objects; GLIGEN takes at most {self.max_objs}")
        b, _, h, w = latent_shape
        boxes, features = torch.zeros(self.max_objs, 4), torch.zeros(self.max_objs, self.key_dim)
        masks = torch.zeros(self.max_objs)
        for i, (feature, height, width, y, x) in enumerate(params):
            boxes[i] = torch.tensor([x / w, y / h, (x + width) / w, (y + height) / h])
            features[i], masks[i] = feature.reshape(-1), 1.0
        tokens = (t.to(device).expand(b, *t.shape) for t in (boxes, masks, features))
        return _MiddlePatch(self.module_list, self.position_net(*tokens))

    def set_empty(self, latent_shape: Sequence[int], device: torch.device) -> _MiddlePatch:
        """Return the middle patch of a conditioning without objects."""
        return self.set_position(latent_shape, (), device)


class _MiddlePatch:
    """Run the gated layer of the current transformer on the grounding tokens."""

    def __init__(self, layers: nn.ModuleList, objs: Tensor) -> None:
        self.layers, self.objs = layers, objs

    def __call__(self, x: Tensor, extra_options: dict[str, Any]) -> Tensor:
        return self.layers[extra_options["transformer_index"]](x, self.objs.to(x))


def load_gligen(sd: Mapping[str, Tensor]) -> Gligen:
    """Build the Gligen of a state dict with `<block>.1.transformer_blocks.0.fuser.*` and `position_net.*` keys.

    Raises ValueError naming what is missing when the state dict is not GLIGEN's.
    """
    names = dict.fromkeys(k.split(".fuser.")[0] for k in sd if ".fuser." in k)
    if not names or "position_net.null_positive_feature" not in sd:
        raise ValueError("not a GLIGEN file: expected keys '<block>.transformer_blocks.0.fuser.*' and 'position_net.*'")
    layers = [_load_layer(sd, name + ".fuser.") for name in sorted(names, key=_block_order)]
    net = PositionNet(sd["position_net.null_positive_feature"].shape[0], sd["position_net.linears.4.weight"].shape[0])
    net.load_state_dict({k.removeprefix("position_net."): v for k, v in sd.items() if k.startswith("position_net.")})
    return Gligen(layers, net, layers[0].linear.in_features)


def _block_order(name: str) -> tuple[int, int]:
    part, number = name.split(".")[-5:-3] if "middle_block" not in name else ("middle_block", "0")
    return ["input_blocks", "middle_block", "output_blocks"].index(part), int(number)


def _load_layer(sd: Mapping[str, Tensor], prefix: str) -> GatedSelfAttentionDense:
    query_dim, key_dim = sd[prefix + "linear.weight"].shape
    n_heads = 8 if key_dim == 768 else query_dim // 64  # SD1.x has 8 heads, later models heads of 64
    layer = GatedSelfAttentionDense(query_dim, key_dim, n_heads, query_dim // n_heads)
    layer.load_state_dict({k.removeprefix(prefix): v for k, v in sd.items() if k.startswith(prefix)})
    return layer
