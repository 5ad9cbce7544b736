"""ComfyUI's core nodes that give a sampler its parts one by one, for the embedded host."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...ldm_patched.sampling import samplers
from ...ldm_patched.sampling.sample import fix_empty_latent_channels, prepare_noise
from ...ldm_patched.sampling.schedulers import SCHEDULER_NAMES, calculate_sigmas
from ..api import comfy_io as io
from ..api.session import current
from .sampling import SEED_MAX, check_schedule


class KSamplerSelect(io.ComfyNode):
    """Choose a sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        names = list(samplers.SAMPLER_NAMES)
        return io.Schema(
            node_id="KSamplerSelect",
            display_name="KSamplerSelect",
            category="model/sampling/samplers",
            description="Choose a sampler.",
            inputs=[io.Combo.Input("sampler_name", options=names, tooltip="The sampling algorithm.")],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, sampler_name: str) -> io.NodeOutput:
        """Return the sampler."""
        return io.NodeOutput(samplers.sampler_object(sampler_name))


class BasicScheduler(io.ComfyNode):
    """Make the sigmas of a run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="BasicScheduler",
            display_name="BasicScheduler",
            category="model/sampling/schedulers",
            description="Make the noise levels of a run from a named schedule.",
            inputs=[
                io.Model.Input("model", tooltip="The model the run is for."),
                io.Combo.Input("scheduler", options=list(SCHEDULER_NAMES), tooltip="How noise is taken away."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="The number of steps."),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="How much is denoised."),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, model: Any, scheduler: str, steps: int, denoise: float) -> io.NodeOutput:
        """Return the last steps + 1 sigmas of the whole schedule; none for denoise 0."""
        if denoise <= 0.0:
            return io.NodeOutput(torch.zeros(0))
        check_schedule(steps, denoise)
        total = steps if denoise >= 1.0 else int(steps / denoise)
        sigmas = calculate_sigmas(model.get_model_object("model_sampling"), scheduler, total)
        return io.NodeOutput(sigmas[-(steps + 1) :])


class SamplerCustom(io.ComfyNode):
    """Denoise latents with a given sampler and sigmas."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SamplerCustom",
            display_name="SamplerCustom",
            category="model/sampling/custom",
            description="Denoise the latents with a sampler and noise levels of your own.",
            inputs=[
                io.Model.Input("model", tooltip="The model that denoises."),
                io.Boolean.Input("add_noise", default=True, advanced=True, tooltip="Whether noise is added first."),
                io.Int.Input(
                    "noise_seed",
                    default=0,
                    min=0,
                    max=SEED_MAX,
                    control_after_generate=True,
                    tooltip="The seed of the noise.",
                ),
                io.Float.Input(
                    "cfg", default=8.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="How strongly prompts steer."
                ),
                io.Conditioning.Input("positive", tooltip="What should be in the picture."),
                io.Conditioning.Input("negative", tooltip="What should not be in the picture."),
                io.Sampler.Input("sampler", tooltip="The sampling algorithm."),
                io.Sigmas.Input("sigmas", tooltip="The noise levels."),
                io.Latent.Input("latent_image", tooltip="The latents to denoise."),
            ],
            outputs=[io.Latent.Output(display_name="output"), io.Latent.Output(display_name="denoised_output")],
        )

    @classmethod
    def execute(
        cls, model: Any, add_noise: bool, noise_seed: int, latent_image: dict[str, Any], sigmas: Tensor, **inputs: Any
    ) -> io.NodeOutput:
        """Run the sampler; the second output is the last prediction of the image without noise."""
        image = fix_empty_latent_channels(model, latent_image["samples"])
        batch_index = latent_image.get("batch_index")
        noise = prepare_noise(image, noise_seed, batch_index) if add_noise else torch.zeros_like(image)
        last: dict[str, Tensor] = {}

        def show(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
            last["x0"] = denoised
            current().progress(step + 1, total)

        samples = samplers.sample_custom(
            model,
            noise,
            latent_image=image,
            sigmas=sigmas,
            noise_mask=latent_image.get("noise_mask"),
            seed=noise_seed,
            callback=show,
            **inputs,
        )
        clean = model.model.process_latent_out(last["x0"].cpu()) if last else samples
        return io.NodeOutput({**latent_image, "samples": samples}, {**latent_image, "samples": clean})


NODES = [KSamplerSelect, BasicScheduler, SamplerCustom]
