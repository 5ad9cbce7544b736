"""The VAE object: value ranges, batches, cropping and tiles."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched.images import vae as vae_module
from attention_patchbay.ldm_patched.images.vae import VAE
from attention_patchbay.ldm_patched.ldm.models.autoencoder import AutoencoderKL
from attention_patchbay.ldm_patched.modules import model_management
from attention_patchbay.ldm_patched.modules.ops import plain

from ..tiny import draw

CONFIG = {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "z_channels": 4, "in_channels": 3, "out_ch": 3}


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(AutoencoderKL(CONFIG, 4, operations=plain))


def test_decoding_gives_pictures_from_zero_to_one(vae: VAE) -> None:
    latent = 5 * draw(0, 2, 4, 4, 6)
    pixels = vae.decode(latent)
    assert pixels.shape == (2, 32, 48, 3)
    assert pixels.min() >= 0 and pixels.max() <= 1 and pixels.std() > 0.01
    raw = vae.first_stage_model.decode(latent).movedim(1, -1)
    torch.testing.assert_close(pixels, ((raw + 1) / 2).clamp(0, 1))


def test_encoding_maps_pictures_to_minus_one_to_one(vae: VAE) -> None:
    pixels = torch.rand(2, 32, 48, 3)
    latent = vae.encode(pixels)
    assert latent.shape == (2, 4, 4, 6)
    torch.testing.assert_close(latent, vae.first_stage_model.encode(pixels.movedim(-1, 1) * 2 - 1))


def test_sizes_are_cut_around_the_middle_and_alpha_is_left_out(vae: VAE) -> None:
    pixels = torch.rand(1, 37, 50, 4)
    assert torch.equal(vae.crop(pixels), pixels[:, 2:34, 1:49, :3])
    assert torch.equal(vae.encode(pixels), vae.encode(pixels[:, 2:34, 1:49, :3]))


def test_batches_follow_the_free_memory(vae: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    latent = draw(0, 5, 4, 4, 4)
    whole, sizes = vae.decode(latent), []
    decode = vae._decode_batch
    monkeypatch.setattr(vae, "_decode_batch", lambda part: sizes.append(len(part)) or decode(part))
    monkeypatch.setattr(vae.patcher, "get_free_memory", lambda device: 2 * 32 * 32 * 2200 * 4)
    torch.testing.assert_close(vae.decode(latent), whole)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_running_out_of_memory_goes_on_in_tiles(vae: VAE, monkeypatch: pytest.MonkeyPatch, direction: str) -> None:
    given = draw(0, 1, 4, 80, 48) if direction == "decode" else torch.rand(1, 640, 384, 3)
    largest = vae_module.TILE**2 if direction == "decode" else (8 * vae_module.TILE) ** 2
    whole = getattr(vae, direction)(given)
    run = getattr(vae.first_stage_model, direction)

    def limited(x: torch.Tensor) -> torch.Tensor:
        if x.shape[-2] * x.shape[-1] > largest:
            raise model_management.OOM_EXCEPTION("CUDA out of memory")
        return run(x)

    monkeypatch.setattr(vae.first_stage_model, direction, limited)
    in_tiles = getattr(vae, direction)(given)
    assert in_tiles.shape == whole.shape
    assert (in_tiles - whole).abs().mean() < 0.1 * whole.std()
