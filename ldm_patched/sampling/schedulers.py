"""Schedules: the descending sigmas a sampler steps through, ending in zero."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .model_sampling import ModelSamplingDiscrete


def simple(sampling: ModelSamplingDiscrete, steps: int) -> Tensor:
    """Take every n-th trained sigma from the top."""
    stride = len(sampling.sigmas) / steps
    picks = [len(sampling.sigmas) - 1 - int(step * stride) for step in range(steps)]
    return _close(sampling.sigmas[picks])


def normal(sampling: ModelSamplingDiscrete, steps: int) -> Tensor:
    """Space the trained steps evenly, both ends included."""
    start, end = _ends(sampling)
    if math.isclose(float(sampling.sigma(torch.tensor(end))), 0, abs_tol=1e-5):
        return sampling.sigma(torch.linspace(start, end, steps + 1)).float()
    return _close(sampling.sigma(torch.linspace(start, end, steps)))


def sgm_uniform(sampling: ModelSamplingDiscrete, steps: int) -> Tensor:
    """Space the trained steps evenly and leave out the last one."""
    start, end = _ends(sampling)
    return _close(sampling.sigma(torch.linspace(start, end, steps + 1)[:-1]))


def ddim_uniform(sampling: ModelSamplingDiscrete, steps: int) -> Tensor:
    """Take every n-th trained sigma counted from the second one, as DDIM does; the count can differ from `steps`."""
    first_is_zero = math.isclose(float(sampling.sigmas[1]), 0, abs_tol=1e-5)
    stride = max(len(sampling.sigmas) // (steps + first_is_zero), 1)
    picked = sampling.sigmas[1::stride].flip(0)
    return picked.float() if first_is_zero else _close(picked)


def karras(sampling: ModelSamplingDiscrete, steps: int) -> Tensor:
    """Space sigma ** (1 / 7) evenly (Karras et al., 2022, equation 5)."""
    high, low = float(sampling.sigma_max) ** (1 / 7), float(sampling.sigma_min) ** (1 / 7)
    return _close((high + torch.linspace(0, 1, steps) * (low - high)) ** 7)


def exponential(sampling: ModelSamplingDiscrete, steps: int) -> Tensor:
    """Space log sigma evenly."""
    return _close(torch.linspace(math.log(sampling.sigma_max), math.log(sampling.sigma_min), steps).exp())


def beta(sampling: ModelSamplingDiscrete, steps: int, a: float = 0.6, b: float = 0.6) -> Tensor:
    """Take trained steps at the quantiles of a beta distribution, dense at both ends (Lee et al., 2024)."""
    share = 1 - np.linspace(0, 1, steps, endpoint=False)
    indices = np.rint(beta_quantile(share, a, b) * (len(sampling.sigmas) - 1)).astype(int)
    distinct = indices[np.insert(np.diff(indices) != 0, 0, True)]
    return _close(sampling.sigmas[distinct.tolist()])


def linear_quadratic(sampling: ModelSamplingDiscrete, steps: int) -> Tensor:
    """Go linearly through the first 2.5 % of the noise in half of the steps, then quadratically to the end."""
    if steps == 1:
        return torch.tensor([1.0, 0.0]) * float(sampling.sigma_max)
    threshold, half = 0.025, steps // 2
    rest = steps - half
    gap = half - threshold * steps
    square = gap / (half * rest**2)
    slope = threshold / half - 2 * gap / rest**2
    done = [i * threshold / half for i in range(half)]
    done += [square * i**2 + slope * i + square * half**2 for i in range(half, steps)]
    return torch.tensor([1.0 - share for share in [*done, 1.0]]) * float(sampling.sigma_max)


def kl_optimal(sampling: ModelSamplingDiscrete, steps: int) -> Tensor:
    """Space the arc tangent of sigma evenly (Sabour et al., 2024)."""
    share = torch.arange(steps) / max(steps - 1, 1)
    return _close(torch.tan(share * math.atan(sampling.sigma_min) + (1 - share) * math.atan(sampling.sigma_max)))


SCHEDULERS: dict[str, Callable[[ModelSamplingDiscrete, int], Tensor]] = {
    "simple": simple,
    "sgm_uniform": sgm_uniform,
    "karras": karras,
    "exponential": exponential,
    "ddim_uniform": ddim_uniform,
    "beta": beta,
    "normal": normal,
    "linear_quadratic": linear_quadratic,
    "kl_optimal": kl_optimal,
}
SCHEDULER_NAMES: tuple[str, ...] = tuple(SCHEDULERS)


def calculate_sigmas(sampling: ModelSamplingDiscrete, scheduler_name: str, steps: int) -> Tensor:
    """Return the sigmas (steps + 1,) of a schedule by name, float32 on the CPU."""
    if scheduler_name not in SCHEDULERS:
        raise ValueError(f"unknown scheduler {scheduler_name!r}; known are {', '.join(SCHEDULER_NAMES)}")
    return SCHEDULERS[scheduler_name](sampling, steps).float().cpu()


def _ends(sampling: ModelSamplingDiscrete) -> tuple[float, float]:
    return float(sampling.timestep(sampling.sigma_max)), float(sampling.timestep(sampling.sigma_min))


def _close(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas.float(), sigmas.new_zeros(1, dtype=torch.float32)])


# Quantiles of the beta distribution


def beta_quantile(share: np.ndarray, a: float, b: float) -> np.ndarray:
    """Invert the beta distribution's cumulative function by bisection, float64 (n,)."""
    low, high = np.zeros_like(share), np.ones_like(share)
    for _ in range(60):
        middle = (low + high) / 2
        below = _beta_cumulative(middle, a, b) < share
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    quantile: np.ndarray = (low + high) / 2
    return quantile


def _beta_cumulative(x: np.ndarray, a: float, b: float) -> np.ndarray:
    # the continued fraction converges fast on the side of the mean where x is small
    swap = x > (a + 1) / (a + b + 2)
    direct = _beta_fraction(np.where(swap, 0.0, x), a, b)
    mirrored = 1 - _beta_fraction(np.where(swap, 1 - x, 0.0), b, a)
    return np.where(swap, mirrored, direct)


def _beta_fraction(x: np.ndarray, a: float, b: float) -> np.ndarray:
    """Evaluate the regularised incomplete beta function from its continued fraction (DLMF 8.17.22), innermost first."""
    value = np.ones_like(x)
    for n in range(60, 0, -1):
        m = n // 2
        if n % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        value = 1 + term / value
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return x**a * (1 - x) ** b / (a * math.exp(log_beta) * value)
