"""ComfyUI's core nodes that make and change noise levels, for the embedded host."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ldm_patched.sampling.schedulers import beta
from ..api import comfy_io as io
from .declared import Nodes

NODES = Nodes("model/sampling/sigmas")
SCHEDULERS = "model/sampling/schedulers"
TURBO_STEPS = 10
SPACINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "cosine": lambda x: torch.sin(x * math.pi / 2),
    "sine": lambda x: 1 - torch.cos(x * math.pi / 2),
}
# Align Your Steps (Sabour et al., 2024)
LEVELS = {
    "SD1": (14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092, 0.9642583904,
            0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582),
    "SDXL": (14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289,
             0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582),
    "SVD": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}  # fmt: skip


def _model() -> io.Input:
    return io.Model.Input("model", tooltip="The model the run is for.")


def _sigmas() -> io.Input:
    return io.Sigmas.Input("sigmas", tooltip="The noise levels.")


def _steps(default: int = 20) -> io.Input:
    return io.Int.Input("steps", default=default, min=1, max=10000, tooltip="The number of steps.")


def _denoise() -> io.Input:
    return io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="How much is denoised.")


def number(
    name: str, default: float, tooltip: str, max: float = 5000.0, min: float = 0.0, step: float = 0.01
) -> io.Input:
    """Return the input of a number that is not rounded."""
    settings = {"default": default, "min": min, "max": max, "step": step, "round": False}
    return io.Float.Input(name, **settings, advanced=True, tooltip=tooltip)


def _ends() -> list[io.Input]:
    return [
        number("sigma_max", 14.614642, "The first noise level."),
        number("sigma_min", 0.0291675, "The last one before zero."),
    ]


def closed(sigmas: Tensor) -> Tensor:
    """Return noise levels with a zero behind them."""
    return torch.cat([sigmas, sigmas.new_zeros(1)])


# Schedules


@NODES.add(
    "KarrasScheduler",
    "KarrasScheduler",
    [_steps(), *_ends(), number("rho", 7.0, "How dense small levels are.", 100.0)],
    io.Sigmas,
    category=SCHEDULERS,
)
def karras_scheduler(steps: int, sigma_max: float, sigma_min: float, rho: float) -> Tensor:
    """Make noise levels whose root is evenly spaced (Karras et al., 2022)."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return closed((high + torch.linspace(0, 1, steps) * (low - high)) ** rho)


@NODES.add("ExponentialScheduler", "ExponentialScheduler", [_steps(), *_ends()], io.Sigmas, category=SCHEDULERS)
def exponential_scheduler(steps: int, sigma_max: float, sigma_min: float) -> Tensor:
    """Make noise levels whose logarithm is evenly spaced."""
    return closed(torch.linspace(math.log(sigma_max), math.log(sigma_min), steps).exp())


@NODES.add(
    "PolyexponentialScheduler",
    "PolyexponentialScheduler",
    [_steps(), *_ends(), number("rho", 1.0, "The power of the share.", 100.0)],
    io.Sigmas,
    category=SCHEDULERS,
)
def polyexponential_scheduler(steps: int, sigma_max: float, sigma_min: float, rho: float) -> Tensor:
    """Make noise levels whose logarithm is a power."""
    low, high = math.log(sigma_min), math.log(sigma_max)
    return closed(torch.exp(torch.linspace(1, 0, steps) ** rho * (high - low) + low))


@NODES.add(
    "VPScheduler",
    "VPScheduler",
    [
        _steps(),
        number("beta_d", 19.9, "How the noise grows."),
        number("beta_min", 0.1, "How it begins."),
        number("eps_s", 0.001, "The last time.", 1.0, step=0.0001),
    ],
    io.Sigmas,
    category=SCHEDULERS,
)
def vp_scheduler(steps: int, beta_d: float, beta_min: float, eps_s: float) -> Tensor:
    """Make the noise levels of a variance-preserving process (Song et al., 2021)."""
    t = torch.linspace(1, eps_s, steps)
    return closed(torch.sqrt(torch.special.expm1(beta_d * t**2 / 2 + beta_min * t)))


@NODES.add("SDTurboScheduler", "SDTurboScheduler", [
    _model(),
    io.Int.Input("steps", default=1, min=1, max=TURBO_STEPS, tooltip="The number of steps."),
    io.Float.Input("denoise", default=1.0, min=0, max=1.0, step=0.01, tooltip="How much is denoised."),
], io.Sigmas, category=SCHEDULERS)  # fmt: skip
def sd_turbo_scheduler(model: Any, steps: int, denoise: float) -> Tensor:
    """Make the noise levels that SD-Turbo and SDXL-Turbo were trained at."""
    start = TURBO_STEPS - int(TURBO_STEPS * denoise)
    times = (torch.arange(1, TURBO_STEPS + 1) * 100 - 1).flip(0)[start : start + steps]
    return closed(model.get_model_object("model_sampling").sigma(times))


@NODES.add(
    "BetaSamplingScheduler",
    "BetaSamplingScheduler",
    [
        _model(),
        _steps(),
        number("alpha", 0.6, "Smaller is denser at large levels.", 50.0),
        number("beta", 0.6, "Smaller is denser at small levels.", 50.0),
    ],
    io.Sigmas,
    category=SCHEDULERS,
)
def beta_sampling_scheduler(model: Any, steps: int, alpha: float, **others: float) -> Tensor:
    """Make noise levels at the quantiles of a beta distribution (Lee et al., 2024)."""
    return beta(model.get_model_object("model_sampling"), steps, alpha, others["beta"])


@NODES.add(
    "AlignYourStepsScheduler",
    "AlignYourStepsScheduler",
    [io.Combo.Input("model_type", options=list(LEVELS), tooltip="The kind of model."), _steps(10), _denoise()],
    io.Sigmas,
    category=SCHEDULERS,
)
def align_your_steps_scheduler(model_type: str, steps: int, denoise: float) -> Tensor:
    """Make noise levels that were optimised for a kind of model."""
    if denoise <= 0.0:
        return torch.zeros(0)
    levels = np.array(LEVELS[model_type])
    if steps + 1 != len(levels):
        places = np.linspace(0, 1, steps + 1), np.linspace(0, 1, len(levels))
        levels = np.exp(np.interp(*places, np.log(levels[::-1])))[::-1].copy()
    levels = levels[-(round(steps * denoise) + 1) :]
    levels[-1] = 0
    return torch.from_numpy(levels).float()


# Changes


@NODES.add(
    "SplitSigmas",
    "SplitSigmas",
    [_sigmas(), io.Int.Input("step", default=0, min=0, max=10000, tooltip="The step where the second part begins.")],
    io.Sigmas.Output(display_name="high_sigmas"),
    io.Sigmas.Output(display_name="low_sigmas"),
)
def split_sigmas(sigmas: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Cut noise levels in two at a step."""
    return sigmas[: step + 1], sigmas[step:]


@NODES.add(
    "SplitSigmasDenoise",
    "SplitSigmasDenoise",
    [_sigmas(), _denoise()],
    io.Sigmas.Output(display_name="high_sigmas"),
    io.Sigmas.Output(display_name="low_sigmas"),
)
def split_sigmas_denoise(sigmas: Tensor, denoise: float) -> tuple[Tensor, Tensor]:
    """Cut noise levels in two so that the second part has a share of the steps."""
    last = round(max(len(sigmas) - 1, 0) * denoise)
    return sigmas[:-last], sigmas[-(last + 1) :]


@NODES.add("FlipSigmas", "FlipSigmas", [_sigmas()], io.Sigmas)
def flip_sigmas(sigmas: Tensor) -> Tensor:
    """Turn noise levels round, for a run from the picture to noise."""
    sigmas = sigmas.flip(0)
    if len(sigmas) and sigmas[0] == 0:
        sigmas[0] = 0.0001
    return sigmas


@NODES.add(
    "SetFirstSigma",
    "SetFirstSigma",
    [
        _sigmas(),
        io.Float.Input(
            "sigma", default=136.0, min=0.0, max=20000.0, step=0.001, round=False, tooltip="The first noise level."
        ),
    ],
    io.Sigmas,
)
def set_first_sigma(sigmas: Tensor, sigma: float) -> Tensor:
    """Set the first noise level."""
    sigmas = sigmas.clone()
    sigmas[0] = sigma
    return sigmas


@NODES.add(
    "ExtendIntermediateSigmas",
    "ExtendIntermediateSigmas",
    [
        _sigmas(),
        io.Int.Input("steps", default=2, min=1, max=100, tooltip="How many steps each one becomes."),
        io.Float.Input(
            "start_at_sigma", default=-1.0, min=-1.0, max=20000.0, step=0.01, round=False, tooltip="From here; -1: all."
        ),
        io.Float.Input(
            "end_at_sigma", default=12.0, min=0.0, max=20000.0, step=0.01, round=False, tooltip="Down to here."
        ),
        io.Combo.Input("spacing", options=list(SPACINGS), tooltip="How they lie between the old ones."),
    ],
    io.Sigmas,
)
def extend_intermediate_sigmas(
    sigmas: Tensor, steps: int, start_at_sigma: float, end_at_sigma: float, spacing: str
) -> Tensor:
    """Put more noise levels between those of a part."""
    between = SPACINGS[spacing](torch.linspace(0, 1, steps + 1)[1:-1])
    highest = math.inf if start_at_sigma < 0 else start_at_sigma
    out: list[float] = []
    for this, following in zip(sigmas, sigmas[1:], strict=False):
        out.append(float(this))
        if end_at_sigma <= this <= highest:
            out += (between * (following - this) + this).tolist()
    return torch.tensor([*out, *sigmas[-1:].tolist()])


@NODES.add(
    "ManualSigmas",
    "ManualSigmas",
    [io.String.Input("sigmas", default="1, 0.5", multiline=False, tooltip="The noise levels, with commas.")],
    io.Sigmas,
    is_experimental=True,
)
def manual_sigmas(sigmas: str) -> Tensor:
    """Make noise levels of written numbers."""
    return torch.tensor([float(text) for text in re.findall(r"[-+]?(?:\d*\.*\d+)", sigmas)])


@NODES.add(
    "SamplingPercentToSigma",
    "SamplingPercentToSigma",
    [
        _model(),
        io.Float.Input(
            "sampling_percent", default=0.0, min=0.0, max=1.0, step=0.0001, tooltip="The part of the schedule, 0 to 1."
        ),
        io.Boolean.Input(
            "return_actual_sigma", default=False, tooltip="At 0 and 1 give the model's own ends, not all and nothing."
        ),
    ],
    io.Float.Output(display_name="sigma_value"),
)
def sampling_percent_to_sigma(model: Any, sampling_percent: float, return_actual_sigma: bool) -> float:
    """Give the noise level at a part of the schedule."""
    sampling = model.get_model_object("model_sampling")
    if return_actual_sigma and sampling_percent in (0.0, 1.0):
        return float(sampling.sigma_max if sampling_percent == 0.0 else sampling.sigma_min)
    return float(sampling.percent_to_sigma(sampling_percent))
