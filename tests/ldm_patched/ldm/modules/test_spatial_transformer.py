"""Transformers over feature maps and video frames against float64 formulas."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer
from torch import Tensor

from . import formulas
from .formulas import made, noise

X = noise(4, 32, 3, 5)
CONTEXT = noise(4, 7, 10, seed=1)


def tokens_of(layer: Any, x: Tensor) -> Tensor:
    groups = x.reshape(x.shape[0], 32, -1)
    normed = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    normed = normed.reshape(x.shape) * layer.norm.weight[:, None, None] + layer.norm.bias[:, None, None]
    weight = layer.proj_in.weight.reshape(-1, x.shape[1])
    return torch.einsum("bchw,oc->bhwo", normed, weight).flatten(1, 2) + layer.proj_in.bias


def image_of(layer: Any, tokens: Tensor, x: Tensor) -> Tensor:
    weight = layer.proj_out.weight.reshape(x.shape[1], -1)
    out = torch.einsum("bsc,oc->bos", tokens, weight) + layer.proj_out.bias[:, None]
    return out.reshape(x.shape) + x


@pytest.mark.parametrize("use_linear", [False, True])
@pytest.mark.parametrize("inner", [(2, 16), (3, 8)])
@pytest.mark.parametrize("context", [CONTEXT, None])
def test_spatial_transformer(use_linear: bool, inner: tuple[int, int], context: Tensor | None) -> None:
    dim = None if context is None else 10
    layer = made(SpatialTransformer, 32, *inner, depth=2, context_dim=dim, use_linear=use_linear)
    tokens = tokens_of(layer, X)
    for block in layer.transformer_blocks:
        tokens = formulas.transformer_block(block, tokens, context)
    out = layer(X, context)
    torch.testing.assert_close(out, image_of(layer, tokens, X))
    assert out.is_contiguous()


def test_each_block_may_have_a_context_of_its_own() -> None:
    other = noise(4, 3, 6, seed=2)
    layer = made(SpatialTransformer, 32, 2, 8, depth=2, context_dim=[10, 6])
    tokens = tokens_of(layer, X)
    for block, context in zip(layer.transformer_blocks, (CONTEXT, other), strict=True):
        tokens = formulas.transformer_block(block, tokens, context)
    torch.testing.assert_close(layer(X, [CONTEXT, other]), image_of(layer, tokens, X))


@pytest.mark.parametrize("use_linear", [False, True])
def test_channels_last_stays_channels_last(use_linear: bool) -> None:
    layer = made(SpatialTransformer, 32, 2, 8, context_dim=10, use_linear=use_linear)
    x = X.contiguous(memory_format=torch.channels_last)
    out = layer(x, CONTEXT)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, layer(X, CONTEXT))


def log_options(calls: list[Any]) -> Any:
    def patch(n: Tensor, extra_options: dict) -> Tensor:
        calls.append(extra_options)
        return n

    return patch


@pytest.mark.parametrize("checkpoint", [False, True])
def test_blocks_know_their_index_and_the_callers_dict_stays_clean(checkpoint: bool) -> None:
    layer = made(SpatialTransformer, 32, 2, 8, depth=2, context_dim=10, use_checkpoint=checkpoint)
    calls: list[Any] = []
    options: dict[str, Any] = {"block": ("input", 3), "patches": {"attn1_output_patch": [log_options(calls)]}}
    before = copy.deepcopy(options)
    out = layer(X, CONTEXT, options)
    assert [seen["block_index"] for seen in calls] == [0, 1]
    assert all(seen["activations_shape"] == [4, 32, 3, 5] and seen["block"] == ("input", 3) for seen in calls)
    assert options == before
    assert torch.equal(out, layer(X, CONTEXT))
    out.sum().backward()
    # a recomputed block sees the index it ran with
    assert [seen["block_index"] for seen in calls[2:]] == ([1, 0] if checkpoint else [])


def test_calls_without_options_share_nothing() -> None:
    layer = made(SpatialTransformer, 32, 2, 8, context_dim=10)
    layer(X, CONTEXT)
    calls: list[Any] = []
    layer.transformer_blocks[0](noise(4, 15, 16), CONTEXT, {"patches": {"middle_patch": [log_options(calls)]}})
    assert set(calls[0]) == {"n_heads", "dim_head", "attn_precision"}


VIDEO: dict[str, dict[str, Any]] = {
    "svd": {"use_linear": True, "use_spatial_context": True, "merge_strategy": "learned_with_images", "ff_in": True},
    "fixed": {"time_context_dim": 6, "merge_factor": 0.2},
    "no cross-attention in time": {"disable_temporal_crossattention": True, "merge_strategy": "learned"},
    "projected": {"use_spatial_context": True, "use_linear": True, "n_heads": 3},
}


def video_formula(layer: Any, x: Tensor, context: Tensor, time_context: Tensor | None, t: int, alpha: Tensor) -> Tensor:
    """Compute a SpatialVideoTransformer one pixel and one video at a time."""
    videos, pixels = x.shape[0] // t, x.shape[2] * x.shape[3]
    half = x.shape[1] // 2
    angles = torch.arange(t, dtype=torch.float64)[:, None] * torch.tensor([10000 ** (-i / half) for i in range(half)])
    embedding = torch.cat([angles.cos(), angles.sin()], 1).double()
    first, _, last = layer.time_pos_embed
    embedding = formulas.linear(formulas.linear(embedding, first).sigmoid() * formulas.linear(embedding, first), last)
    tokens = tokens_of(layer, x)
    for block, time_block in zip(layer.transformer_blocks, layer.time_stack, strict=True):
        tokens = formulas.transformer_block(block, tokens, context)
        moved = torch.empty_like(tokens)
        for video in range(videos):
            frames = slice(video * t, (video + 1) * t)
            own = None if time_context is None else time_context[video : video + 1]
            for pixel in range(pixels):
                path = (tokens[frames, pixel] + embedding)[None]
                moved[frames, pixel] = formulas.transformer_block(time_block, path, own)[0]
        tokens = alpha * tokens + (1 - alpha) * moved
    return image_of(layer, tokens, x)


@pytest.mark.parametrize("name", VIDEO)
@pytest.mark.parametrize("t", [1, 2, 4])
def test_video_transformer(name: str, t: int) -> None:
    args = {"n_heads": 2, "d_head": 16, "depth": 2, "context_dim": 10, **VIDEO[name]}
    layer = made(SpatialVideoTransformer, 32, args.pop("n_heads"), args.pop("d_head"), **args)
    given = noise(4 // t, 2, 6, seed=3) if name == "fixed" else None
    still = torch.zeros(4 // t, t)
    still[0, 0] = 1
    indicator = still if name == "svd" else None
    alpha = layer.time_mixer.mix_factor if name in ("fixed", "projected") else layer.time_mixer.mix_factor.sigmoid()
    if name == "svd":
        alpha = torch.where(still.bool(), 1.0, alpha).reshape(4, 1, 1)
    used = CONTEXT[::t] if args.get("use_spatial_context") else given
    truth = video_formula(layer, X, CONTEXT, used, t, alpha)
    out = layer(X, CONTEXT, time_context=given, timesteps=t, image_only_indicator=indicator)
    torch.testing.assert_close(out, truth, rtol=1e-6, atol=1e-6)  # frame embeddings are computed in fp32


def test_video_vector_context_is_one_token() -> None:
    layer = made(SpatialVideoTransformer, 32, 2, 16, context_dim=10, time_context_dim=6, timesteps=2)
    vector = noise(2, 6, seed=3)
    assert torch.equal(layer(X, CONTEXT, time_context=vector), layer(X, CONTEXT, time_context=vector[:, None]))


def test_video_refuses_frames_that_do_not_divide_the_batch() -> None:
    layer = made(SpatialVideoTransformer, 32, 2, 16, context_dim=10)
    for frames in (None, 3):
        with pytest.raises(ValueError, match=f"4; it is {frames}"):
            layer(X, CONTEXT, timesteps=frames)
    spatial = made(SpatialVideoTransformer, 32, 2, 16, context_dim=10, use_spatial_context=True)
    with pytest.raises(ValueError, match="use_spatial_context"):
        spatial(X, None, timesteps=2)


def test_video_blocks_share_the_address_of_their_spatial_twin() -> None:
    layer = made(SpatialVideoTransformer, 32, 2, 16, depth=2, context_dim=10, time_context_dim=32)
    calls: list[Any] = []
    options: dict[str, Any] = {"block": ("input", 3), "patches": {"attn1_output_patch": [log_options(calls)]}}
    before = copy.deepcopy(options)
    time_context = noise(2, 3, 32, seed=4)
    layer(X, CONTEXT, time_context=time_context, timesteps=2, transformer_options=options)
    assert [seen["block_index"] for seen in calls] == [0, 0, 1, 1]
    assert options == before
