"""ComfyUI's core nodes that give a sampler its noise and its guidance, for the embedded host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ldm_patched.modules.patcher_extension import WrappersMP
from ...ldm_patched.sampling.guiders import BasicGuider, DualCFGGuider, PerpNegGuider
from ...ldm_patched.sampling.sample import fix_empty_latent_channels, prepare_noise
from ...ldm_patched.sampling.sampler import KSampler
from ...ldm_patched.sampling.samplers import CFGGuider
from ..api import comfy_io as io
from ..api.session import current
from .conditioning import Conditioning
from .declared import Nodes
from .latent_changes import Latent
from .sampling import SEED_MAX
from .sigmas import number

NODES = Nodes("model/sampling/guiders")
NOISE, SAMPLERS = "model/sampling/noise", "model/sampling/samplers"


@dataclass(frozen=True)
class Noise:
    """The noise that a run starts from; none without a seed."""

    of_seed: int | None

    @property
    def seed(self) -> int:
        """Return the seed of the run."""
        return self.of_seed or 0

    def generate_noise(self, latent: Latent) -> Tensor:
        """Draw the noise for latents."""
        samples = latent["samples"]
        if self.of_seed is None:
            return torch.zeros_like(samples)
        return prepare_noise(samples, self.of_seed, latent.get("batch_index"))


def _model() -> io.Input:
    return io.Model.Input("model", tooltip="The model that denoises.")


def _cfg(name: str = "cfg", tooltip: str = "How strongly prompts steer.", default: float = 8.0) -> io.Input:
    return io.Float.Input(name, default=default, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=tooltip)


@NODES.add(
    "RandomNoise",
    "RandomNoise",
    [
        io.Int.Input(
            "noise_seed", default=0, min=0, max=SEED_MAX, control_after_generate=True, tooltip="The seed of the noise."
        )
    ],
    io.Noise,
    category=NOISE,
)
def random_noise(noise_seed: int) -> Noise:
    """Give the noise of a seed."""
    return Noise(noise_seed)


@NODES.add("DisableNoise", "DisableNoise", [], io.Noise, category=NOISE)
def disable_noise() -> Noise:
    """Give no noise."""
    return Noise(None)


@NODES.add(
    "BasicGuider",
    "Basic Guider",
    [_model(), io.Conditioning.Input("conditioning", tooltip="What should be in the picture.")],
    io.Guider,
)
def basic_guider(model: Any, conditioning: Conditioning) -> CFGGuider:
    """Follow one prompt."""
    return BasicGuider(model, conditioning)


@NODES.add(
    "CFGGuider",
    "CFG Guider",
    [
        _model(),
        io.Conditioning.Input("positive", tooltip="What should be in the picture."),
        io.Conditioning.Input("negative", tooltip="What should not be in the picture."),
        _cfg(),
    ],
    io.Guider,
)
def cfg_guider(model: Any, positive: Conditioning, negative: Conditioning, cfg: float) -> CFGGuider:
    """Follow a prompt and leave another one."""
    guider = CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


@NODES.add(
    "DualCFGGuider",
    "Dual CFG Guider",
    [
        _model(),
        io.Conditioning.Input("cond1", tooltip="The first prompt."),
        io.Conditioning.Input("cond2", tooltip="The second prompt, from which the first leads."),
        io.Conditioning.Input("negative", tooltip="What should not be in the picture."),
        _cfg("cfg_conds", "How strongly the first leads away from the second."),
        _cfg("cfg_cond2_negative", "How strongly the second leads away from the negative."),
        io.Combo.Input("style", options=["regular", "nested"], tooltip="Whether one guidance is inside of the other."),
    ],
    io.Guider,
)
def dual_cfg_guider(
    model: Any,
    cond1: Conditioning,
    cond2: Conditioning,
    negative: Conditioning,
    cfg_conds: float,
    cfg_cond2_negative: float,
    style: str,
) -> CFGGuider:
    """Follow two prompts and leave another one."""
    return DualCFGGuider(model, (cond1, cond2, negative), cfg_conds, cfg_cond2_negative, style == "nested")


@NODES.add(
    "PerpNegGuider",
    "Perp-Neg Guider",
    [
        _model(),
        io.Conditioning.Input("positive", tooltip="What should be in the picture."),
        io.Conditioning.Input("negative", tooltip="What should not be in the picture."),
        io.Conditioning.Input("empty_conditioning", tooltip="The empty prompt."),
        _cfg(),
        io.Float.Input(
            "neg_scale", default=1.0, min=0.0, max=100.0, step=0.01, advanced=True, tooltip="Weight of the negative."
        ),
    ],
    io.Guider,
    category="experimental",
    is_experimental=True,
)
def perp_neg_guider(
    model: Any,
    positive: Conditioning,
    negative: Conditioning,
    empty_conditioning: Conditioning,
    cfg: float,
    neg_scale: float,
) -> CFGGuider:
    """Leave of a negative prompt what the positive one has not."""
    return PerpNegGuider(model, (positive, negative, empty_conditioning), cfg, neg_scale)


@NODES.add(
    "CFGOverride",
    "CFG Override",
    [
        _model(),
        _cfg(default=1.0),
        io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.001, tooltip="Where it begins, 0 to 1."),
        io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.001, tooltip="Where it ends, 0 to 1."),
    ],
    io.Model,
)
def cfg_override(model: Any, cfg: float, start_percent: float, end_percent: float) -> Any:
    """Guide by another strength for a part of the run."""
    sampling = model.get_model_object("model_sampling")
    high, low = (sampling.percent_to_sigma(percent) for percent in (start_percent, end_percent))

    def guided(executor: Any, x: Tensor, timestep: Tensor, *others: Any, **named: Any) -> Tensor:
        guider, kept = executor.class_obj, executor.class_obj.cfg
        guider.cfg = cfg if low <= float(timestep.flatten()[0]) <= high else kept
        try:
            return executor(x, timestep, *others, **named)
        finally:
            guider.cfg = kept

    model = model.clone()
    model.add_wrapper(WrappersMP.PREDICT_NOISE, guided)
    return model


@NODES.add(
    "SamplerEulerAncestral",
    "SamplerEulerAncestral",
    [number("eta", 1.0, "How much noise is added anew.", 100.0), number("s_noise", 1.0, "Its strength.", 100.0)],
    io.Sampler,
    category=SAMPLERS,
)
def sampler_euler_ancestral(eta: float, s_noise: float) -> KSampler:
    """Give the ancestral Euler sampler with its settings."""
    return KSampler("euler_ancestral", {"eta": eta, "s_noise": s_noise})


@NODES.add(
    "SamplerLCM",
    "SamplerLCM",
    [
        number("s_noise", 1.0, "The strength of the noise in the first step.", 64.0),
        number("s_noise_end", 1.0, "The strength of the noise in the last step.", 64.0),
        number("noise_clip_std", 0.0, "At how many deviations the noise is cut off; 0 leaves it.", 10.0),
    ],
    io.Sampler,
    category=SAMPLERS,
)
def sampler_lcm(s_noise: float, s_noise_end: float, noise_clip_std: float) -> KSampler:
    """Give the sampler of consistency models with its settings."""
    return KSampler("lcm", {"s_noise": s_noise, "s_noise_end": s_noise_end, "noise_clip_std": noise_clip_std})


def sampled(model: Any, latent: Latent, run: Callable[[Latent, Callable[..., None]], Tensor]) -> tuple[Latent, Latent]:
    """Return latents and the last prediction of them without noise; `run` samples, given latents and a callback."""
    latent = {**latent, "samples": fix_empty_latent_channels(model, latent["samples"])}
    last: dict[str, Tensor] = {}

    def show(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        last["x0"] = denoised
        current().progress(step + 1, total)

    samples = run(latent, show)
    clean = model.model.process_latent_out(last["x0"].cpu()) if last else samples
    return {**latent, "samples": samples}, {**latent, "samples": clean}


@NODES.add(
    "SamplerCustomAdvanced",
    "SamplerCustomAdvanced",
    [
        io.Noise.Input("noise", tooltip="The noise to start from."),
        io.Guider.Input("guider", tooltip="The model and its guidance."),
        io.Sampler.Input("sampler", tooltip="The sampling algorithm."),
        io.Sigmas.Input("sigmas", tooltip="The noise levels."),
        io.Latent.Input("latent_image", tooltip="The latents to denoise."),
    ],
    io.Latent.Output(display_name="output"),
    io.Latent.Output(display_name="denoised_output"),
    category="model/sampling/custom",
)
def sampler_custom_advanced(
    noise: Noise, guider: CFGGuider, sampler: KSampler, sigmas: Tensor, latent_image: Latent
) -> tuple[Latent, Latent]:
    """Denoise latents with noise, guidance, sampler and noise levels of one's own."""

    def run(latent: Latent, callback: Callable[..., None]) -> Tensor:
        image, mask = latent["samples"], latent.get("noise_mask")
        drawn = noise.generate_noise(latent)
        with torch.no_grad():
            return guider.sample(drawn, image, sampler, sigmas, mask, callback, seed=noise.seed).cpu()

    return sampled(guider.model_patcher, latent_image, run)
