"""Timestep embeddings, noise schedules, recomputation in the backward pass, and small module tools."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute_in_backward

# Where alpha of shape (b, t) goes: beside tokens (b * t, s, c), or beside video (b, c, t, h, w).
ALPHA_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "b t -> (b t) 1 1": lambda alpha: alpha.reshape(-1, 1, 1),
    "b t -> b 1 t 1 1": lambda alpha: alpha[:, None, :, None, None],
}


class AlphaBlender(nn.Module):
    """Mix a spatial and a temporal stream: `alpha * spatial + (1 - alpha) * temporal`.

    `fixed` keeps alpha as given, `learned` uses `sigmoid(mix_factor)`, and `learned_with_images` does so too but
    gives alpha = 1 to every frame that `image_only_indicator` marks as a still image.
    """

    strategies = ["learned", "fixed", "learned_with_images"]

    def __init__(
        self,
        alpha: float,
        merge_strategy: str = "learned_with_images",
        rearrange_pattern: str = "b t -> (b t) 1 1",
    ) -> None:
        super().__init__()
        if merge_strategy not in self.strategies:
            raise ValueError(f"merge_strategy is one of {self.strategies}, not {merge_strategy!r}")
        if rearrange_pattern not in ALPHA_LAYOUTS:
            raise ValueError(f"rearrange_pattern is one of {list(ALPHA_LAYOUTS)}, not {rearrange_pattern!r}")
        self.merge_strategy = merge_strategy
        self.rearrange_pattern = rearrange_pattern
        self.mix_factor: Tensor
        if merge_strategy == "fixed":
            self.register_buffer("mix_factor", torch.tensor([float(alpha)]))
        else:
            self.register_parameter("mix_factor", nn.Parameter(torch.tensor([float(alpha)])))

    def get_alpha(self, image_only_indicator: Tensor | None, device: torch.device) -> Tensor:
        """Return alpha, broadcastable to both streams; the indicator is (b, t)."""
        factor = self.mix_factor.to(device)
        if self.merge_strategy == "fixed":
            return factor
        alpha = torch.sigmoid(factor)
        if self.merge_strategy == "learned":
            return alpha
        alpha = alpha[:, None]
        if image_only_indicator is not None:
            alpha = torch.where(image_only_indicator.to(device).bool(), torch.ones_like(alpha), alpha)
        return ALPHA_LAYOUTS[self.rearrange_pattern](alpha)

    def forward(self, x_spatial: Tensor, x_temporal: Tensor, image_only_indicator: Tensor | None = None) -> Tensor:
        """Blend two tensors of one shape, (b * t, s, c) or (b, c, t, h, w)."""
        alpha = self.get_alpha(image_only_indicator, x_spatial.device)
        return alpha.to(x_spatial.dtype) * x_spatial + (1.0 - alpha).to(x_spatial.dtype) * x_temporal


def make_beta_schedule(
    schedule: str,
    n_timestep: int,
    linear_start: float = 1e-4,
    linear_end: float = 2e-2,
    cosine_s: float = 8e-3,
) -> Tensor:
    """Return the noise variances of a named schedule, float64 (n_timestep,).

    `linear` is linear in the square root of beta, as latent diffusion names it; `sqrt_linear` is linear in beta.
    """
    if schedule == "linear":
        return torch.linspace(linear_start**0.5, linear_end**0.5, n_timestep, dtype=torch.float64) ** 2
    if schedule == "sqrt_linear":
        return torch.linspace(linear_start, linear_end, n_timestep, dtype=torch.float64)
    if schedule == "sqrt":
        return torch.linspace(linear_start, linear_end, n_timestep, dtype=torch.float64) ** 0.5
    if schedule == "cosine":
        return betas_for_alpha_bar(n_timestep, lambda t: math.cos((t + cosine_s) / (1 + cosine_s) * math.pi / 2) ** 2)
    if schedule == "squaredcos_cap_v2":
        return betas_for_alpha_bar(n_timestep, lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2)
    raise ValueError(f"unknown schedule {schedule!r}; known: linear, sqrt_linear, sqrt, cosine, squaredcos_cap_v2")


def betas_for_alpha_bar(
    num_diffusion_timesteps: int, alpha_bar: Callable[[float], float], max_beta: float = 0.999
) -> Tensor:
    """Return betas whose running product of (1 - beta) follows `alpha_bar` on [0, 1], float64 (n,)."""
    edges = [alpha_bar(i / num_diffusion_timesteps) for i in range(num_diffusion_timesteps + 1)]
    betas = [min(1 - after / before, max_beta) for before, after in zip(edges, edges[1:], strict=False)]
    return torch.tensor(betas, dtype=torch.float64)


def make_ddim_timesteps(ddim_discr_method: str, num_ddim_timesteps: int, num_ddpm_timesteps: int) -> np.ndarray:
    """Return the timesteps a DDIM sampler visits, ascending, shifted by one as latent diffusion does."""
    if ddim_discr_method == "uniform":
        return np.arange(0, num_ddpm_timesteps, num_ddpm_timesteps // num_ddim_timesteps) + 1
    if ddim_discr_method == "quad":
        return (np.linspace(0, np.sqrt(num_ddpm_timesteps * 0.8), num_ddim_timesteps) ** 2).astype(int) + 1
    raise ValueError(f"unknown DDIM discretisation {ddim_discr_method!r}; known: uniform, quad")


def make_ddim_sampling_parameters(
    alphacums: np.ndarray, ddim_timesteps: np.ndarray, eta: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sigmas, alphas and previous alphas of DDIM (https://arxiv.org/abs/2010.02502, eq. 16)."""
    alphas = alphacums[ddim_timesteps]
    alphas_prev = np.concatenate([alphacums[:1], alphacums[ddim_timesteps[:-1]]])
    sigmas = eta * np.sqrt((1 - alphas_prev) / (1 - alphas) * (1 - alphas / alphas_prev))
    return sigmas, alphas, alphas_prev


def extract_into_tensor(a: Tensor, t: Tensor, x_shape: Sequence[int]) -> Tensor:
    """Pick `a[t]` and shape it (b, 1, ...) to broadcast over a tensor of shape `x_shape`."""
    return a.gather(-1, t).reshape(t.shape[0], *[1] * (len(x_shape) - 1))


def checkpoint(func: Callable[..., Any], inputs: Sequence[Any], params: Iterable[Tensor], flag: bool) -> Any:
    """Call `func(*inputs)`; with `flag`, keep no activations and recompute them in the backward pass.

    Args:
        params: the parameters `func` reads. Autograd finds them by itself; they stay for the sake of the signature.
    """
    if flag and torch.is_grad_enabled():
        return recompute_in_backward(func, *inputs, use_reentrant=False)
    return func(*inputs)


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000, repeat_only: bool = False) -> Tensor:
    """Embed timesteps (n,) as cosines then sines of geometric frequencies, (n, dim) in fp32.

    An odd `dim` ends in a zero. `repeat_only` repeats the plain value instead.
    """
    if repeat_only:
        return timesteps[:, None].repeat(1, dim)
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * steps / half)
    embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
    return nn.functional.pad(embedding, (0, 1)) if dim % 2 else embedding


def zero_module(module: nn.Module) -> nn.Module:
    """Set every parameter of a module to zero and return it."""
    return scale_module(module, 0.0)


def scale_module(module: nn.Module, scale: float) -> nn.Module:
    """Multiply every parameter of a module by `scale` and return it."""
    with torch.no_grad():
        for parameter in module.parameters():
            # zero_() also clears the nan that uninitialised memory may hold
            parameter.zero_() if scale == 0 else parameter.mul_(scale)
    return module


def mean_flat(tensor: Tensor) -> Tensor:
    """Average over everything but the batch, (b, ...) to (b,)."""
    return tensor.mean(dim=list(range(1, tensor.ndim)))


def avg_pool_nd(dims: int, *args: Any, **kwargs: Any) -> nn.Module:
    """Build average pooling for 1, 2 or 3 dimensions."""
    if dims not in (1, 2, 3):
        raise ValueError(f"average pooling has 1, 2 or 3 dimensions, not {dims}")
    return getattr(nn, f"AvgPool{dims}d")(*args, **kwargs)


def noise_like(shape: Sequence[int], device: torch.device | str, repeat: bool = False) -> Tensor:
    """Draw normal noise of a shape; with `repeat` every batch element gets the same noise."""
    if repeat:
        return torch.randn((1, *shape[1:]), device=device).expand(*shape).clone()
    return torch.randn(tuple(shape), device=device)
