"""The autoencoder has the public layout and agrees with diffusers' AutoencoderKL on the same weights."""

from __future__ import annotations

import re

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.models.autoencoder import AutoencoderKL
from attention_patchbay.ldm_patched.modules.ops import plain

SD15 = {"ch": 128, "ch_mult": (1, 2, 4, 4), "num_res_blocks": 2, "z_channels": 4, "in_channels": 3, "out_ch": 3}
SMALL = {**SD15, "ch": 32, "ch_mult": (1, 2, 2), "num_res_blocks": 1}


def diffusers_vae(config: dict) -> torch.nn.Module:
    diffusers = pytest.importorskip("diffusers")
    levels = len(config["ch_mult"])
    return diffusers.AutoencoderKL(
        block_out_channels=[config["ch"] * mult for mult in config["ch_mult"]],
        layers_per_block=config["num_res_blocks"],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=config["z_channels"],
    ).eval()


def to_diffusers(key: str, levels: int) -> str:
    """Translate one public key into diffusers' name of the same tensor."""

    def up(found: re.Match[str]) -> str:
        return f"up_blocks.{levels - 1 - int(found[1])}."

    key = re.sub(r"decoder\.up\.(\d+)\.", lambda found: "decoder." + up(found), key)
    for public, other in (
        (r"encoder\.down\.(\d+)\.", r"encoder.down_blocks.\1."),
        (r"blocks\.(\d+)\.block\.", r"blocks.\1.resnets."),
        (r"\.(down|up)sample\.", r".\1samplers.0."),
        (r"mid\.block_1\.", "mid_block.resnets.0."),
        (r"mid\.block_2\.", "mid_block.resnets.1."),
        (r"mid\.attn_1\.norm\.", "mid_block.attentions.0.group_norm."),
        (r"mid\.attn_1\.proj_out\.", "mid_block.attentions.0.to_out.0."),
        (r"mid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
        (r"nin_shortcut", "conv_shortcut"),
        (r"norm_out", "conv_norm_out"),
    ):
        key = re.sub(public, other, key)
    return key


@pytest.mark.parametrize("config", [SD15, SMALL], ids=["sd15", "small"])
def test_keys_and_shapes_are_the_public_ones(config):
    levels = len(config["ch_mult"])
    with torch.device("meta"):
        theirs = {k: v.numel() for k, v in diffusers_vae(config).state_dict().items()}
    ours = AutoencoderKL(config, device="meta").state_dict()
    assert {to_diffusers(k, levels): v.numel() for k, v in ours.items()} == theirs
    assert ours["encoder.mid.attn_1.q.weight"].ndim == 4


def test_agrees_with_diffusers():
    torch.manual_seed(0)
    theirs, ours = diffusers_vae(SMALL), AutoencoderKL(SMALL, operations=plain)
    levels = len(SMALL["ch_mult"])
    state = theirs.state_dict()
    ours.load_state_dict({k: state[to_diffusers(k, levels)].reshape(v.shape) for k, v in ours.state_dict().items()})
    x = torch.randn(2, 3, 24, 32)
    with torch.no_grad():
        z = ours.encode(x)
        expected = theirs.encode(x).latent_dist.mean
        picture, expected_picture = ours.decode(z), theirs.decode(z).sample
    assert z.shape == (2, 4, 6, 8)
    assert ((z - expected).norm() / expected.norm()).item() < 1e-5
    assert ((picture - expected_picture).norm() / expected_picture.norm()).item() < 1e-5


def test_a_sample_varies_around_the_mean():
    torch.manual_seed(0)
    vae = AutoencoderKL(SMALL, operations=plain)
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        mean, logvar = vae.moments(x)
        samples = torch.cat([vae.encode(x, sample=True) for _ in range(200)])
    assert torch.equal(vae.encode(x), mean)
    assert torch.allclose(samples.std(0), (0.5 * logvar).exp()[0], rtol=0.25)
