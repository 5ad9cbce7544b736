"""Noise levels of a trained model, and what its output means at each of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..ldm.modules.diffusionmodules.util import make_beta_schedule

SAMPLING_TYPES = ("eps", "v_prediction", "lcm", "x0")

# alpha_bar of the last step after rescaling; exactly zero would be an infinite sigma
_TERMINAL_ALPHA_BAR = 4.8973451890853435e-08


def reshape_sigma(sigma: Tensor, ndim: int) -> Tensor:
    """Give a sigma (b,) the trailing dimensions that broadcast over a latent of `ndim` dimensions."""
    if sigma.numel() == 1:
        return sigma.reshape(())
    return sigma.reshape(sigma.shape[:1] + (1,) * (ndim - 1))


class EPS:
    """The model predicts the noise: `x = x0 + sigma * eps`."""

    sigma_data: float = 1.0

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        """Scale a noisy latent (b, c, h, w) to unit variance."""
        sigma = reshape_sigma(sigma, noise.ndim)
        return noise / (sigma**2 + self.sigma_data**2) ** 0.5

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """Turn the model's output into the denoised latent."""
        return model_input - model_output * reshape_sigma(sigma, model_output.ndim)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        """Add noise of level `sigma` to a latent; at the top of the schedule with the variance of a pure start."""
        sigma = reshape_sigma(sigma, noise.ndim)
        scale = torch.sqrt(1.0 + sigma**2.0) if max_denoise else sigma
        return noise * scale + latent_image

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        """Undo what `noise_scaling` did to the latent's own scale: nothing here."""
        return latent


class V_PREDICTION(EPS):  # noqa: N801 - the name ComfyUI uses
    """The model predicts the velocity of Salimans and Ho (2022)."""

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """Turn the model's output into the denoised latent."""
        sigma = reshape_sigma(sigma, model_output.ndim)
        data = self.sigma_data
        total = sigma**2 + data**2
        return model_input * data**2 / total - model_output * sigma * data / total**0.5


class EDM(V_PREDICTION):
    """The model predicts the denoised latent less what its input holds of it (Karras et al., 2022)."""

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """Turn the model's output into the denoised latent."""
        return super().calculate_denoised(sigma, -model_output, model_input)


class X0(EPS):
    """The model predicts the denoised latent itself."""

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """Return the model's output."""
        return model_output


class LCM(EPS):
    """Latent consistency models (Luo et al., 2023): noise prediction with the boundary condition's two scalings."""

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return the training step of a noise level; the schedule beside this class provides it."""
        raise NotImplementedError

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """Blend the predicted latent with the input so that the function is the identity at step zero."""
        step = reshape_sigma(self.timestep(sigma), model_output.ndim)
        x0 = model_input - model_output * reshape_sigma(sigma, model_output.ndim)
        data = 0.5
        scaled = step * 10.0  # timestep scaling of the consistency training
        c_skip = data**2 / (scaled**2 + data**2)
        c_out = scaled / (scaled**2 + data**2) ** 0.5
        return c_out * x0 + c_skip * model_input


def rescale_zero_terminal_snr_sigmas(sigmas: Tensor) -> Tensor:
    """Stretch a schedule so that its last step holds no signal (Lin et al., 2024, section 3.1)."""
    root = (1 / (sigmas * sigmas + 1)).sqrt()  # sqrt(alpha_bar)
    first, last = root[0].clone(), root[-1].clone()
    alpha_bar = ((root - last) * (first / (first - last))) ** 2
    alpha_bar[-1] = _TERMINAL_ALPHA_BAR
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


class ModelSamplingDiscrete(nn.Module):
    """A schedule of trained steps; sigmas between two steps are interpolated in the logarithm."""

    sigmas: Tensor
    log_sigmas: Tensor

    def __init__(
        self, linear_start: float = 0.00085, linear_end: float = 0.012, timesteps: int = 1000, zsnr: bool = False
    ) -> None:
        super().__init__()
        self.num_timesteps = timesteps
        self.zsnr = zsnr
        self.sigma_data = 1.0
        alpha_bar = torch.cumprod(1.0 - make_beta_schedule("linear", timesteps, linear_start, linear_end), dim=0)
        sigmas = ((1 - alpha_bar) / alpha_bar) ** 0.5
        self.set_sigmas(rescale_zero_terminal_snr_sigmas(sigmas) if zsnr else sigmas)

    def set_sigmas(self, sigmas: Tensor) -> None:
        """Replace the schedule by ascending sigmas (steps,)."""
        self.register_buffer("sigmas", sigmas.float())
        self.register_buffer("log_sigmas", sigmas.log().float())

    @property
    def sigma_min(self) -> Tensor:
        """The smallest trained sigma."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        """The largest trained sigma."""
        return self.sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return the index of the trained step nearest to each sigma."""
        distance = sigma.log().to(self.log_sigmas.device).reshape(-1) - self.log_sigmas[:, None]
        return distance.abs().argmin(dim=0).view(sigma.shape).to(sigma.device)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Return the sigma at a step, which may lie between two trained ones."""
        return self._interpolate(timestep.float(), timestep)

    def _interpolate(self, position: Tensor, like: Tensor) -> Tensor:
        position = position.to(self.log_sigmas.device).clamp(min=0, max=len(self.sigmas) - 1)
        low, high, weight = position.floor().long(), position.ceil().long(), position.frac()
        log_sigma = (1 - weight) * self.log_sigmas[low] + weight * self.log_sigmas[high]
        return log_sigma.exp().to(like.device)

    def percent_to_sigma(self, percent: float) -> float:
        """Return the sigma at a share of the schedule: 0 is before its start, 1 is its end."""
        if percent <= 0.0:
            return 999999999.9
        if percent >= 1.0:
            return 0.0
        return self.sigma(torch.tensor((1.0 - percent) * 999.0)).item()


class ModelSamplingDiscreteDistilled(ModelSamplingDiscrete):
    """The schedule of a model distilled on every twentieth of a thousand steps, as consistency models are."""

    original_timesteps = 50

    def __init__(
        self, linear_start: float = 0.00085, linear_end: float = 0.012, timesteps: int = 1000, zsnr: bool = False
    ) -> None:
        super().__init__(linear_start, linear_end, timesteps, zsnr)
        self.skip_steps = self.num_timesteps // self.original_timesteps
        kept = self.num_timesteps - 1 - self.skip_steps * torch.arange(self.original_timesteps)
        self.set_sigmas(self.sigmas[kept.flip(0)])

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return the full schedule's index of the kept step nearest to each sigma."""
        return super().timestep(sigma) * self.skip_steps + (self.skip_steps - 1)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Return the sigma at a step of the full schedule."""
        return self._interpolate((timestep.float() - (self.skip_steps - 1)) / self.skip_steps, timestep)


class ModelSamplingContinuousEDM(nn.Module):
    """Any noise level between two ends, its timestep a quarter of its logarithm (Karras et al., 2022)."""

    sigmas: Tensor
    log_sigmas: Tensor

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 120.0, sigma_data: float = 1.0) -> None:
        super().__init__()
        self.set_parameters(sigma_min, sigma_max, sigma_data)

    def set_parameters(self, sigma_min: float, sigma_max: float, sigma_data: float) -> None:
        """Replace the ends; `sigmas` (1000,) is the table that some schedulers pick from."""
        self.sigma_data = sigma_data
        sigmas = torch.linspace(math.log(sigma_min), math.log(sigma_max), 1000).exp()
        self.register_buffer("sigmas", sigmas)
        self.register_buffer("log_sigmas", sigmas.log())

    @property
    def sigma_min(self) -> Tensor:
        """The smallest noise level."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        """The largest noise level."""
        return self.sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return what the network is told about a noise level."""
        return 0.25 * sigma.log()

    def sigma(self, timestep: Tensor) -> Tensor:
        """Return the noise level of a timestep."""
        return (timestep / 0.25).exp()

    def percent_to_sigma(self, percent: float) -> float:
        """Return the sigma at a share of the schedule: 0 is before its start, 1 is its end."""
        if percent <= 0.0:
            return 999999999.9
        if percent >= 1.0:
            return 0.0
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return math.exp((high - low) * (1.0 - percent) + low)


class DiscreteEPS(ModelSamplingDiscrete, EPS):
    """Noise prediction on a discrete schedule."""


class DiscreteV(ModelSamplingDiscrete, V_PREDICTION):
    """Velocity prediction on a discrete schedule."""


class DiscreteX0(ModelSamplingDiscrete, X0):
    """Latent prediction on a discrete schedule."""


class DistilledLCM(ModelSamplingDiscreteDistilled, LCM):
    """Latent consistency on the distilled schedule."""


class ContinuousV(ModelSamplingContinuousEDM, V_PREDICTION):
    """Velocity prediction on continuous noise levels, as in Stable Video Diffusion and CosXL."""


class ContinuousEDM(ModelSamplingContinuousEDM, EDM):
    """Prediction of Karras et al. (2022) on their continuous noise levels, as in Playground 2.5."""


_CLASSES: dict[str, type[ModelSamplingDiscrete]] = {
    "eps": DiscreteEPS,
    "v_prediction": DiscreteV,
    "x0": DiscreteX0,
    "lcm": DistilledLCM,
}


def discrete_sampling(kind: str = "eps", zsnr: bool = False) -> ModelSamplingDiscrete:
    """Build the sampling object of a prediction kind, on latent diffusion's own betas."""
    if kind not in _CLASSES:
        raise ValueError(f"unknown sampling {kind!r}; known are {', '.join(SAMPLING_TYPES)}")
    return _CLASSES[kind](zsnr=zsnr)


CONTINUOUS: dict[str, type[ModelSamplingContinuousEDM]] = {"v_prediction": ContinuousV, "edm": ContinuousEDM}
