"""One attention call as a value: the facts that decide which functions can run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionCall:
    """The facts of one attention call that decide which functions can run it."""

    b: int
    heads: int
    kv_heads: int
    n_q: int
    n_k: int
    dim_head: int
    dtype: torch.dtype
    device: str
    mask: torch.dtype | None = None
    scale: float | None = None
    enable_gqa: bool = False
    low_precision: bool = True  # False: exact kernels only
    precision: torch.dtype | None = None  # that the scores have to have
    grad: bool = False  # whether gradients are wanted

    @classmethod
    def of(
        cls,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None = None,
        attn_precision: torch.dtype | None = None,
        skip_reshape: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> AttentionCall:
        """Describe a call by the arguments of an attention function."""
        gqa = bool(kwargs.get("enable_gqa", False))
        if skip_reshape:
            b, heads, n_q, dim_head = q.shape
            kv_heads, n_k = k.shape[1], k.shape[2]
        else:
            b, n_q, width = q.shape
            dim_head, n_k = width // heads, k.shape[1]
            kv_heads = k.shape[2:].numel() // dim_head if gqa else heads
        return cls(
            b=b,
            heads=heads,
            kv_heads=kv_heads,
            n_q=n_q,
            n_k=n_k,
            dim_head=dim_head,
            dtype=q.dtype,
            device=q.device.type,
            mask=None if mask is None else mask.dtype,
            scale=kwargs.get("scale"),
            enable_gqa=gqa,
            low_precision=kwargs.get("low_precision_attention") is not False,
            precision=attn_precision,
            grad=torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad),
        )

    def __str__(self) -> str:
        text = (
            f"batch {self.b}, {self.heads} heads of {self.dim_head}, {self.n_q} queries, {self.n_k} keys, "
            f"{self.dtype} on {self.device}, mask {self.mask}"
        )
        text += f", {self.kv_heads} key heads" if self.kv_heads != self.heads else ""
        return text + ("" if self.low_precision else ", exact kernels only")
