"""The union ControlNet: one ControlNet for several kinds of hint, told which kind it sees."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ldm.modules.backends import dispatch
from ..ldm.modules.diffusionmodules.util import timestep_embedding
from ..modules.ops import disable_weight_init as ops
from .cldm import ControlNet

CONTROL_TYPES = (
    "openpose",
    "depth",
    "hed/pidi/scribble/ted",
    "canny/lineart/anime_lineart/mlsd",
    "normal",
    "segment",
    "tile",
    "repaint",
)
TASK_HEADS = 8
TYPE_EMBED_DIM = 256


class QuickGELU(nn.Module):
    """The logistic approximation of GELU that CLIP uses."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (...) to (...)."""
        return x * torch.sigmoid(1.702 * x)


class TaskAttention(nn.Module):
    """Self-attention with one joint projection to queries, keys and values."""

    def __init__(self, dim: int, heads: int, operations: Any, **kind: Any) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = operations.Linear(dim, dim * 3, **kind)
        self.out_proj = operations.Linear(dim, dim, **kind)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, s, dim) to the same shape."""
        return self.out_proj(dispatch.optimized_attention(*self.in_proj(x).chunk(3, dim=-1), self.heads))


class ResBlockUnionControlnet(nn.Module):
    """A transformer layer over the pooled hints."""

    def __init__(self, dim: int, heads: int, operations: Any, **kind: Any) -> None:
        super().__init__()
        self.attn = TaskAttention(dim, heads, operations, **kind)
        self.ln_1 = operations.LayerNorm(dim, **kind)
        layers = (
            ("c_fc", operations.Linear(dim, dim * 4, **kind)),
            ("gelu", QuickGELU()),
            ("c_proj", operations.Linear(dim * 4, dim, **kind)),
        )
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = operations.LayerNorm(dim, **kind)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, s, dim) to the same shape."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class ControlAddEmbedding(nn.Module):
    """Embed which kinds of hint are present as an addition to the timestep embedding."""

    def __init__(self, in_dim: int, out_dim: int, types: int, operations: Any, **kind: Any) -> None:
        super().__init__()
        self.in_dim, self.types = in_dim, types
        self.linear_1 = operations.Linear(in_dim * types, out_dim, **kind)
        self.linear_2 = operations.Linear(out_dim, out_dim, **kind)

    def forward(self, control_type: Sequence[int], emb: Tensor) -> Tensor:
        """Return (1, out_dim) in the dtype and on the device of `emb`."""
        present = torch.zeros(self.types, device=emb.device)
        present[list(control_type)] = 1.0
        code = timestep_embedding(present, self.in_dim).to(emb.dtype).reshape(1, -1)
        return self.linear_2(nn.functional.silu(self.linear_1(code)))


class UnionControlNet(ControlNet):
    """A ControlNet for `union_controlnet_num_control_type` kinds of hint."""

    def __init__(
        self,
        hint_channels: int,
        union_controlnet_num_control_type: int,
        dtype: Any = None,
        device: Any = None,
        operations: Any = ops,
        **config: Any,
    ) -> None:
        kind = {"dtype": dtype, "device": device}
        super().__init__(hint_channels, operations=operations, **kind, **config)
        types, dim = union_controlnet_num_control_type, self.model_channels
        self.task_embedding = nn.Parameter(torch.empty(types, dim, **kind))
        self.transformer_layes = nn.Sequential(ResBlockUnionControlnet(dim, TASK_HEADS, operations, **kind))
        self.spatial_ch_projs = operations.Linear(dim, dim, **kind)
        self.control_add_embedding = ControlAddEmbedding(TYPE_EMBED_DIM, dim * 4, types, operations, **kind)

    def guide(self, emb: Tensor, guided: Tensor, control_type: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Add the kind to the embedding, and to the hint what a transformer makes of its mean and its kind.

        Raises ValueError for a kind this model does not know.
        """
        types = len(self.task_embedding)
        if unknown := [kind for kind in control_type if not 0 <= kind < types]:
            raise ValueError(f"control type {unknown[0]} is unknown to this model: it knows 0 to {types - 1}")
        emb = emb + self.control_add_embedding(control_type, emb)
        if not control_type:
            return emb, guided
        task = guided.mean(dim=(2, 3)) + self.task_embedding[control_type[0]].to(guided)  # (b, c)
        shift = self.spatial_ch_projs(self.transformer_layes(task[:, None])[:, 0])
        return emb, guided + shift[:, :, None, None]
