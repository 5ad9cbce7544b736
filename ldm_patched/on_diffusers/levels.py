"""The noise levels of diffusers' schedulers: sigmas of timesteps, how far a run is, what a prediction means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..sampling.model_sampling import discrete_sampling, reshape_sigma

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v_prediction", "sample": "x0"}


class Levels(nn.Module):
    """What the engine asks the noise levels of a run for, from the timesteps that a network is told."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self.scheduler = scheduler

    def sigma(self, timestep: Tensor) -> Tensor:
        """Return the sigma of each timestep."""
        raise NotImplementedError

    def sigmas(self) -> Tensor | None:
        """Return the falling sigmas of the steps that are made, none twice, and the last level.

        A pipeline that begins with a picture tells the scheduler which of its steps is the first. None where the
        scheduler was not set.
        """
        steps = timesteps(self.scheduler)
        begin: int = getattr(self.scheduler, "begin_index", None) or 0
        return None if steps is None else self.falling(steps[begin:])

    def falling(self, steps: Tensor) -> Tensor:
        """Return the sigmas of timesteps of the scheduler, none twice, and the last level."""
        found = torch.unique_consecutive(self.of_schedule(steps.float()))
        return torch.cat([found, found.new_zeros(1)])

    def of_schedule(self, steps: Tensor) -> Tensor:
        """Return the sigmas of timesteps of the scheduler."""
        raise NotImplementedError

    def percent_to_sigma(self, percent: float) -> float:
        """Return the sigma at a share of the schedule: 0 is before its start, 1 its end."""
        raise NotImplementedError

    def seen(self, sigma: Tensor, x: Tensor) -> Tensor:
        """Return what a network is given of a noisy latent."""
        raise NotImplementedError

    def noisy(self, sigma: Tensor, seen: Tensor) -> Tensor:
        """Return the noisy latent of what a network is given."""
        raise NotImplementedError

    def calculate_denoised(self, sigma: Tensor, made: Tensor, x: Tensor) -> Tensor:
        """Return the denoised latent of a prediction for a noisy latent x."""
        raise NotImplementedError

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
        """Return a latent with noise of a level."""
        raise NotImplementedError


class Discrete(Levels):
    """The trained steps of a scheduler for UNets."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        kind = scheduler.config.prediction_type
        if kind not in PREDICTIONS:
            raise ValueError(f"the scheduler says prediction_type {kind!r}; it can be {', '.join(PREDICTIONS)}")
        self.trained: Any = discrete_sampling(PREDICTIONS[kind])
        alpha_bar = scheduler.alphas_cumprod.float().clamp(min=1e-8)
        self.trained.set_sigmas(((1 - alpha_bar) / alpha_bar) ** 0.5)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Return the sigma of each trained step; between two it is interpolated in the logarithm."""
        found: Tensor = self.trained.sigma(timestep)
        return found

    def of_schedule(self, steps: Tensor) -> Tensor:
        """Return the sigmas of timesteps, of which the network is told the same."""
        return self.sigma(steps)

    def percent_to_sigma(self, percent: float) -> float:
        """Return the sigma of the trained step at that share of them."""
        found: float = self.trained.percent_to_sigma(percent)
        return found

    def seen(self, sigma: Tensor, x: Tensor) -> Tensor:
        """Return the latent with unit variance."""
        found: Tensor = self.trained.calculate_input(sigma, x)
        return found

    def noisy(self, sigma: Tensor, seen: Tensor) -> Tensor:
        """Return the latent whose noise has the deviation sigma."""
        return seen * (reshape_sigma(sigma, seen.ndim) ** 2 + 1.0) ** 0.5

    def calculate_denoised(self, sigma: Tensor, made: Tensor, x: Tensor) -> Tensor:
        """Return the denoised latent."""
        found: Tensor = self.trained.calculate_denoised(sigma, made, x)
        return found

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
        """Return latent + sigma * noise."""
        found: Tensor = self.trained.noise_scaling(sigma, noise, latent)
        return found


class Flow(Levels):
    """A scheduler of flow matching, whose sigmas fall from 1 to 0; `unit` is the timestep of sigma 1."""

    def __init__(self, scheduler: Any, unit: float) -> None:
        super().__init__(scheduler)
        self.unit = unit

    def sigma(self, timestep: Tensor) -> Tensor:
        """Return the sigma of each timestep."""
        return timestep.float() / self.unit

    def of_schedule(self, steps: Tensor) -> Tensor:
        """Return the sigmas of timesteps."""
        trained: float = self.scheduler.config.num_train_timesteps
        return steps / trained

    def percent_to_sigma(self, percent: float) -> float:
        """Return the sigma at that share of the way from 1 to 0, with the scheduler's shift.

        Where the shift hangs on the size of the picture, it is only in the sigmas that the scheduler was set to: those
        of equal steps, so that it is the one at that share of the steps.
        """
        if percent <= 0.0:
            return 999999999.9
        config, left = self.scheduler.config, 1.0 - percent
        steps = timesteps(self.scheduler) if getattr(config, "use_dynamic_shifting", False) else None
        if steps is not None:
            return _between(self.falling(steps).tolist(), percent)
        shift: float = getattr(config, "flow_shift", None) or config.shift
        return shift * left / (1.0 + (shift - 1.0) * left)

    def seen(self, sigma: Tensor, x: Tensor) -> Tensor:
        """Return the latent itself."""
        return x

    def noisy(self, sigma: Tensor, seen: Tensor) -> Tensor:
        """Return the latent itself."""
        return seen

    def calculate_denoised(self, sigma: Tensor, made: Tensor, x: Tensor) -> Tensor:
        """Return x - sigma * velocity."""
        return x - made * reshape_sigma(sigma, made.ndim)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
        """Return the point at sigma on the line from the latent to the noise."""
        return torch.lerp(latent, noise, reshape_sigma(sigma, noise.ndim))


def timesteps(scheduler: Any) -> Tensor | None:
    """Return the timesteps that a scheduler was set to; None where it was not."""
    found: Tensor | None = getattr(scheduler, "timesteps", None)
    return None if getattr(scheduler, "num_inference_steps", None) is None else found


def _between(numbers: Sequence[float], share: float) -> float:
    """Return the number at a share of the way through some, on a line between two."""
    place = min(max(share, 0.0), 1.0) * (len(numbers) - 1)
    low = min(int(place), len(numbers) - 2)
    return numbers[low] + (place - low) * (numbers[low + 1] - numbers[low])


def levels(scheduler: Any, unit: float | None) -> Levels:
    """Return the noise levels of a scheduler; `unit` is the timestep of sigma 1 that a transformer is told.

    Raises TypeError for a scheduler that does not fit the network.
    """
    name = type(scheduler).__name__
    flows = hasattr(scheduler.config, "shift") or getattr(scheduler.config, "use_flow_sigmas", False)
    if unit is None:
        if flows or not hasattr(scheduler, "alphas_cumprod"):
            raise TypeError(f"{name} has no alphas_cumprod, by which a UNet's noise levels are told; take another one")
        return Discrete(scheduler)
    if not flows:
        raise TypeError(f"{name} is no scheduler of flow matching, which this transformer needs; take another one")
    return Flow(scheduler, unit)
