"""Compare Stable Video Diffusion with ComfyUI's on the same weights: every part of it, and sampled latents."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.nodes.video import SVDImg2vidConditioning, VideoLinearCFGGuidance, write_webp
from attention_patchbay.ldm_patched.images.vae import VAE
from attention_patchbay.ldm_patched.loading.model_detection import detect_unet, model_config
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.sampling.model_base import SVD
from attention_patchbay.ldm_patched.sampling.model_sampling import ContinuousV
from attention_patchbay.ldm_patched.sampling.sample import prepare_noise
from attention_patchbay.ldm_patched.sampling.samplers import SCHEDULER_NAMES, sample
from attention_patchbay.ldm_patched.sampling.schedulers import calculate_sigmas
from attention_patchbay.ldm_patched.text import clip_vision
from PIL import Image, ImageSequence

from ..ldm_patched import tiny_video
from ..unets import draw
from . import video_child

pytestmark = pytest.mark.comfyui
FRAMES = 5
PERCENTS = [-1.0, 0.0, 0.1, 0.5, 0.99, 1.0, 2.0]
CONDITIONING = {"width": 64, "height": 48, "video_frames": 3, "motion_bucket_id": 90, "fps": 8}
PROMPT, EXTRA = {"1": {"class_type": "X"}}, {"workflow": {"nodes": [1]}, "more": "text"}


def picture() -> torch.Tensor:
    return torch.rand(1, 80, 120, 4, generator=torch.Generator().manual_seed(5))


def entries(image: torch.Tensor, **more: Any) -> dict[str, Any]:
    return {"motion_bucket_id": 127, "fps": 6, "augmentation_level": 0.0, "concat_latent_image": image, **more}


def base(**changes: Any) -> dict[str, Any]:
    context, image = draw(1, 1, 1, 32), draw(2, 1, 4, 6, 8)
    case = {
        "steps": 4,
        "cfg": 2.5,
        "sampler": "euler",
        "scheduler": "karras",
        "seed": 3,
        "positive": [[context, entries(image)]],
        "negative": [[torch.zeros_like(context), entries(torch.zeros_like(image))]],
        "latent": torch.zeros(FRAMES, 4, 6, 8),
    }
    return case | changes


CASES = {
    "euler karras": base(),
    "linear guidance": base(min_cfg=1.0),
    "euler_ancestral simple": base(sampler="euler_ancestral", scheduler="simple"),
    "dpmpp_2m sgm_uniform": base(sampler="dpmpp_2m", scheduler="sgm_uniform"),
    "dpmpp_2m_sde exponential": base(sampler="dpmpp_2m_sde", scheduler="exponential"),
    "ddim normal": base(sampler="ddim", scheduler="normal"),
    "uni_pc karras": base(sampler="uni_pc"),
    "a video to start from": base(latent=draw(7, FRAMES, 4, 6, 8), denoise=0.6),
    "other motion": base(positive=[[draw(1, 1, 1, 32), entries(draw(2, 1, 4, 6, 8), fps=25, motion_bucket_id=400)]]),
    "noisy picture": base(positive=[[draw(1, 1, 1, 32), entries(draw(2, 1, 4, 6, 8), augmentation_level=8.0)]]),
    "picture of another size": base(positive=[[draw(1, 1, 1, 32), entries(draw(2, 1, 4, 9, 20))]]),
    "two pictures": base(positive=[[draw(1, 1, 1, 32), entries(draw(2, 2, 4, 6, 8))]]),
    "many pictures": base(positive=[[draw(1, 1, 1, 32), entries(draw(2, 8, 4, 6, 8))]]),
    "no picture": base(positive=[[draw(1, 1, 1, 32), {}]]),
    "its own context over time": base(
        positive=[[draw(1, 1, 1, 32), entries(draw(2, 1, 4, 6, 8), time_conditioning=draw(4, 1, 3, 32))]],
        negative=[[draw(6, 1, 1, 32), entries(draw(8, 1, 4, 6, 8), time_conditioning=draw(9, 1, 1, 32))]],
    ),
}
PROBES = {
    "sigmas": torch.tensor([0.002, 0.4, 700.0]),
    "x": draw(1, 3, 4, 2, 2),
    "output": draw(2, 3, 4, 2, 2),
    "percents": PERCENTS,
    "schedulers": list(SCHEDULER_NAMES),
}


def public() -> dict[str, tuple[int, ...]]:
    with gzip.open(Path(__file__).parents[1] / "data" / "state_dict_keys.json.gz", "rt") as file:
        return {key: tuple(shape) for key, shape in json.load(file)["UNetModel_svd"]["keys"].items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("video")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> dict[str, Any]:
    job = {
        "public": public(),
        "unet": {"config": tiny_video.UNET, "state": tiny_video.unet().state_dict()},
        "vision": {
            "config": tiny_video.VISION,
            "state": tiny_video.to_open_clip(tiny_video.vision().state_dict()),
        },
        "vae": {"config": tiny_video.VAE, "state": tiny_video.vae().state_dict()},
        "image": picture(),
        "z": draw(3, 3, 4, 4, 4),
        "conditioning": {**CONDITIONING, "augmentation_level": 0.0},
        "probes": PROBES,
        "cases": CASES,
        "frames": torch.rand(3, 6, 8, 3, generator=torch.Generator().manual_seed(1)),
        "prompt": PROMPT,
        "extra": EXTRA,
    }
    torch.save(job, folder / "job.pt")
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), video_child.__file__]
    command += [str(folder / "job.pt"), str(folder / "result.pt")]
    # not the checkout as working directory: nothing of ours may be importable there
    env = {**os.environ, "PYTHONPATH": str(Path(os.environ["COMFYUI_PATH"]).resolve())}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "result.pt", weights_only=True)


@pytest.fixture(scope="module")
def patcher() -> ModelPatcher:
    model = SVD(model_config(detect_unet({k: tuple(v.shape) for k, v in tiny_video.unet().state_dict().items()})))
    model.diffusion_model.load_state_dict(tiny_video.unet().state_dict())
    return ModelPatcher(model, "cpu", "cpu")


def error(ours: torch.Tensor, real: torch.Tensor) -> float:
    assert ours.shape == real.shape
    return float((ours - real).norm() / real.norm())


def test_the_public_unet_is_detected_as_comfyui_does(theirs: dict[str, Any]) -> None:
    ours = detect_unet(public())
    assert theirs["family"] == "SVD_img2vid" and model_config(ours).family == "svd"
    # what both name; ComfyUI adds heads and precision elsewhere
    shared = set(theirs["detected"]) & set(ours) - {"legacy", "num_classes"}
    assert len(shared) > 15
    assert {key: str(ours[key]) for key in shared} == {key: theirs["detected"][key] for key in shared}


@pytest.mark.parametrize("name", ["table", "timesteps", "back", "percents", "input", "denoised", "noised"])
def test_noise_levels_equal_comfyui(name: str, theirs: dict[str, Any]) -> None:
    sampling = ContinuousV(sigma_min=0.002, sigma_max=700.0)
    sigmas, x, output = PROBES["sigmas"], PROBES["x"], PROBES["output"]
    ours = {
        "table": sampling.sigmas,
        "timesteps": sampling.timestep(sigmas),
        "back": sampling.sigma(sampling.timestep(sigmas)),
        "percents": torch.tensor([sampling.percent_to_sigma(p) for p in PERCENTS]),
        "input": sampling.calculate_input(sigmas, x),
        "denoised": sampling.calculate_denoised(sigmas, output, x),
        "noised": sampling.noise_scaling(sigmas[0], x, output, True),
    }
    torch.testing.assert_close(ours[name], theirs["schedule"][name], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_schedules_equal_comfyui(name: str, theirs: dict[str, Any]) -> None:
    ours = calculate_sigmas(ContinuousV(sigma_min=0.002, sigma_max=700.0), name, 7)
    torch.testing.assert_close(ours, theirs["schedule"][name], rtol=1e-5, atol=1e-6)


def test_what_the_picture_encoder_sees_equals_comfyui(theirs: dict[str, Any]) -> None:
    state = tiny_video.Held(tiny_video.to_open_clip(tiny_video.vision().state_dict()))
    out = clip_vision.build_clip_vision(clip_vision.vision_from_open_clip(state)).encode_image(picture())
    for name, real in theirs["vision"].items():
        assert error(getattr(out, name), real) < 1e-5


def test_the_decoded_video_equals_comfyui(theirs: dict[str, Any]) -> None:
    with torch.no_grad():
        assert error(tiny_video.vae().decode(draw(3, 3, 4, 4, 4)), theirs["decoded"]) < 1e-5


def test_the_conditioning_equals_comfyui(theirs: dict[str, Any]) -> None:
    state = tiny_video.Held(tiny_video.to_open_clip(tiny_video.vision().state_dict()))
    vision = clip_vision.build_clip_vision(clip_vision.vision_from_open_clip(state))
    vae = VAE(tiny_video.vae())
    ours = SVDImg2vidConditioning.execute(vision, picture(), vae, **CONDITIONING, augmentation_level=0.0).args
    for (mine,), (real,) in zip(ours[:2], theirs["conditioning"][:2], strict=True):
        torch.testing.assert_close(mine[0], real[0], rtol=1e-4, atol=1e-5)
        assert list(mine[1]) == list(real[1])
        torch.testing.assert_close(mine[1].pop("concat_latent_image"), real[1].pop("concat_latent_image"))
        assert mine[1] == real[1]
    assert torch.equal(ours[2]["samples"], theirs["conditioning"][2])


@pytest.mark.parametrize("name", CASES)
def test_latents_equal_comfyui(name: str, patcher: ModelPatcher, theirs: dict[str, Any]) -> None:
    case, chosen = CASES[name], patcher
    if "min_cfg" in case:
        (chosen,) = VideoLinearCFGGuidance.execute(patcher, case["min_cfg"]).args
    ours = sample(
        chosen,
        prepare_noise(case["latent"], case["seed"], None),
        case["positive"],
        case["negative"],
        case["cfg"],
        case["steps"],
        case["sampler"],
        case["scheduler"],
        seed=case["seed"],
        latent_image=case["latent"],
        denoise=case.get("denoise", 1.0),
    )
    assert error(ours, theirs["latents"][name]) < 1e-4
    assert theirs["latents"][name].abs().max() > 0.1


def test_the_cases_differ(theirs: dict[str, Any]) -> None:
    plain = theirs["latents"]["euler karras"]
    same = [name for name, found in theirs["latents"].items() if error(found, plain) < 1e-3]
    assert same == ["euler karras"]


def test_the_animation_equals_comfyui(theirs: dict[str, Any], folder: Path) -> None:
    frames = torch.rand(3, 6, 8, 3, generator=torch.Generator().manual_seed(1))
    texts = {"prompt": json.dumps(PROMPT), **{key: json.dumps(value) for key, value in EXTRA.items()}}
    with (folder / "ours.webp").open("wb") as file:
        write_webp(frames, 125, texts, {"lossless": True, "quality": 80, "method": 4}, file)
    with Image.open(folder / "ours.webp") as mine, Image.open(folder / theirs["webp"]) as real:
        assert dict(mine.getexif()) == dict(real.getexif()) and len(mine.getexif()) == 3
        pairs = list(zip(ImageSequence.all_frames(mine), ImageSequence.all_frames(real), strict=True))
        assert len(pairs) == 3
        for a, b in pairs:
            assert a.tobytes() == b.tobytes()
            assert a.info.get("duration") == b.info.get("duration")
