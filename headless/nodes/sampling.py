"""ComfyUI's core nodes that make and sample latents, for the embedded host."""

from __future__ import annotations

from typing import Any

import torch

from ...ldm_patched.sampling.sample import common_ksampler
from ...ldm_patched.sampling.samplers import SAMPLER_NAMES
from ...ldm_patched.sampling.schedulers import SCHEDULER_NAMES
from ..api import comfy_io as io
from ..api.session import current

SEED_MAX = 0xFFFFFFFFFFFFFFFF
MOST_STEPS = 10**6  # of a schedule


class EmptyLatentImage(io.ComfyNode):
    """Make empty latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="EmptyLatentImage",
            display_name="Empty Latent Image",
            category="latent",
            description="Make empty latents to be denoised by a sampler.",
            inputs=[
                io.Int.Input("width", default=512, min=16, max=16384, step=8, tooltip="Width in pixels."),
                io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip="Height in pixels."),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="The number of pictures."),
            ],
            outputs=[io.Latent.Output(tooltip="The empty latents.")],
        )

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int) -> io.NodeOutput:
        """Return zeros (batch_size, 4, height / 8, width / 8)."""
        return io.NodeOutput({"samples": torch.zeros(batch_size, 4, height // 8, width // 8)})


def _shared_inputs() -> list[io.Input]:
    return [
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip="The number of denoising steps."),
        io.Float.Input(
            "cfg",
            default=8.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="How strongly the prompt steers (classifier-free guidance).",
        ),
        io.Combo.Input("sampler_name", options=list(SAMPLER_NAMES), tooltip="The sampling algorithm."),
        io.Combo.Input("scheduler", options=list(SCHEDULER_NAMES), tooltip="How noise is taken away over the steps."),
        io.Conditioning.Input("positive", tooltip="What should be in the picture."),
        io.Conditioning.Input("negative", tooltip="What should not be in the picture."),
        io.Latent.Input("latent_image", tooltip="The latents to denoise."),
    ]


def check_schedule(steps: int, denoise: float) -> None:
    """Raise ValueError where the whole schedule, of which the last steps run, would have no end."""
    if 0.0 < denoise < steps / MOST_STEPS:
        how = f"give at least {steps / MOST_STEPS}, or 0 for no denoising"
        raise ValueError(f"denoise {denoise} takes {steps} steps out of {steps / denoise:.0e}; {how}")


def _show(step: int, denoised: Any, x: Any, total: int) -> None:
    current().progress(step + 1, total)


class KSampler(io.ComfyNode):
    """Denoise latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="KSampler",
            display_name="KSampler",
            category="sampling",
            description="Denoise the latents with the model, steered by the prompts.",
            inputs=[
                io.Model.Input("model", tooltip="The model that denoises."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEED_MAX,
                    control_after_generate=True,
                    tooltip="The seed of the noise.",
                ),
                *_shared_inputs(),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much is denoised; below 1 keeps the structure of the given latents.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The denoised latents.")],
        )

    @classmethod
    def execute(cls, latent_image: dict[str, Any], **inputs: Any) -> io.NodeOutput:
        """Run the sampler."""
        check_schedule(inputs["steps"], inputs["denoise"])
        return io.NodeOutput(common_ksampler(latent=latent_image, callback=_show, **inputs))


class KSamplerAdvanced(io.ComfyNode):
    """Denoise latents over some of the steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        switch = ["enable", "disable"]
        return io.Schema(
            node_id="KSamplerAdvanced",
            display_name="KSampler (Advanced)",
            category="sampling",
            description="Denoise the latents over a range of steps, with or without adding noise first.",
            inputs=[
                io.Model.Input("model", tooltip="The model that denoises."),
                io.Combo.Input("add_noise", options=switch, advanced=True, tooltip="Whether noise is added first."),
                io.Int.Input(
                    "noise_seed",
                    default=0,
                    min=0,
                    max=SEED_MAX,
                    control_after_generate=True,
                    tooltip="The seed of the noise.",
                ),
                *_shared_inputs(),
                io.Int.Input(
                    "start_at_step", default=0, min=0, max=10000, advanced=True, tooltip="The first step that runs."
                ),
                io.Int.Input(
                    "end_at_step", default=10000, min=0, max=10000, advanced=True, tooltip="The step it ends before."
                ),
                io.Combo.Input(
                    "return_with_leftover_noise",
                    options=switch[::-1],
                    advanced=True,
                    tooltip="Whether noise that is left stays in the result.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The latents after the last step.")],
        )

    @classmethod
    def execute(
        cls,
        latent_image: dict[str, Any],
        add_noise: str,
        noise_seed: int,
        start_at_step: int,
        end_at_step: int,
        return_with_leftover_noise: str,
        **inputs: Any,
    ) -> io.NodeOutput:
        """Run the sampler."""
        latent = common_ksampler(
            latent=latent_image,
            seed=noise_seed,
            disable_noise=add_noise == "disable",
            start_step=start_at_step,
            last_step=end_at_step,
            force_full_denoise=return_with_leftover_noise == "disable",
            callback=_show,
            **inputs,
        )
        return io.NodeOutput(latent)


NODES = [EmptyLatentImage, KSampler, KSamplerAdvanced]
