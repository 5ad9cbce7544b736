"""Stable Video Diffusion through the embedded host, from a workflow in API format to a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.headless.engine.api_graph import Executor
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.headless.engine.workflow import check
from attention_patchbay.headless.nodes import video as video_nodes
from PIL import Image, ImageSequence

from ...ldm_patched import tiny_video


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    folders = Folders(tmp_path / "models", tmp_path / "input", tmp_path / "output", tmp_path / "temp")
    folders.input.mkdir()
    with entered(Session(folders)):
        yield Session(folders)


def workflow() -> Any:
    video = {"width": 64, "height": 48, "video_frames": 3, "motion_bucket_id": 127, "fps": 6, "augmentation_level": 0.0}
    sampler = {"seed": 1, "steps": 2, "cfg": 2.5, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
    links = {"model": ["4", 0], "positive": ["3", 0], "negative": ["3", 1], "latent_image": ["3", 2]}
    start = {"clip_vision": ["1", 1], "init_image": ["2", 0], "vae": ["1", 2]}
    file = {"filename_prefix": "clip/svd", "fps": 10.0, "lossless": True, "quality": 80, "method": "fastest"}
    return check(
        {
            "1": {"class_type": "ImageOnlyCheckpointLoader", "inputs": {"ckpt_name": "svd.safetensors"}},
            "2": {"class_type": "LoadImage", "inputs": {"image": "start.png"}},
            "3": {"class_type": "SVD_img2vid_Conditioning", "inputs": start | video},
            "4": {"class_type": "VideoLinearCFGGuidance", "inputs": {"model": ["1", 0], "min_cfg": 1.0}},
            "5": {"class_type": "KSampler", "inputs": links | sampler},
            "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
            "7": {"class_type": "SaveAnimatedWEBP", "inputs": {"images": ["6", 0], **file}},
        }
    )


def test_a_workflow_makes_a_video(session: Session) -> None:
    (session.folders.models / "checkpoints").mkdir(parents=True)
    tiny_video.write(session.folders.models / "checkpoints" / "svd.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(session.folders.input / "start.png")
    run = Executor(catalog(), session).run(workflow(), extra_pnginfo={"workflow": {"nodes": []}})
    assert run.ui["7"] == {
        "images": [{"filename": "svd_00001_.webp", "subfolder": "clip", "type": "output"}],
        "animated": [True],
    }
    with Image.open(session.folders.output / "clip/svd_00001_.webp") as file:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(file)]
        exif = dict(file.getexif())
        assert file.info["duration"] == 100
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3
    assert not np.array_equal(frames[0], frames[2]) and frames[0].std() > 1
    assert json.loads(exif[video_nodes.EXIF_MODEL].removeprefix("prompt:")) == workflow()
    assert exif[video_nodes.EXIF_MAKE] == 'workflow:{"nodes": []}'


class Seen:
    """A picture encoder and a VAE that note what they are given."""

    def __init__(self) -> None:
        self.pixels = torch.zeros(0)

    def encode_image(self, image: torch.Tensor) -> Any:
        return type("Output", (), {"image_embeds": image.mean((1, 2))})

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        self.pixels = pixels
        return pixels.movedim(-1, 1)[:, :, ::8, ::8]


def conditioned(augmentation: float) -> tuple[Seen, torch.Tensor, tuple[Any, ...]]:
    seen, image = Seen(), torch.rand(1, 32, 96, 3)
    args = video_nodes.SVDImg2vidConditioning.execute(seen, image, seen, 64, 64, 7, 90, 12, augmentation).args
    return seen, image, args


def test_the_picture_is_cut_to_the_video_and_noise_comes_on_top() -> None:
    seen, image, (positive, negative, latent) = conditioned(0.0)
    assert latent["samples"].shape == (7, 4, 8, 8)
    torch.testing.assert_close(seen.pixels.mean(), image[:, :, 32:64].mean(), atol=0.02, rtol=0)
    assert positive[0][0].shape == (1, 1, 3) and not negative[0][0].any()
    assert positive[0][1]["fps"] == 12 and positive[0][1]["motion_bucket_id"] == 90
    assert positive[0][1]["concat_latent_image"].any() and not negative[0][1]["concat_latent_image"].any()
    noisy, image, (positive, *_) = conditioned(0.5)
    smooth = torch.nn.functional.interpolate(image[:, :, 32:64].movedim(-1, 1), (64, 64), mode="bilinear")
    assert (noisy.pixels - smooth.movedim(1, -1)).std() == pytest.approx(0.5, abs=0.02)
    assert positive[0][1]["augmentation_level"] == 0.5


def test_guidance_rises_over_the_frames() -> None:
    class Model:
        def clone(self) -> Model:
            return Model()

        def set_model_sampler_cfg_function(self, function: Any) -> None:
            self.function = function

    (model,) = video_nodes.VideoLinearCFGGuidance.execute(Model(), 1.0).args
    ones = torch.ones(3, 4, 2, 2)
    out = model.function({"cond": 3 * ones, "uncond": ones, "cond_scale": 5.0})
    assert out[:, 0, 0, 0].tolist() == [3.0, 7.0, 11.0]


def test_an_interrupted_save_leaves_no_file(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        video_nodes.SaveAnimatedWEBP.execute(torch.rand(2, 4, 4, 3), "x", 6.0, True, 80, "default")
    assert list(session.folders.output.iterdir()) == []


def test_one_picture_is_no_animation_and_numbers_go_on(session: Session) -> None:
    for number in (1, 2):
        out = video_nodes.SaveAnimatedWEBP.execute(torch.rand(1, 4, 4, 3), "x", 6.0, False, 50, "slowest")
        assert out.ui == {"images": [{"filename": f"x_0000{number}_.webp", "subfolder": "", "type": "output"}]}
