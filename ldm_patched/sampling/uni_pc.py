"""UniPC (Zhao et al., 2023): a multistep predictor whose corrector reuses the next step's model call."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .k_sampling import Run, Sampler

MAX_ORDER = 3
LAST_SIGMA = 0.001  # log sigma must stay finite


def uni_pc(variant: str) -> Sampler:
    """Return the sampler with B(h) = h ("bh1") or B(h) = e^h - 1 ("bh2")."""

    def sample_uni_pc(run: Run, x: Tensor) -> Tensor:
        return _sample(run, x, variant)

    return sample_uni_pc


def _sample(run: Run, x: Tensor, variant: str) -> Tensor:
    sigmas = torch.where(run.sigmas > 0, run.sigmas, LAST_SIGMA)
    steps = len(sigmas) - 1
    order = max(1, min(MAX_ORDER, steps - 1))
    history: list[tuple[float, Tensor]] = []  # (log sigma, denoised), newest last
    update = _Update(run, x, variant)
    for i, sigma, _ in run.steps():
        if i == 0:
            denoised = run.first(0, x, sigma)
        else:
            x, denoised = update(i, x, history[-min(order, i, steps + 1 - i) :], sigmas[i])
        history = [*history, (math.log(sigma), denoised)][-order:]
    if steps < 1:
        return x
    return update(None, x, history[-1:], sigmas[steps])[0]


class _Update:
    """One step from the newest entry of a history to sigma; the history's length is the order."""

    def __init__(self, run: Run, x: Tensor, variant: str) -> None:
        self.run = run
        self.variant = variant

    def __call__(
        self, i: int | None, x: Tensor, history: list[tuple[float, Tensor]], sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        start, newest = history[-1]
        h = start - math.log(sigma)  # the step in log signal-to-noise
        base = math.exp(-h) * x - math.expm1(-h) * newest
        ratios = [(start - log_sigma) / h for log_sigma, _ in reversed(history[:-1])]
        slopes = [(m - newest) / r for (_, m), r in zip(reversed(history[:-1]), ratios, strict=True)]
        scale = -h if self.variant == "bh1" else math.expm1(-h)
        predictor, corrector = _weights([*ratios, 1.0], -h, scale)
        x = base - scale * _combine(predictor, slopes, like=base)
        if i is None:
            return x, newest
        denoised = self.run.first(i, x, sigma)
        return base - scale * _combine(corrector, [*slopes, denoised - newest], like=base), denoised


def _combine(weights: list[float], slopes: list[Tensor], like: Tensor) -> Tensor:
    return sum((w * s for w, s in zip(weights, slopes, strict=True)), torch.zeros_like(like))


def _weights(ratios: list[float], h: float, scale: float) -> tuple[list[float], list[float]]:
    """Return predictor and corrector weights that match the Taylor terms of the exponential integrator."""
    order = len(ratios)
    phi = math.expm1(h) / h - 1  # h * phi_2
    targets = []
    factorial = 1
    for k in range(1, order + 1):
        targets.append(phi * factorial / scale)
        factorial *= k + 1
        phi = phi / h - 1 / factorial
    powers = torch.tensor([[r**k for r in ratios] for k in range(order)], dtype=torch.float64)
    b = torch.tensor(targets, dtype=torch.float64)
    # orders two and one have fixed weights in the reference solver
    predictor = [0.5] if order == 2 else torch.linalg.solve(powers[:-1, :-1], b[:-1]).tolist()
    corrector = [0.5] if order == 1 else torch.linalg.solve(powers, b).tolist()
    return predictor, corrector
