"""Run Stable Video Diffusion's parts in ComfyUI: `python video_child.py JOB.pt RESULT.pt`, ComfyUI on PYTHONPATH."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch


def autoencoder(config: dict[str, Any], state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Build ComfyUI's autoencoder of a video in a given size."""
    from comfy.ldm.models.autoencoder import AutoencodingEngine

    shared = {**config, "double_z": True, "resolution": 256, "attn_resolutions": [], "dropout": 0.0}
    decoder = {**shared, "video_kernel_size": [3, 1, 1], "alpha": 0.0}
    model = AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": "comfy.ldm.modules.diffusionmodules.model.Encoder", "params": shared},
        decoder_config={"target": "comfy.ldm.modules.temporal_ae.VideoDecoder", "params": decoder},
    )
    model.load_state_dict(state)
    return model.eval()


def schedule(sampling: Any, probes: dict[str, Any]) -> dict[str, Any]:
    """Return what a sampling object says about some sigmas, latents and shares."""
    import comfy.samplers

    sigmas, x, output = probes["sigmas"], probes["x"], probes["output"]
    return {
        "table": sampling.sigmas,
        "timesteps": sampling.timestep(sigmas),
        "back": sampling.sigma(sampling.timestep(sigmas)),
        "percents": torch.tensor([sampling.percent_to_sigma(p) for p in probes["percents"]]),
        "input": sampling.calculate_input(sigmas, x),
        "denoised": sampling.calculate_denoised(sigmas, output, x),
        "noised": sampling.noise_scaling(sigmas[0], x, output, True),
        **{name: comfy.samplers.calculate_sigmas(sampling, name, 7) for name in probes["schedulers"]},
    }


def main(job_path: str, result_path: str) -> None:
    """Load a job, run every part of it and save what comes out."""
    from comfy.cli_args import args

    args.cpu = True
    import comfy.clip_vision
    import comfy.model_detection
    import comfy.model_patcher
    import comfy.sample
    import comfy.supported_models
    import folder_paths
    from comfy_api.latest._ui import FolderType, ImageSaveHelper
    from comfy_extras.nodes_video_model import SVD_img2vid_Conditioning, VideoLinearCFGGuidance

    torch.set_grad_enabled(False)
    job = torch.load(job_path, weights_only=True)
    empty = {key: torch.empty(shape, device="meta") for key, shape in job["public"].items()}
    detected = comfy.model_detection.detect_unet_config(empty, "")
    family = comfy.model_detection.model_config_from_unet_config(detected)

    config = comfy.supported_models.SVD_img2vid(job["unet"]["config"])
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    model.diffusion_model.load_state_dict(job["unet"]["state"])
    patcher = comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))

    vision = comfy.clip_vision.ClipVisionModel({**job["vision"]["config"], "model_type": "clip_vision_model"})
    weights = {f"visual.{key}": value for key, value in job["vision"]["state"].items()}
    vision.load_sd(comfy.clip_vision.convert_to_transformers(weights, "visual."))
    seen = vision.encode_image(job["image"])
    engine = autoencoder(**job["vae"])
    vae = SimpleNamespace(encode=lambda pixels: engine.encode(pixels.movedim(-1, 1) * 2.0 - 1.0))
    positive, negative, latent = SVD_img2vid_Conditioning().encode(vision, job["image"], vae, **job["conditioning"])

    def sample(case: dict[str, Any]) -> torch.Tensor:
        chosen = patcher
        if "min_cfg" in case:
            chosen = VideoLinearCFGGuidance().patch(patcher, case["min_cfg"])[0]
        start = case["latent"].clone()
        return comfy.sample.sample(
            chosen,
            comfy.sample.prepare_noise(start, case["seed"]),
            case["steps"],
            case["cfg"],
            case["sampler"],
            case["scheduler"],
            case["positive"],
            case["negative"],
            start,
            denoise=case.get("denoise", 1.0),
            disable_pbar=True,
            seed=case["seed"],
        )

    folder_paths.set_output_directory(str(Path(result_path).parent))
    hidden = SimpleNamespace(hidden=SimpleNamespace(prompt=job["prompt"], extra_pnginfo=job["extra"]))
    webp = ImageSaveHelper.save_animated_webp(
        job["frames"], "theirs", FolderType.output, hidden, fps=8.0, lossless=True, quality=80, method=4
    )
    names = ("image_embeds", "last_hidden_state", "penultimate_hidden_states")
    result = {
        "family": type(family).__name__,
        "detected": {key: str(value) for key, value in detected.items()},
        "schedule": schedule(model.model_sampling, job["probes"]),
        "vision": {name: seen[name] for name in names},
        "decoded": engine.decode(job["z"]),
        "conditioning": [positive, negative, latent["samples"]],
        "latents": {name: sample(case) for name, case in job["cases"].items()},
        "webp": webp["filename"],
    }
    torch.save(result, result_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
