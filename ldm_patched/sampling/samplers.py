"""Guided sampling: classifier-free guidance, the run around a sampler, and what a KSampler node calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..modules import model_management
from ..modules.model_patcher import ModelPatcher
from ..modules.patcher_extension import WrapperExecutor, WrappersMP, copy_nested_dicts, get_all_wrappers
from .cond_batch import HOOKED_WEIGHTS, Cond, Conditioning, calc_cond_batch, controls, convert_cond, process_conds
from .model_base import BaseModel
from .preparation import hooked_weights, mask_for, prepare_sampling, run_options
from .sampler import SAMPLER_NAMES, KSampler, ProgressCallback, sampler_object
from .schedulers import SCHEDULER_NAMES, calculate_sigmas

__all__ = [
    "SAMPLER_NAMES",
    "SCHEDULER_NAMES",
    "CFGGuider",
    "KSampler",
    "calc_cond_batch",
    "calculate_sigmas",
    "cfg_function",
    "sample",
    "sample_custom",
    "sampler_object",
    "sampler_sigmas",
    "sampling_function",
]

# These gain nothing from the last sigma before zero, which is very close to it.
DISCARD_PENULTIMATE_SIGMA = frozenset({"dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"})


def cfg_function(
    model: BaseModel,
    cond_pred: Tensor,
    uncond_pred: Tensor,
    cond_scale: float,
    x: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
    cond: list[Cond] | None = None,
    uncond: list[Cond] | None = None,
) -> Tensor:
    """Combine the two predictions, in the patcher's own formula where it has one, then run its post functions."""
    shared: dict[str, Any] = {"cond_scale": cond_scale, "sigma": timestep, "input": x}
    shared |= {"model": model, "model_options": model_options}
    shared |= {"cond_denoised": cond_pred, "uncond_denoised": uncond_pred}
    if "sampler_cfg_function" in model_options:
        args: dict[str, Any] = {"cond": x - cond_pred, "uncond": x - uncond_pred, "timestep": timestep}
        args |= {**shared, "input_cond": cond, "input_uncond": uncond}
        result: Tensor = x - model_options["sampler_cfg_function"](args)
    else:
        result = uncond_pred + (cond_pred - uncond_pred) * cond_scale
    for function in model_options.get("sampler_post_cfg_function", []):
        result = function({**shared, "denoised": result, "cond": cond, "uncond": uncond})
    return result


def sampling_function(
    model: BaseModel,
    x: Tensor,
    timestep: Tensor,
    uncond: list[Cond] | None,
    cond: list[Cond] | None,
    cond_scale: float,
    model_options: dict[str, Any],
    seed: int | None = None,
) -> Tensor:
    """Return the guided denoised latent; at scale 1 the uncond is not evaluated."""
    if math.isclose(cond_scale, 1.0) and not model_options.get("disable_cfg1_optimization", False):
        uncond = None
    conds = [cond, uncond]
    args = {"conds": conds, "input": x, "sigma": timestep, "model": model, "model_options": model_options}
    if "sampler_calc_cond_batch_function" in model_options:
        out = model_options["sampler_calc_cond_batch_function"](args)
    else:
        out = calc_cond_batch(model, conds, x, timestep, model_options)
    for function in model_options.get("sampler_pre_cfg_function", []):
        out = function({**args, "conds_out": out, "cond_scale": cond_scale, "timestep": timestep})
    return cfg_function(model, out[0], out[1], cond_scale, x, timestep, model_options, cond, uncond)


class CFGGuider:
    """Classifier-free guidance of one model with a positive and a negative conditioning (Ho and Salimans, 2022).

    During `sample` the guider works on its own copy of the patcher's options, so nothing of a run is left in them.
    """

    inner_model: BaseModel

    def __init__(self, model_patcher: ModelPatcher) -> None:
        self.model_patcher = model_patcher
        self.model_options = model_patcher.model_options
        self.original_conds: dict[str, list[Cond]] = {}
        self.conds: dict[str, list[Cond]] = {}
        self.cfg = 1.0

    def set_conds(self, positive: Conditioning, negative: Conditioning) -> None:
        """Set both conditionings."""
        self.original_conds = {"positive": convert_cond(positive), "negative": convert_cond(negative)}

    def set_cfg(self, cfg: float) -> None:
        """Set the guidance scale."""
        self.cfg = cfg

    def __call__(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """Return the guided denoised latent, through the PREDICT_NOISE wrappers."""
        return self._wrapped(self.predict_noise, WrappersMP.PREDICT_NOISE, x, timestep, model_options or {}, seed)

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None
    ) -> Tensor:
        """Return the guided denoised latent for x (b, c, h, w) at timestep (b,), which holds sigmas."""
        negative, positive = self.conds.get("negative"), self.conds.get("positive")
        return sampling_function(self.inner_model, x, timestep, negative, positive, self.cfg, model_options, seed)

    def _wrapped(self, function: Callable[..., Tensor], kind: str, *args: Any) -> Tensor:
        wrappers = get_all_wrappers(kind, self.model_options, is_model_options=True)
        latent: Tensor = WrapperExecutor.new_class_executor(function, self, wrappers).execute(*args)
        return latent

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: KSampler,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: ProgressCallback | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """Sample from a latent and noise (b, c, h, w) along sigmas and return the latent in the VAE's scale."""
        if sigmas.shape[-1] == 0:
            return latent_image
        if denoise_mask is not None:
            denoise_mask = mask_for(denoise_mask, latent_image).to(self.model_patcher.load_device)
        self.conds = {name: [dict(cond) for cond in group] for name, group in self.original_conds.items()}
        hooked = hooked_weights(self.model_patcher, self.conds)
        patcher_options = self.model_options
        self.model_options = run_options(self.model_patcher)
        if hooked is not None:
            self.model_options[HOOKED_WEIGHTS] = hooked
        try:
            args = (noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
            return self._wrapped(self.outer_sample, WrappersMP.OUTER_SAMPLE, *args)
        finally:
            if hooked is not None:
                hooked.release()
            self.model_options = patcher_options
            self.conds = {}

    def outer_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: KSampler,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: ProgressCallback | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """Patch the model, run, and take everything out again whatever happens."""
        patcher, device = self.model_patcher, self.model_patcher.load_device
        prepare = WrapperExecutor.new_executor(
            prepare_sampling, get_all_wrappers(WrappersMP.PREPARE_SAMPLING, self.model_options, is_model_options=True)
        )
        try:
            self.inner_model, self.conds, _ = prepare.execute(patcher, noise.shape, self.conds, self.model_options)
            noise, latent_image = (t.to(device=device, dtype=torch.float32) for t in (noise, latent_image))
            sigmas = sigmas.to(device)
            try:
                patcher.pre_run()
                return self.inner_sample(
                    noise, latent_image, device, sampler, sigmas, denoise_mask, callback, disable_pbar, seed
                )
            finally:
                for control in controls(self.conds):
                    control.cleanup()
                patcher.cleanup()
        finally:
            patcher.unpatch_model()

    def inner_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        device: torch.device,
        sampler: KSampler,
        sigmas: Tensor,
        denoise_mask: Tensor | None,
        callback: ProgressCallback | None,
        disable_pbar: bool,
        seed: int | None,
    ) -> Tensor:
        """Encode the conditionings and call the sampler, through the SAMPLER_SAMPLE wrappers."""
        model = self.inner_model
        if torch.count_nonzero(latent_image) > 0:
            latent_image = model.process_latent_in(latent_image)
        params = {"latent_image": latent_image, "denoise_mask": denoise_mask, "seed": seed}
        self.conds = process_conds(model, noise, self.conds, device, **params)
        options = copy_nested_dicts(self.model_options)
        options["transformer_options"]["sample_sigmas"] = sigmas
        extra_args = {"model_options": options, "seed": seed}
        wrappers = get_all_wrappers(WrappersMP.SAMPLER_SAMPLE, options, is_model_options=True)
        executor = WrapperExecutor.new_class_executor(sampler.sample, sampler, wrappers)
        args = (self, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)
        return model.process_latent_out(executor.execute(*args).to(torch.float32))


# By name


def sampler_sigmas(
    model: ModelPatcher, sampler_name: str, scheduler: str, steps: int, denoise: float | None = None
) -> Tensor:
    """Return the sigmas a sampler walks through for a number of steps and a share of denoising."""
    if denoise is not None and denoise <= 0.0:
        return torch.zeros(0)
    full = denoise is None or denoise > 0.9999
    count = steps if full else int(steps / (denoise or 1.0))
    extra = sampler_name in DISCARD_PENULTIMATE_SIGMA
    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), scheduler, count + extra)
    if extra:
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    return sigmas if full else sigmas[-(steps + 1) :]


def sample(
    model: ModelPatcher,
    noise: Tensor,
    positive: Conditioning,
    negative: Conditioning,
    cfg: float,
    steps: int,
    sampler_name: str,
    scheduler: str,
    denoise: float | None = None,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
    noise_mask: Tensor | None = None,
    seed: int | None = None,
    callback: ProgressCallback | None = None,
    *,
    latent_image: Tensor | None = None,
    sigmas: Tensor | None = None,
) -> Tensor:
    """Sample latents (b, 4, h, w) on the CPU, in the VAE's scale, as a KSampler node does.

    Args:
        denoise: share of the schedule that is run, from its end.
        start_step, last_step: run only a part of the schedule; with `force_full_denoise` the part ends at zero noise.
        noise_mask: 1 where the latent is sampled, 0 where it is kept.
        callback: called as `(step, denoised, x, total_steps)`.
    """
    sampler = sampler_object(sampler_name)
    latent = torch.zeros_like(noise) if latent_image is None else latent_image
    if sigmas is None:
        sigmas = sampler_sigmas(model, sampler_name, scheduler, steps, denoise)
    if last_step is not None and last_step < len(sigmas) - 1:
        sigmas = sigmas[: last_step + 1].clone()
        if force_full_denoise:
            sigmas[-1] = 0
    if start_step is not None:
        if start_step >= len(sigmas) - 1:
            return latent
        sigmas = sigmas[start_step:]
    return sample_custom(model, noise, positive, negative, cfg, sampler, sigmas, latent, noise_mask, seed, callback)


def sample_custom(
    model: ModelPatcher,
    noise: Tensor,
    positive: Conditioning,
    negative: Conditioning,
    cfg: float,
    sampler: KSampler,
    sigmas: Tensor,
    latent_image: Tensor,
    noise_mask: Tensor | None = None,
    seed: int | None = None,
    callback: ProgressCallback | None = None,
) -> Tensor:
    """Sample latents (b, 4, h, w) on the CPU with a given sampler and sigmas; without sigmas nothing changes."""
    if len(sigmas) == 0:
        return latent_image
    guider = CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    with torch.no_grad():
        samples = guider.sample(noise, latent_image, sampler, sigmas, noise_mask, callback, seed=seed)
    return samples.to(model_management.intermediate_device())
