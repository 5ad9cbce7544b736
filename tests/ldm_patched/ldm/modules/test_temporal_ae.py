"""The video decoder against diffusers' on the same weights, and what its layers over time see."""

from __future__ import annotations

import re

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.models.autoencoder import AutoencoderKL, VideoAutoencoder
from attention_patchbay.ldm_patched.ldm.modules.temporal_ae import as_frames, as_video
from attention_patchbay.ldm_patched.modules.ops import plain

CONFIG = {"ch": 32, "ch_mult": (1, 2, 2), "num_res_blocks": 2, "z_channels": 4, "in_channels": 3, "out_ch": 3}
PUBLIC = {**CONFIG, "ch": 128, "ch_mult": (1, 2, 4, 4)}
RESNET = r"(norm1|norm2|conv1|conv2|nin_shortcut)\."
STACK = {"in_layers.0": "norm1", "in_layers.2": "conv1", "out_layers.0": "norm2", "out_layers.3": "conv2"}


def to_diffusers(key: str, levels: int) -> str:
    """Translate a public key of the decoder into diffusers' name of the same tensor."""
    key = re.sub(r"^up\.(\d+)\.", lambda found: f"up_blocks.{levels - 1 - int(found[1])}.", key)
    key = re.sub(r"^mid\.block_(\d)\.", lambda found: f"mid_block.resnets.{int(found[1]) - 1}.", key)
    key = re.sub(r"blocks\.(\d+)\.block\.", r"blocks.\1.resnets.", key)
    key = re.sub(r"resnets\.(\d+)\." + RESNET, r"resnets.\1.spatial_res_block.\2.", key)
    key = re.sub(r"time_stack\.(\w+\.\d)", lambda found: f"temporal_res_block.{STACK[found[1]]}", key)
    for public, other in (
        ("nin_shortcut", "conv_shortcut"),
        (".mix_factor", ".time_mixer.mix_factor"),
        ("conv_out.time_mix_conv", "time_conv_out"),
        ("norm_out", "conv_norm_out"),
        (".upsample.", ".upsamplers.0."),
        ("mid.attn_1.norm.", "mid_block.attentions.0.group_norm."),
        ("mid.attn_1.proj_out.", "mid_block.attentions.0.to_out.0."),
    ):
        key = key.replace(public, other)
    return re.sub(r"mid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1.", key)


def theirs(config: dict) -> torch.nn.Module:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=[config["ch"] * mult for mult in config["ch_mult"]],
        layers_per_block=config["num_res_blocks"],
        down_block_types=("DownEncoderBlock2D",) * len(config["ch_mult"]),
        latent_channels=config["z_channels"],
    ).eval()


def ours() -> VideoAutoencoder:
    torch.manual_seed(0)
    model = VideoAutoencoder(CONFIG, operations=plain)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
    return model.eval().requires_grad_(False)


def test_the_decoder_equals_diffusers() -> None:
    mine, other = ours(), theirs(CONFIG).decoder
    weights = {}
    for key, value in mine.decoder.state_dict().items():
        name = to_diffusers(key, 3)
        weights[name] = value[:, :, 0, 0] if re.search(r"attentions.0.to_\w+(\.0)?\.weight", name) else value
    other.load_state_dict(weights)
    z = torch.randn(5, 4, 6, 4)
    with torch.no_grad():
        wanted = other(z, torch.zeros(1, 5), num_frames=5)
        found = mine.decode(z)
    assert found.shape == (5, 3, 24, 16)
    assert (found - wanted).norm() / wanted.norm() < 1e-5


def test_keys_and_shapes_are_the_public_ones() -> None:
    with torch.device("meta"):
        other = {key: value.numel() for key, value in theirs(PUBLIC).decoder.state_dict().items()}
    mine = VideoAutoencoder(PUBLIC, device="meta").state_dict()
    decoder = {key.removeprefix("decoder."): value for key, value in mine.items() if key.startswith("decoder.")}
    assert {to_diffusers(key, 4): value.numel() for key, value in decoder.items()} == other
    encoder = {key for key in AutoencoderKL(PUBLIC, device="meta").state_dict() if key.startswith("encoder.")}
    assert set(mine) - encoder == {f"decoder.{key}" for key in decoder}
    assert mine["decoder.mid.block_1.mix_factor"].shape == (1,)


def test_frames_see_each_other_and_pictures_are_encoded_alone() -> None:
    model = ours()
    z, pictures = torch.randn(3, 4, 4, 4), torch.randn(2, 3, 16, 16)
    changed = torch.cat([z[:2], z[2:] + 1])
    assert not torch.allclose(model.decode(z)[1], model.decode(changed)[1], atol=1e-3)
    torch.testing.assert_close(model.encode(pictures)[1:], model.encode(pictures[1:]))


def test_a_video_and_its_frames() -> None:
    frames = torch.randn(5, 3, 2, 4)
    assert as_video(frames).shape == (1, 3, 5, 2, 4)
    assert torch.equal(as_video(frames)[0, :, 2], frames[2])
    assert torch.equal(as_frames(as_video(frames)), frames)
