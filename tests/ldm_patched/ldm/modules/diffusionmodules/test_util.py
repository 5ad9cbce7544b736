"""Embeddings, schedules, blending and recomputation, against float64 formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules import util
from torch import Tensor, nn


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dim", [2, 7, 64, 321])
@pytest.mark.parametrize("max_period", [100, 10000])
def test_timestep_embedding_is_cosines_then_sines(dim: int, max_period: int) -> None:
    times = [0.0, 1.0, 12.5, 999.0]
    half = dim // 2
    angles = np.outer(times, [max_period ** (-i / half) for i in range(half)])
    truth = np.concatenate([np.cos(angles), np.sin(angles), np.zeros((4, dim % 2))], axis=1)
    out = util.timestep_embedding(torch.tensor(times), dim, max_period=max_period)
    assert out.shape == (4, dim) and out.dtype == torch.float32
    assert np.abs(out.numpy() - truth).max() < 1.5e-4  # 999 in fp32 has a spacing of 6e-5


def test_timestep_embedding_takes_integers_and_half_floats() -> None:
    whole = util.timestep_embedding(torch.tensor([3, 500]), 32)
    assert torch.equal(whole, util.timestep_embedding(torch.tensor([3.0, 500.0]), 32))
    assert torch.equal(whole, util.timestep_embedding(torch.tensor([3.0, 500.0]).half(), 32))


def test_timestep_embedding_repeat_only() -> None:
    out = util.timestep_embedding(torch.tensor([0.5, 2.0]), 3, repeat_only=True)
    assert out.tolist() == [[0.5] * 3, [2.0] * 3]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("strategy", "alpha"), [("fixed", 0.3), ("learned", sigmoid(0.3)), ("learned_with_images", sigmoid(0.3))]
)
def test_blender_mixes_two_streams(strategy: str, alpha: float) -> None:
    spatial, temporal = noise(6, 5, 8, dtype=torch.float64), noise(6, 5, 8, seed=1, dtype=torch.float64)
    out = util.AlphaBlender(0.3, strategy)(spatial, temporal)
    torch.testing.assert_close(out, alpha * spatial + (1 - alpha) * temporal, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("pattern", "shape", "frames"),
    [("b t -> (b t) 1 1", (6, 5, 8), (0, 1)), ("b t -> b 1 t 1 1", (2, 4, 3, 2, 2), (0, 2))],
)
def test_blender_keeps_still_pictures_spatial(pattern: str, shape: tuple[int, ...], frames: tuple[int, int]) -> None:
    spatial, temporal = noise(*shape, dtype=torch.float64), noise(*shape, seed=1, dtype=torch.float64)
    still = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    out = util.AlphaBlender(-0.7, rearrange_pattern=pattern)(spatial, temporal, still)
    alpha = torch.where(still.bool(), 1.0, sigmoid(-0.7)).double()
    alpha = alpha.reshape(6, 1, 1) if len(shape) == 3 else alpha.reshape(2, 1, 3, 1, 1)
    torch.testing.assert_close(out, alpha * spatial + (1 - alpha) * temporal, rtol=1e-6, atol=1e-6)


def test_blender_ignores_the_indicator_where_it_has_no_say() -> None:
    spatial, temporal = noise(2, 5, 8), noise(2, 5, 8, seed=1)
    for strategy in ("fixed", "learned"):
        blender = util.AlphaBlender(0.3, strategy)
        assert torch.equal(blender(spatial, temporal, torch.ones(1, 2)), blender(spatial, temporal))


def test_blender_learns_only_where_asked() -> None:
    assert not list(util.AlphaBlender(0.5, "fixed").parameters())
    blender = util.AlphaBlender(0.0, "learned")
    blender(torch.tensor(1.0), torch.tensor(0.0)).sum().backward()
    assert blender.mix_factor.grad.item() == pytest.approx(0.25)


def test_blender_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="sometimes"):
        util.AlphaBlender(0.5, "sometimes")
    with pytest.raises(ValueError, match="b -> b"):
        util.AlphaBlender(0.5, rearrange_pattern="b -> b")


def test_beta_schedules() -> None:
    n = 50
    between = np.linspace(0, 1, n)
    low, high = 1e-3, 0.015
    truth = {
        "linear": (math.sqrt(low) + between * (math.sqrt(high) - math.sqrt(low))) ** 2,
        "sqrt_linear": low + between * (high - low),
        "sqrt": np.sqrt(low + between * (high - low)),
    }
    for name, betas in truth.items():
        out = util.make_beta_schedule(name, n, linear_start=low, linear_end=high)
        assert out.dtype == torch.float64
        np.testing.assert_allclose(out.numpy(), betas, rtol=1e-12)
    with pytest.raises(ValueError, match="steep"):
        util.make_beta_schedule("steep", n)


@pytest.mark.parametrize("name", ["cosine", "squaredcos_cap_v2"])
def test_cosine_schedules_follow_alpha_bar(name: str) -> None:
    betas = util.make_beta_schedule(name, 40).numpy()
    t = np.arange(1, 41) / 40
    alpha_bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(np.cumprod(1 - betas)[:-1], alpha_bar[:-1], rtol=1e-10)
    assert betas[-1] == 0.999


def test_ddim_steps_and_parameters() -> None:
    assert util.make_ddim_timesteps("uniform", 4, 20).tolist() == [1, 6, 11, 16]
    assert util.make_ddim_timesteps("quad", 3, 20).tolist() == [1, 5, 17]
    with pytest.raises(ValueError, match="cubic"):
        util.make_ddim_timesteps("cubic", 4, 20)
    alphacums = np.linspace(0.99, 0.01, 20)
    steps = util.make_ddim_timesteps("uniform", 4, 20)
    sigmas, alphas, previous = util.make_ddim_sampling_parameters(alphacums, steps, eta=0.5)
    for i, step in enumerate(steps):
        before = alphacums[0] if i == 0 else alphacums[steps[i - 1]]
        assert (alphas[i], previous[i]) == (alphacums[step], before)
        variance = (1 - before) / (1 - alphacums[step]) * (1 - alphacums[step] / before)
        assert sigmas[i] == pytest.approx(0.5 * math.sqrt(variance))


class Net(nn.Module):
    """A small network with dropout that counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.5)
        self.runs = 0

    def forward(self, x: Tensor, scale: Tensor | None, note: dict[str, Any]) -> Tensor:
        self.runs += 1
        out = self.drop(torch.tanh(self.linear(x)))
        return out if scale is None else out * scale


def gradients(flag: bool, scale: Tensor | None) -> tuple[Tensor, list[Tensor], int]:
    torch.manual_seed(0)
    net = Net()
    x = noise(4, 8).requires_grad_()
    torch.manual_seed(1)
    out = util.checkpoint(net, (x, scale, {"a": 1}), net.parameters(), flag)
    out.square().sum().backward()
    return out.detach(), [x.grad, *(p.grad for p in net.parameters())], net.runs


@pytest.mark.parametrize("scale", [None, torch.tensor(3.0)])
def test_checkpoint_gives_the_same_gradients_from_a_second_run(scale: Tensor | None) -> None:
    plain_out, plain_grads, plain_runs = gradients(False, scale)
    out, grads, runs = gradients(True, scale)
    assert (plain_runs, runs) == (1, 2)
    assert torch.equal(out, plain_out)
    assert all(torch.equal(a, b) for a, b in zip(grads, plain_grads, strict=True))


def test_checkpoint_runs_once_without_gradients() -> None:
    net = Net()
    with torch.no_grad():
        util.checkpoint(net, (noise(4, 8), None, {}), net.parameters(), True)
    assert net.runs == 1


def test_checkpoint_reaches_parameters_from_inputs_without_gradients() -> None:
    net = Net()
    util.checkpoint(net, (noise(4, 8), None, {}), net.parameters(), True).sum().backward()
    assert net.linear.weight.grad is not None


def test_checkpoint_keeps_autocast() -> None:
    net = Net().eval()
    with torch.autocast("cpu", torch.bfloat16):
        out = util.checkpoint(net, (noise(4, 8), None, {}), net.parameters(), True)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    once = net.linear.weight.grad.clone()
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        net(noise(4, 8), None, {}).float().sum().backward()
    assert torch.equal(net.linear.weight.grad, once)


def test_module_tools() -> None:
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, math.nan)
    assert util.zero_module(layer) is layer
    assert all(torch.equal(p, torch.zeros_like(p)) for p in layer.parameters())
    nn.init.ones_(layer.weight)
    assert torch.equal(util.scale_module(layer, 0.5).weight, torch.full((2, 2), 0.5))
    x = noise(2, 3, 4)
    torch.testing.assert_close(util.mean_flat(x), x.flatten(1).mean(1))
    assert util.extract_into_tensor(torch.arange(5.0), torch.tensor([4, 1]), (2, 3, 4)).shape == (2, 1, 1)


def test_noise_like() -> None:
    torch.manual_seed(0)
    same = util.noise_like((3, 4), "cpu", repeat=True)
    assert torch.equal(same[0], same[2]) and not torch.equal(same[0], util.noise_like((3, 4), "cpu")[0])


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_avg_pool_nd(dims: int) -> None:
    x = noise(1, 1, *[4] * dims)
    out = util.avg_pool_nd(dims, kernel_size=4)(x)
    torch.testing.assert_close(out.flatten(), x.mean().reshape(1))
    with pytest.raises(ValueError, match="not 4"):
        util.avg_pool_nd(4, kernel_size=2)
