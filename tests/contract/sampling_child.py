"""Sample with ComfyUI: `python sampling_child.py JOB.pt RESULT.pt`, ComfyUI on PYTHONPATH."""

from __future__ import annotations

import sys
from typing import Any

import torch


def main(job_path: str, result_path: str) -> None:
    """Load a job, sample every case of it in ComfyUI and save the latents."""
    from comfy.cli_args import args

    args.cpu = True
    import comfy.model_patcher
    import comfy.sample
    import comfy.supported_models
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    job = torch.load(job_path, weights_only=True)

    def load(unet: dict[str, Any], state: dict[str, torch.Tensor]) -> comfy.model_patcher.ModelPatcher:
        config = comfy.supported_models.SD15(unet)
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, device="cpu")
        model.diffusion_model.load_state_dict(state)
        return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))

    models = {channels: load(**model) for channels, model in job["models"].items()}

    def sample(case: dict[str, Any]) -> torch.Tensor:
        patcher = chosen = models[case["in_channels"]]
        if "sampling" in case:
            chosen = ModelSamplingDiscrete().patch(patcher, *case["sampling"])[0]
        latent = case["latent"].clone()
        noise = comfy.sample.prepare_noise(latent, case["seed"], case.get("batch_index"))
        names = ("denoise", "start_step", "last_step", "force_full_denoise", "noise_mask")
        return comfy.sample.sample(
            chosen,
            noise,
            case["steps"],
            case["cfg"],
            case["sampler"],
            case["scheduler"],
            case["positive"],
            case["negative"],
            latent,
            disable_pbar=True,
            seed=case["seed"],
            **{name: case[name] for name in names if name in case},
        )

    torch.save({name: sample(case) for name, case in job["cases"].items()}, result_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
