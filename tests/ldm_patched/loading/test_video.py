"""Loading a Stable Video Diffusion checkpoint, and how its model is called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.files.checkpoint import CheckpointError
from attention_patchbay.ldm_patched.ldm.models.autoencoder import VideoAutoencoder
from attention_patchbay.ldm_patched.loading import sd
from attention_patchbay.ldm_patched.loading.video import VISION_PREFIX, load_image_only_checkpoint
from attention_patchbay.ldm_patched.sampling.conds import spread_over_batch
from attention_patchbay.ldm_patched.sampling.model_base import SVD
from safetensors.torch import save_file

from .. import tiny_video
from ..tiny import draw


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_video.write(tmp_path_factory.mktemp("video") / "svd.safetensors")


def test_every_part_has_the_weights_of_the_file(file: Path) -> None:
    model, vision, vae = load_image_only_checkpoint(file, torch.float32)
    assert isinstance(model.model, SVD) and isinstance(vae.first_stage_model, VideoAutoencoder)
    for part, wanted in (
        (model.model.diffusion_model, tiny_video.unet()),
        (vae.first_stage_model, tiny_video.vae()),
        (vision.model, tiny_video.vision()),
    ):
        found = part.state_dict()
        assert found.keys() == wanted.state_dict().keys()
        for key, value in wanted.state_dict().items():
            torch.testing.assert_close(found[key].float(), value, rtol=1e-3, atol=1e-3)
    assert float(model.model.model_sampling.sigma_max) == pytest.approx(700.0)
    assert model.model.model_config.unet["num_head_channels"] == 64
    frames = vae.decode(draw(0, 3, 4, 4, 4))
    assert frames.shape == (3, 32, 32, 3) and vae.encode(frames).shape == (3, 4, 4, 4)


def test_the_unet_and_the_vae_load_alone(file: Path) -> None:
    assert isinstance(sd.load_unet(file).model, SVD)
    assert isinstance(sd.load_vae(file).first_stage_model, VideoAutoencoder)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no CLIP vision model found: expected conditioner.*conv1.weight"):
        load_image_only_checkpoint(CHECKPOINT)
    state = tiny_video.state()
    for key in (
        "model.diffusion_model.middle_block.0.time_mixer.mix_factor",
        "first_stage_model.decoder.conv_out.time_mix_conv.bias",
    ):
        save_file({name: value for name, value in state.items() if name != key}, tmp_path / "a.safetensors")
        with pytest.raises(CheckpointError, match=rf"a.safetensors: {key} is missing"):
            load_image_only_checkpoint(tmp_path / "a.safetensors")
    save_file(
        {name: value for name, value in state.items() if name != f"{VISION_PREFIX}proj"}, tmp_path / "b.safetensors"
    )
    assert load_image_only_checkpoint(tmp_path / "b.safetensors")[1].model(draw(0, 1, 3, 224, 224))[2].shape == (1, 128)


def test_the_model_is_told_about_the_video(file: Path) -> None:
    model = sd.load_unet(file).model
    noise, image = draw(0, 4, 4, 6, 8), draw(1, 1, 4, 6, 8)
    conds = model.extra_conds(
        noise=noise, device="cpu", cross_attn=draw(2, 1, 1, 32), concat_latent_image=image, fps=11
    )
    assert set(conds) == {"c_concat", "y", "c_crossattn", "num_video_frames"}
    assert conds["num_video_frames"].process_cond(batch_size=4).cond == 4
    # the picture's latent is used as the VAE gives it, in every frame
    assert torch.equal(conds["c_concat"].cond, image.expand(4, -1, -1, -1))
    firsts = conds["y"].cond.reshape(3, 256)[:, 0]
    torch.testing.assert_close(firsts, torch.cos(torch.tensor([10.0, 127.0, 0.0])))
    assert not model.extra_conds(noise=noise, device="cpu")["c_concat"].cond.any()
    timed = model.extra_conds(noise=noise, device="cpu", time_conditioning=draw(3, 1, 2, 32))
    assert timed["time_context"].cond.shape == (1, 2, 32)


@pytest.mark.parametrize(
    ("have", "want", "picks"),
    [(1, 3, [0, 0, 0]), (2, 5, [0, 0, 1, 1, 1]), (5, 3, [0, 2, 4]), (3, 1, [0]), (4, 4, [0, 1, 2, 3])],
)
def test_pictures_are_spread_over_the_frames(have: int, want: int, picks: list[int]) -> None:
    assert spread_over_batch(torch.arange(have)[:, None], want)[:, 0].tolist() == picks
