"""Compare what our nodes make of latents, masks and pictures with ComfyUI's, on the same inputs."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.nodes import latent as latent_nodes
from attention_patchbay.headless.nodes import vae as vae_nodes
from attention_patchbay.ldm_patched.images.vae import VAE
from attention_patchbay.ldm_patched.ldm.models.autoencoder import AutoencoderKL
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.sampling.upscale import UPSCALE_METHODS
from torch import Tensor

from ..unets import draw
from . import latent_child

pytestmark = pytest.mark.comfyui

BOUND = 1e-6
VAE_BOUND = 1e-5  # the networks differ in the order of their sums
CONFIG = {"ch": 32, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "z_channels": 4, "in_channels": 3, "out_ch": 3}
NODES = {cls.GET_SCHEMA().node_id: cls for room in (latent_nodes, vae_nodes) for cls in room.NODES}


def pixels(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def latent(seed: int, *shape: int) -> dict[str, Any]:
    return {"samples": draw(seed, *shape), "batch_index": [3, 5]}


def flat() -> dict[str, Any]:
    """Latents with equal neighbours, zeros and opposites, where directions have no arc between them."""
    samples = draw(2, 1, 4, 9, 12).round()
    samples[..., 3:6] = samples[..., :3]
    samples[..., 6:9] = -samples[..., 9:]
    samples[:, :, 4] = 0
    return {"samples": samples}


def half_mask(*size: int) -> Tensor:
    mask = torch.zeros(1, *size)
    mask[:, size[0] // 3 : size[0] // 2, size[1] // 2 :] = 1
    return mask


SIZES = [(512, 512), (200, 96), (64, 320), (0, 512), (768, 0), (0, 0), (8, 1000)]
UPSCALES = {
    f"{method} {width}x{height} {crop}": (
        "LatentUpscale",
        {"samples": latent(1, 2, 4, 40, 26), "upscale_method": method, "width": width, "height": height, "crop": crop},
    )
    for method, (width, height), crop in product(UPSCALE_METHODS, SIZES, ("disabled", "center"))
}
FACTORS = {
    f"{method} by {factor} {kind}": (
        "LatentUpscaleBy",
        {"samples": samples, "upscale_method": method, "scale_by": factor},
    )
    for method, factor in product(UPSCALE_METHODS, (0.4, 1.0, 1.5, 3.17))
    for kind, samples in (("noise", latent(1, 2, 4, 9, 14)), ("flat", flat()), ("wide", latent(4, 1, 16, 7, 5)))
}
TILES = {"temporal_size": 64, "temporal_overlap": 8}
VAES = {
    **{
        f"inpaint grown by {grow}": (
            "VAEEncodeForInpaint",
            {"pixels": pixels(3, 1, 64, 96, 3), "mask": half_mask(64, 96), "grow_mask_by": grow},
        )
        for grow in (0, 1, 2, 6, 7, 64)
    },
    "inpaint with sizes to be cut": (
        "VAEEncodeForInpaint",
        {"pixels": pixels(3, 2, 69, 101, 3), "mask": half_mask(40, 50), "grow_mask_by": 6},
    ),
    "inpaint with soft masks": (
        "VAEEncodeForInpaint",
        {"pixels": pixels(3, 2, 64, 64, 3), "mask": pixels(5, 2, 12, 12), "grow_mask_by": 5},
    ),
    "noise mask": ("SetLatentNoiseMask", {"samples": latent(1, 2, 4, 8, 8), "mask": pixels(5, 12, 12)}),
    "noise masks": ("SetLatentNoiseMask", {"samples": latent(1, 2, 4, 8, 8), "mask": pixels(5, 3, 12, 12)}),
    **{
        f"decode in tiles of {tile} over {overlap}": (
            "VAEDecodeTiled",
            {"samples": {"samples": draw(7, 2, 4, 21, 34)}, "tile_size": tile, "overlap": overlap, **TILES},
        )
        for tile, overlap in ((128, 32), (64, 0), (512, 64), (96, 64))
    },
    **{
        f"encode in tiles of {tile} over {overlap}": (
            "VAEEncodeTiled",
            {"pixels": pixels(8, 2, 203, 130, 3), "tile_size": tile, "overlap": overlap, **TILES},
        )
        for tile, overlap in ((128, 32), (64, 0), (512, 64))
    },
}
CASES = UPSCALES | FACTORS | VAES


def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(CONFIG, 4, operations=plain)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("latent")
    config = CONFIG | {"double_z": True, "resolution": 256, "attn_resolutions": [], "dropout": 0.0}
    torch.save({"config": config, "vae": autoencoder().state_dict(), "cases": CASES}, folder / "job.pt")
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), latent_child.__file__]
    command += [str(folder / "job.pt"), str(folder / "result.pt")]
    # not the checkout as working directory: nothing of ours may be importable there
    env = {**os.environ, "PYTHONPATH": str(Path(os.environ["COMFYUI_PATH"]).resolve())}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "result.pt", weights_only=True)


@pytest.fixture(scope="module")
def vae() -> VAE:
    return VAE(autoencoder())


@pytest.mark.parametrize("name", CASES)
def test_a_node_gives_what_comfyuis_gives(name: str, vae: VAE, theirs: dict[str, Any]) -> None:
    id, inputs = CASES[name]
    schema = NODES[id].GET_SCHEMA()
    inputs = inputs | ({"vae": vae} if any(entry.id == "vae" for entry in schema.inputs) else {})
    (ours,) = NODES[id].execute(**inputs).args
    expected = theirs[name]
    if isinstance(expected, Tensor):
        ours, expected = {"samples": ours}, {"samples": expected}
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        if not isinstance(value, Tensor):
            assert ours[key] == value
            continue
        bound = VAE_BOUND if id.startswith("VAE") and key == "samples" else BOUND
        assert ours[key].shape == value.shape
        assert (ours[key] - value).abs().max() < bound
