"""Residual blocks and resampling against float64 formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules import openaimodel as M
from attention_patchbay.ldm_patched.modules.ops import plain
from torch import Tensor, nn


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(build: Any, *args: Any, **kwargs: Any) -> Any:
    torch.manual_seed(5)
    module = build(*args, **kwargs, operations=plain).double()
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=0.5, std=0.3)
    return module


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def group_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    groups = x.reshape(x.shape[0], 32, -1)
    normed = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    shape = (-1, *[1] * (x.ndim - 2))
    return normed.reshape(x.shape) * norm.weight.reshape(shape) + norm.bias.reshape(shape)


def res_block(block: Any, x: Tensor, emb: Tensor | None, resample: Any = lambda x: x) -> Tensor:
    """Compute a 2-D ResBlock; `emb` is already shaped (b, c, 1, 1) after its linear layer."""
    h = block.in_layers[2](resample(silu(group_norm(x, block.in_layers[0]))))
    if emb is not None and block.use_scale_shift_norm:
        scale, shift = emb.chunk(2, 1)
        h = group_norm(h, block.out_layers[0]) * (1 + scale) + shift
    else:
        h = group_norm(h if emb is None else h + emb, block.out_layers[0])
    return block.out_layers[3](silu(h)) + block.skip_connection(resample(x))


def embedded(block: Any, emb: Tensor) -> Tensor:
    layer = block.emb_layers[1]
    return (silu(emb) @ layer.weight.T + layer.bias)[:, :, None, None]


VARIANTS: dict[str, dict[str, Any]] = {
    "same": {},
    "wider": {"out_channels": 64},
    "wider by 3x3": {"out_channels": 64, "use_conv": True},
    "scale and shift": {"use_scale_shift_norm": True, "out_channels": 64},
    "kernel 5": {"kernel_size": 5},
    "kernel 3x1": {"kernel_size": [3, 1]},
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_res_block(name: str, use_checkpoint: bool) -> None:
    block = made(M.ResBlock, 32, 12, 0.0, **VARIANTS[name], use_checkpoint=use_checkpoint)
    x, emb = noise(2, 32, 5, 6), noise(2, 12, seed=1)
    torch.testing.assert_close(block(x, emb), res_block(block, x, embedded(block, emb)))


def test_res_block_without_embedding() -> None:
    block = made(M.ResBlock, 32, 12, 0.0, skip_t_emb=True)
    x = noise(2, 32, 5, 6)
    torch.testing.assert_close(block(x, noise(2, 12)), res_block(block, x, None))


@pytest.mark.parametrize("up", [False, True])
def test_res_block_resamples(up: bool) -> None:
    block = made(M.ResBlock, 32, 12, 0.0, up=up, down=not up)
    x, emb = noise(2, 32, 4, 6), noise(2, 12, seed=1)

    def resample(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2) if up else F.avg_pool2d(x, 2)

    torch.testing.assert_close(block(x, emb), res_block(block, x, embedded(block, emb), resample))


def test_res_block_gradients_survive_recomputation() -> None:
    grads = []
    for use_checkpoint in (False, True):
        block = made(M.ResBlock, 32, 12, 0.4, use_checkpoint=use_checkpoint)
        x = noise(2, 32, 5, 6).requires_grad_()
        torch.manual_seed(1)
        block(x, noise(2, 12, seed=1)).square().sum().backward()
        grads.append([x.grad, *(p.grad for p in block.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_video_res_block_mixes_along_time() -> None:
    block = made(M.VideoResBlock, 32, 12, 0.0, video_kernel_size=[3, 1, 1], merge_factor=0.3, out_channels=64)
    x, emb = noise(6, 32, 3, 2), noise(6, 12, seed=1)
    spatial = res_block(block, x, embedded(block, emb))
    truth = torch.empty_like(spatial)
    stack = block.time_stack
    for video in range(2):
        frames = spatial[3 * video : 3 * video + 3].transpose(0, 1)[None]  # (1, c, t, h, w)
        own = emb[3 * video : 3 * video + 3]
        added = (silu(own) @ stack.emb_layers[1].weight.T + stack.emb_layers[1].bias).T[None, :, :, None, None]
        h = stack.in_layers[2](silu(group_norm(frames, stack.in_layers[0])))
        moved = stack.out_layers[3](silu(group_norm(h + added, stack.out_layers[0]))) + frames
        mixed = 0.3 * frames + 0.7 * moved
        truth[3 * video : 3 * video + 3] = mixed[0].transpose(0, 1)
    torch.testing.assert_close(block(x, emb, 3), truth, rtol=1e-6, atol=1e-6)  # the factor is fp32


def test_upsample() -> None:
    x = noise(1, 4, 3, 5)
    doubled = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.equal(M.Upsample(4, False)(x), doubled)
    # nearest neighbour: row i of 5 shows row floor(3 i / 5) of 3
    assert torch.equal(
        M.Upsample(4, False)(x, output_shape=(1, 9, 5, 10)), doubled[:, :, [0, 1, 2, 3, 4]][:, :, [0, 0, 2, 2, 4]]
    )
    layer = made(M.Upsample, 4, True, out_channels=7)
    torch.testing.assert_close(layer(x), layer.conv(doubled))


def test_upsample_leaves_time_alone() -> None:
    x = noise(1, 4, 2, 3, 5)
    assert torch.equal(M.Upsample(4, False, dims=3)(x), x.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert M.Upsample(4, False, dims=3)(x, output_shape=(1, 4, 9, 5, 7)).shape == (1, 4, 2, 5, 7)


def test_downsample() -> None:
    x = noise(1, 4, 5, 6)
    assert torch.equal(M.Downsample(4, False)(x), F.avg_pool2d(x, 2))
    layer = made(M.Downsample, 4, True, out_channels=7)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.op.weight, layer.op.bias, stride=2, padding=1))
    video = noise(1, 4, 3, 4, 6)
    assert torch.equal(M.Downsample(4, False, dims=3)(video), F.avg_pool3d(video, (1, 2, 2)))
    with pytest.raises(ValueError, match="4 cannot become 7"):
        M.Downsample(4, False, out_channels=7)


def test_timestep_layer() -> None:
    t = torch.tensor([0.0, 7.5])
    freqs = torch.tensor([10000 ** (-i / 4) for i in range(4)])
    angles = t[:, None] * freqs
    torch.testing.assert_close(M.Timestep(8)(t), torch.cat([angles.cos(), angles.sin()], 1))


def test_timestep_block_is_to_be_filled_in() -> None:
    with pytest.raises(NotImplementedError, match="TimestepBlock"):
        M.TimestepBlock()(noise(1), noise(1))
