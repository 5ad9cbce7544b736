"""The address of every attention function and of the transformer blocks built on them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .backends import dispatch
from .backends.basic import attention_basic
from .backends.dispatch import optimized_attention, optimized_attention_for_device, optimized_attention_masked
from .backends.pytorch import attention_pytorch
from .backends.split import attention_split
from .backends.sub_quad import attention_sub_quad
from .backends.wrapper import wrap_attn
from .backends.xformers import attention_xformers
from .layers import GEGLU, CrossAttention, FeedForward, Normalize, default, exists, init_, max_neg_value, uniq
from .transformer import BasicTransformerBlock, SpatialTransformer, SpatialVideoTransformer

__all__ = [
    "BasicTransformerBlock",
    "CrossAttention",
    "FeedForward",
    "GEGLU",
    "Normalize",
    "SpatialTransformer",
    "SpatialVideoTransformer",
    "attention_basic",
    "attention_pytorch",
    "attention_split",
    "attention_sub_quad",
    "attention_xformers",
    "default",
    "exists",
    "init_",
    "max_neg_value",
    "optimized_attention",
    "optimized_attention_for_device",
    "optimized_attention_masked",
    "uniq",
    "wrap_attn",
]


class _Attention(ModuleType):
    """Let a script choose the attention of all networks by assigning to this module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("optimized_attention"):
            setattr(dispatch, name, value)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Attention
