"""VAE nodes on the demo model's VAE. The numbers are compared with ComfyUI's in tests/contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.headless.nodes import vae as nodes
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.files.checkpoint import Checkpoint, CheckpointError
from attention_patchbay.ldm_patched.images.vae import VAE
from safetensors.torch import save_file

PREFIX = "first_stage_model."


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    file = Checkpoint(CHECKPOINT)
    return {key.removeprefix(PREFIX): file[key].clone() for key in file if key.startswith(PREFIX)}


@pytest.fixture
def vaes(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "models" / "vae"
    folder.mkdir(parents=True)
    with entered(Session(Folders(tmp_path / "models"))):
        yield folder


@pytest.fixture
def vae(vaes: Path, weights: dict[str, torch.Tensor]) -> Any:
    save_file(weights, vaes / "demo.safetensors")
    return nodes.VAELoader.execute("demo.safetensors").args[0]


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("prefix", [PREFIX, "vae.", ""])
def test_a_vae_alone_is_loaded(vaes: Path, weights: dict[str, torch.Tensor], vae: VAE, prefix: str) -> None:
    save_file({prefix + key: value for key, value in weights.items()}, vaes / "other.safetensors")
    (other,) = nodes.VAELoader.execute("other.safetensors").args
    latent = torch.randn(1, 4, 8, 8)
    assert torch.equal(other.decode(latent), vae.decode(latent))
    entry = nodes.VAELoader.GET_NODE_INFO_V1()["input"]["required"]["vae_name"][1]
    assert entry["options"] == ["demo.safetensors", "other.safetensors"]


def test_a_vae_file_without_a_tensor_is_named(vaes: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file({key: value for key, value in weights.items() if "quant" not in key}, vaes / "half.safetensors")
    with pytest.raises(CheckpointError, match=r"half\.safetensors: .*quant_conv"):
        nodes.VAELoader.execute("half.safetensors")


def test_tiles_give_nearly_the_whole_picture(vae: VAE) -> None:
    picture = pixels(1, 24, 16, 3).repeat_interleave(8, 1).repeat_interleave(8, 2)
    (encoded,) = nodes.VAEEncodeTiled.execute(picture, vae, 128, 32, 64, 8).args
    whole = vae.encode(picture)
    assert encoded["samples"].shape == whole.shape == (1, 4, 24, 16)
    assert 0 < (encoded["samples"] - whole).abs().mean() < 0.2 * whole.std()
    (decoded,) = nodes.VAEDecodeTiled.execute({"samples": whole}, vae, 128, 32, 64, 8).args
    assert decoded.shape == picture.shape
    assert 0 < (decoded - vae.decode(whole)).abs().mean() < 0.05


def test_an_overlap_of_more_than_a_quarter_is_cut_when_decoding(vae: VAE) -> None:
    latent = {"samples": torch.randn(1, 4, 20, 12, generator=torch.Generator().manual_seed(0))}
    large, quarter = (nodes.VAEDecodeTiled.execute(latent, vae, 64, overlap, 64, 8).args[0] for overlap in (4096, 16))
    assert torch.equal(large, quarter)
    with pytest.raises(ValueError, match="too small for an overlap of 64"):
        nodes.VAEEncodeTiled.execute(pixels(1, 128, 128, 3), vae, 64, 64, 64, 8)


def test_inpainting_greys_the_masked_part_and_grows_its_mask(vae: VAE) -> None:
    picture, mask = pixels(1, 64, 64, 3), torch.zeros(1, 64, 64)
    mask[:, 20:30, 40:50] = 1.0
    before = picture.clone()
    (out,) = nodes.VAEEncodeForInpaint.execute(picture, vae, mask, 5).args
    grey = picture.clone()
    grey[:, 20:30, 40:50] = 0.5
    torch.testing.assert_close(out["samples"], vae.encode(grey))
    assert torch.equal(picture, before)
    grown = torch.zeros(1, 1, 64, 64)
    grown[..., 18:32, 38:52] = 1.0
    assert torch.equal(out["noise_mask"], grown)


@pytest.mark.parametrize("grow", [0, 1])
def test_a_mask_that_does_not_grow_stays(vae: VAE, grow: int) -> None:
    mask = (pixels(2, 64, 64) > 0.5).float()
    (out,) = nodes.VAEEncodeForInpaint.execute(pixels(2, 64, 64, 3), vae, mask, grow).args
    assert torch.equal(out["noise_mask"], mask[:, None])


def test_masks_are_scaled_and_cut_with_the_picture(vae: VAE) -> None:
    mask = torch.zeros(1, 10, 13)
    mask[:, 5:] = 1.0
    (out,) = nodes.VAEEncodeForInpaint.execute(pixels(1, 67, 101, 3), vae, mask, 0).args
    assert out["samples"].shape == (1, 4, 8, 12)
    assert out["noise_mask"].shape == (1, 1, 64, 96)
    assert out["noise_mask"][..., :32, :].max() == 0 and out["noise_mask"][..., 34:, :].min() == 1
