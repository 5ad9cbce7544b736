"""The same weights in diffusers and here give the same numbers."""

from __future__ import annotations

import re
from typing import Any

import diffusers
import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import BasicTransformerBlock, SpatialTransformer
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

State = dict[str, Tensor]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shuffled(module: nn.Module) -> nn.Module:
    """Give the norms of a diffusers module weights of their own, so that no two parameters are alike."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=0.5, std=0.3)
    return module.eval()


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def unet_keys(state: State, layers: int) -> State:
    """Rename a UNet2DConditionModel's keys; `layers` is the residual blocks of a level."""
    return {unet_key(key, layers): tensor for key, tensor in state.items()}


def unet_key(key: str, layers: int) -> str:
    name, _, kind = key.rpartition(".")
    if name in OUTER:
        return f"{OUTER[name]}.{kind}"
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", key)
    if found is None:
        middle = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", key)
        assert middle is not None, key
        slot = 2 * int(middle[2]) + (middle[1] == "attentions")
        return f"middle_block.{slot}.{inner_key(middle[3])}"
    side, level, family, index, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if family == "downsamplers":
        return f"input_blocks.{(level + 1) * (layers + 1)}.0.{rest.replace('conv', 'op')}"
    if family == "upsamplers":
        index, slot = layers, "upsample"
    else:
        slot = "1" if family == "attentions" else "0"
    number = 1 + level * (layers + 1) + index if side == "down" else level * (layers + 1) + index
    return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{slot}.{inner_key(rest)}"


def inner_key(rest: str) -> str:
    head, _, tail = rest.partition(".")
    return f"{RESNET[head]}.{tail}" if head in RESNET else rest


@pytest.mark.parametrize("context_dim", [24, None])
def test_basic_transformer_block(context_dim: int | None) -> None:
    theirs = shuffled(
        diffusers.models.attention.BasicTransformerBlock(32, 4, 8, cross_attention_dim=24, activation_fn="geglu")
    )
    if context_dim is None:
        theirs = shuffled(
            diffusers.models.attention.BasicTransformerBlock(
                32, 4, 8, double_self_attention=True, activation_fn="geglu"
            )
        )
    ours = BasicTransformerBlock(32, 4, 8, context_dim=context_dim)
    ours.load_state_dict(theirs.state_dict())
    x, context = noise(2, 9, 32), None if context_dim is None else noise(2, 7, 24, seed=1)
    with torch.no_grad():
        assert relative_error(ours(x, context), theirs(x, encoder_hidden_states=context)) < 1e-5


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("heads", [(4, 16), (2, 24)])
def test_transformer_2d(linear: bool, heads: tuple[int, int]) -> None:
    args = {"in_channels": 64, "num_layers": 2, "cross_attention_dim": 24, "use_linear_projection": linear}
    theirs = shuffled(diffusers.Transformer2DModel(*heads, **args))
    ours = SpatialTransformer(64, *heads, depth=2, context_dim=24, use_linear=linear)
    ours.load_state_dict(theirs.state_dict())
    x, context = noise(2, 64, 5, 6), noise(2, 7, 24, seed=1)
    with torch.no_grad():
        assert relative_error(ours(x, context), theirs(x, encoder_hidden_states=context, return_dict=False)[0]) < 1e-5


def diffusers_unet(**kwargs: Any) -> diffusers.UNet2DConditionModel:
    return shuffled(
        diffusers.UNet2DConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=2,
            cross_attention_dim=24,
            **{
                "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
                **kwargs,
            },
        )
    )


OURS = {"image_size": 8, "in_channels": 4, "model_channels": 32, "out_channels": 4, "num_res_blocks": 2}
OURS |= {"channel_mult": (1, 2), "context_dim": 24, "use_spatial_transformer": True}


def load(unet: UNetModel, theirs: diffusers.UNet2DConditionModel) -> UNetModel:
    renamed = unet_keys(theirs.state_dict(), layers=2)
    # an upsampling layer comes after the transformer of its block, or after the residual block without one
    own = unet.state_dict()
    for key in [key for key in renamed if ".upsample." in key]:
        slot = next(s for s in "12" if key.replace("upsample", s) in own)
        renamed[key.replace("upsample", slot)] = renamed.pop(key)
    unet.load_state_dict(renamed)
    return unet.eval()


def test_sd15_like_unet() -> None:
    theirs = diffusers_unet(attention_head_dim=4)
    ours = load(UNetModel(**OURS, num_heads=4), theirs)
    x, context, t = noise(2, 4, 8, 12), noise(2, 7, 24, seed=1), torch.tensor([3.0, 781.0])
    with torch.no_grad():
        assert relative_error(ours(x, t, context), theirs(x, t, context).sample) < 1e-5


def test_sdxl_like_unet() -> None:
    theirs = diffusers_unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=20 + 6 * 8,
    )
    depth = {"transformer_depth": [0, 0, 2, 2], "transformer_depth_output": [0, 0, 0, 2, 2, 2]}
    ours = UNetModel(
        **OURS,
        **depth,
        num_head_channels=16,
        use_linear_in_transformer=True,
        num_classes="sequential",
        adm_in_channels=68,
        transformer_depth_middle=2,
    )
    load(ours, theirs)
    x, context, t = noise(2, 4, 8, 12), noise(2, 7, 24, seed=1), torch.tensor([3.0, 781.0])
    text, sizes = noise(2, 20, seed=2), torch.tensor([[1024.0, 768.0, 0.0, 16.0, 512.0, 640.0]] * 2)
    half = 4
    angles = sizes[..., None] * torch.tensor([10000 ** (-i / half) for i in range(half)])
    y = torch.cat([text, torch.cat([angles.cos(), angles.sin()], -1).flatten(1)], 1)
    with torch.no_grad():
        expected = theirs(x, t, context, added_cond_kwargs={"text_embeds": text, "time_ids": sizes}).sample
        assert relative_error(ours(x, t, context, y=y), expected) < 1e-5
