"""Layers whose weights are cast at use and start uninitialised, and torch's own layers under the same names."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def scaled_weight(weight: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return a weight (out, ...) times its scale, one number or one for each of its rows, in a dtype."""
    if scale is None:
        return weight.to(dtype)
    # in float32, as the scales of small weights fall among the subnormal numbers of float16
    by_row = scale.to(weight.device, torch.float32).reshape(-1, *[1] * (weight.ndim - 1))
    return (weight.float() * by_row).to(dtype)


class CastWeight:
    """Let a layer run on an input of another dtype or device than its weights.

    `comfy_cast_weights` is ComfyUI's name for "always cast"; when false the weights are cast only if they differ.
    """

    comfy_cast_weights = False
    weight: Any
    bias: Any
    takes_fp8 = True  # the weight is read nowhere but in `cast`
    full_dtype = torch.float32  # of an fp8 weight when a patch makes it an ordinary one

    def reset_parameters(self) -> None:
        """Leave the weights as allocated: a checkpoint is about to fill them."""

    def must_cast(self, x: Tensor) -> bool:
        """Return whether the weights have to be cast for input `x`."""
        if self.comfy_cast_weights:
            return True
        held = (self.weight, self.bias)
        return any(p is not None and (p.dtype != x.dtype or p.device != x.device) for p in held)

    def cast(self, x: Tensor) -> tuple[Any, Any]:
        """Return weight and bias in the dtype and on the device of `x`."""
        bias = self.bias
        return (
            None if self.weight is None else self.full_weight(self.weight.to(x.device), x.dtype),
            None if bias is None else bias.to(device=x.device, dtype=x.dtype),
        )

    def keep_fp8(self, scale: Tensor | None, full_dtype: torch.dtype) -> None:
        """Note what the fp8 weight is multiplied by: one number, or one for each row."""
        self.full_dtype = full_dtype
        if scale is not None:
            self.register_buffer("weight_scale", scale, persistent=False)  # type: ignore[attr-defined]

    def full_weight(self, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return a weight of this layer, on request in a dtype; an fp8 one as the numbers that it stands for."""
        if weight.dtype in FP8:
            return scaled_weight(weight, getattr(self, "weight_scale", None), dtype or self.full_dtype)
        return weight if dtype is None else weight.to(dtype)


class disable_weight_init:  # noqa: N801  (the public name of this namespace)
    """Namespace of layers without initialisation that cast their weights when the input differs."""

    class Linear(CastWeight, nn.Linear):
        """Apply `x @ weight.T + bias`."""

        def forward(self, x: Tensor) -> Tensor:
            """Map (..., in_features) to (..., out_features)."""
            return F.linear(x, *self.cast(x)) if self.must_cast(x) else super().forward(x)

    class Conv1d(CastWeight, nn.Conv1d):
        """Convolve (b, c, l)."""

        def forward(self, x: Tensor) -> Tensor:
            """Map (b, c_in, l) to (b, c_out, l')."""
            return self._conv_forward(x, *self.cast(x)) if self.must_cast(x) else super().forward(x)

    class Conv2d(CastWeight, nn.Conv2d):
        """Convolve (b, c, h, w)."""

        def forward(self, x: Tensor) -> Tensor:
            """Map (b, c_in, h, w) to (b, c_out, h', w')."""
            return self._conv_forward(x, *self.cast(x)) if self.must_cast(x) else super().forward(x)

    class Conv3d(CastWeight, nn.Conv3d):
        """Convolve (b, c, t, h, w)."""

        def forward(self, x: Tensor) -> Tensor:
            """Map (b, c_in, t, h, w) to (b, c_out, t', h', w')."""
            return self._conv_forward(x, *self.cast(x)) if self.must_cast(x) else super().forward(x)

    class LayerNorm(CastWeight, nn.LayerNorm):
        """Normalise over the last dimensions."""

        def forward(self, x: Tensor) -> Tensor:
            """Normalise (..., *normalized_shape)."""
            if not self.must_cast(x):
                return super().forward(x)
            return F.layer_norm(x, self.normalized_shape, *self.cast(x), self.eps)

    class GroupNorm(CastWeight, nn.GroupNorm):
        """Normalise over groups of channels."""

        def forward(self, x: Tensor) -> Tensor:
            """Normalise (b, c, ...) in `num_groups` groups of channels."""
            if not self.must_cast(x):
                return super().forward(x)
            return F.group_norm(x, self.num_groups, *self.cast(x), self.eps)

    class Embedding(CastWeight, nn.Embedding):
        """Look up rows; the ids carry no float dtype, so the caller may name the one it wants."""

        bias = None
        takes_fp8 = False

        def forward(self, ids: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
            """Map integer ids (...) to (..., embedding_dim)."""
            rows = F.embedding(
                ids,
                self.weight.to(ids.device),
                self.padding_idx,
                self.max_norm,
                self.norm_type,
                self.scale_grad_by_freq,
                self.sparse,
            )
            return rows if out_dtype is None else rows.to(out_dtype)

    @classmethod
    def conv_nd(cls, dims: int, *args: Any, **kwargs: Any) -> nn.Module:
        """Build this namespace's convolution for 1, 2 or 3 dimensions."""
        return conv_nd(cls, dims, *args, **kwargs)


class manual_cast(disable_weight_init):  # noqa: N801
    """Namespace of the same layers that take the casting path on every call."""

    class Linear(disable_weight_init.Linear):
        """Cast, then apply `x @ weight.T + bias`."""

        comfy_cast_weights = True

    class Conv1d(disable_weight_init.Conv1d):
        """Cast, then convolve (b, c, l)."""

        comfy_cast_weights = True

    class Conv2d(disable_weight_init.Conv2d):
        """Cast, then convolve (b, c, h, w)."""

        comfy_cast_weights = True

    class Conv3d(disable_weight_init.Conv3d):
        """Cast, then convolve (b, c, t, h, w)."""

        comfy_cast_weights = True

    class LayerNorm(disable_weight_init.LayerNorm):
        """Cast, then normalise over the last dimensions."""

        comfy_cast_weights = True

    class GroupNorm(disable_weight_init.GroupNorm):
        """Cast, then normalise over groups of channels."""

        comfy_cast_weights = True

    class Embedding(disable_weight_init.Embedding):
        """Look up rows."""

        comfy_cast_weights = True


class plain:  # noqa: N801
    """Namespace of torch's own layers, initialised as torch does: the ones to train with."""

    Linear = nn.Linear
    Conv1d = nn.Conv1d
    Conv2d = nn.Conv2d
    Conv3d = nn.Conv3d
    LayerNorm = nn.LayerNorm
    GroupNorm = nn.GroupNorm
    Embedding = nn.Embedding

    @classmethod
    def conv_nd(cls, dims: int, *args: Any, **kwargs: Any) -> nn.Module:
        """Build torch's convolution for 1, 2 or 3 dimensions."""
        return conv_nd(cls, dims, *args, **kwargs)


def conv_nd(operations: Any, dims: int, *args: Any, **kwargs: Any) -> nn.Module:
    """Build the convolution of a namespace for 1, 2 or 3 dimensions."""
    if dims not in (1, 2, 3):
        raise ValueError(f"convolutions have 1, 2 or 3 dimensions, not {dims}")
    convolution: nn.Module = getattr(operations, f"Conv{dims}d")(*args, **kwargs)
    return convolution
