"""The same video UNet in diffusers and here gives the same numbers.

`case()` without arguments is the public model at its full width: 1.5 billion parameters, shared by both.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.loading.model_detection import detect_unet
from attention_patchbay.ldm_patched.modules.ops import disable_weight_init
from torch import Tensor

from .test_against_diffusers import inner_key, noise, relative_error, unet_key

DATA = Path(__file__).parents[3] / "data" / "state_dict_keys.json.gz"
SMALL = {"block_out_channels": (64, 128), "num_attention_heads": (1, 2), "cross_attention_dim": 32}
SMALL |= {"down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal")}
SMALL |= {"up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal")}
# diffusers has an epsilon of 1e-6 where the original has 1e-5, in the norms of the blocks with attention
BOUND = 1e-4


def video_key(key: str, layers: int) -> str:
    """Translate diffusers' name of a tensor into the public one."""
    outside = re.fullmatch(r"(.+\.resnets\.\d+\.)(spatial_res_block|temporal_res_block|time_mixer)\.(.+)", key)
    if outside is None:
        key = key.replace("temporal_transformer_blocks", "time_stack").replace(
            "time_pos_embed.linear_1", "time_pos_embed.0"
        )
        return unet_key(key.replace("time_pos_embed.linear_2", "time_pos_embed.2"), layers)
    start, part, rest = outside.groups()
    if part == "spatial_res_block":
        return unet_key(start + rest, layers)
    if part == "temporal_res_block":
        rest = inner_key(rest)
    name = {"temporal_res_block": "time_stack", "time_mixer": "time_mixer"}[part]
    return unet_key(f"{start}{name}.{rest}", layers)


def video_state(state: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Translate all names; an upsampler comes after the residual block and the transformer, if there is one."""
    named = {video_key(key, layers): tensor for key, tensor in state.items()}

    def placed(found: re.Match[str]) -> str:
        return f"{found[1]}.{2 if f'{found[1]}.1.norm.weight' in named else 1}."

    return {re.sub(r"^(output_blocks\.\d+)\.upsample\.", placed, key): tensor for key, tensor in named.items()}


def case(layers: int = 2, **config: Any) -> tuple[diffusers.UNetSpatioTemporalConditionModel, UNetModel]:
    """Build a random model of diffusers, and ours on the same tensors with what detection finds."""
    torch.manual_seed(0)
    theirs = diffusers.UNetSpatioTemporalConditionModel(layers_per_block=layers, **config).eval().requires_grad_(False)
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    state = video_state(theirs.state_dict(), layers)
    found = detect_unet({key: tuple(tensor.shape) for key, tensor in state.items()})
    ours = UNetModel(**found, device="meta", operations=disable_weight_init)
    ours.load_state_dict(state, assign=True)
    return theirs, ours.eval()


def outputs(
    theirs: diffusers.UNetSpatioTemporalConditionModel, ours: UNetModel, frames: int = 3
) -> tuple[Tensor, Tensor]:
    """Run two videos through both models."""
    x, width = noise(2, frames, 8, 8, 8), theirs.config.cross_attention_dim
    context, ids = noise(2, 1, width, seed=1), torch.tensor([[5.0, 127.0, 0.02], [23.0, 40.0, 0.5]])
    wanted = theirs(x, torch.tensor(1.4), context, ids).sample
    vectors = theirs.add_time_proj(ids.flatten()).reshape(2, -1)
    each = {"dim": 0, "repeats": frames}
    found = ours(
        x.flatten(0, 1),
        torch.full((2 * frames,), 1.4),
        context.repeat_interleave(**each),
        y=vectors.repeat_interleave(**each),
        num_video_frames=frames,
        image_only_indicator=torch.zeros(2, frames),
    )
    return found, wanted.flatten(0, 1)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_video_unet_equals_diffusers(layers: int) -> None:
    with torch.no_grad():
        assert relative_error(*outputs(*case(layers, **SMALL))) < BOUND


def test_the_public_keys_are_diffusers_at_full_width() -> None:
    with torch.device("meta"):
        theirs = diffusers.UNetSpatioTemporalConditionModel()
    with gzip.open(DATA, "rt") as file:
        public = json.load(file)["UNetModel_svd"]["keys"]
    assert {key: list(value.shape) for key, value in video_state(theirs.state_dict(), 2).items()} == public
