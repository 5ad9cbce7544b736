"""A ControlNet in a run: what it is called with, when, and what is left of it afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.controlnet.control import ControlNet, hint_for_batch, merge_controls
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.patcher_extension import CallbacksMP
from attention_patchbay.ldm_patched.sampling.samplers import sample
from torch import Tensor, nn

from ..tiny import conditioning, draw, patcher


class Echo(nn.Module):
    """A network that gives back what it was called with, and remembers it."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = nn.Parameter(torch.zeros(1))
        self.calls: list[dict[str, Any]] = []

    def forward(self, **inputs: Any) -> dict[str, list[Tensor]]:
        self.calls.append(inputs)
        return {"middle": [inputs["x"] * 2], "output": [inputs["x"], inputs["hint"].mean() + inputs["x"]]}


def made(dtype: torch.dtype = torch.float32, pooling: bool = False) -> ControlNet:
    return ControlNet(ModelPatcher(Echo(dtype), "cpu", "cpu"), pooling)


def control(**settings: Any) -> ControlNet:
    return made().set_cond_hint(torch.rand(1, 3, 32, 48), **settings)


def ready(net: ControlNet, **family: Any) -> ControlNet:
    model = patcher(**family).model
    net.pre_run(model, model.model_sampling.percent_to_sigma)
    return net


def called(net: ControlNet, sigma: float = 2.0, batch: int = 2, number: int = 1, **cond: Any) -> Any:
    cond = {"c_crossattn": draw(1, batch, 7, 16), **cond}
    return net.get_control(draw(0, batch, 4, 4, 6), torch.full((batch,), sigma), cond, number, {})


def test_the_network_sees_the_scaled_latent_the_timestep_and_the_vector() -> None:
    net = ready(made(torch.float16).set_cond_hint(torch.rand(1, 3, 64, 96)))
    net.set_extra_arg("control_type", [3])
    out = called(net, y=draw(3, 2, 8))
    (inputs,) = net.control_model.calls
    sampling = patcher().model.model_sampling
    sigma = torch.full((2,), 2.0)
    torch.testing.assert_close(inputs["x"], sampling.calculate_input(sigma, draw(0, 2, 4, 4, 6)).half())
    torch.testing.assert_close(inputs["timesteps"], sampling.timestep(sigma).half())
    assert {inputs[name].dtype for name in ("x", "hint", "timesteps", "context", "y")} == {torch.float16}
    assert inputs["hint"].shape == (1, 3, 32, 48)
    assert inputs["control_type"] == [3]
    assert torch.equal(out["middle"][0], inputs["x"] * 2)


@pytest.mark.parametrize(("percent", "runs"), [(0.0, False), (0.29, False), (0.31, True), (0.69, True), (0.71, False)])
def test_it_runs_inside_its_window_only(percent: float, runs: bool) -> None:
    net = ready(control(timestep_percent_range=(0.3, 0.7)))
    sigma = patcher().model.model_sampling.percent_to_sigma(percent)
    assert (called(net, min(float(sigma), 14.6)) is not None) == runs


def test_a_chain_adds_up_and_each_has_its_window() -> None:
    first, second = control(strength=0.5, timestep_percent_range=(0.0, 0.2)), control(strength=2.0)
    ready(second.set_previous_controlnet(first))
    early, late = called(second, 14.0), called(second, 0.5)
    x = second.control_model.calls[0]["x"]
    torch.testing.assert_close(early["middle"][0], x * 2 * 2.5)
    torch.testing.assert_close(late["middle"][0], second.control_model.calls[1]["x"] * 2 * 2.0)
    assert len(first.control_model.calls) == 1
    assert second.get_models() == [first.control_model_wrapped, second.control_model_wrapped]
    second.timestep_range = (0.0, 0.0)
    torch.testing.assert_close(called(second, 14.0)["middle"][0], x * 2 * 0.5)


def test_controls_of_different_lengths_add_from_the_start() -> None:
    a, b = torch.tensor(1.0), torch.tensor(2.0)
    merged = merge_controls({"output": [a, None, a], "middle": [a]}, {"output": [b, b], "input": [b]})
    assert merged == {"input": [b], "middle": [a], "output": [torch.tensor(3.0), b, a]}


def test_pooling_replaces_the_result_by_its_mean() -> None:
    net = ready(made(pooling=True).set_cond_hint(torch.rand(1, 3, 8, 8), strength=0.5))
    out = called(net)["middle"][0]
    x = net.control_model.calls[0]["x"]
    torch.testing.assert_close(out, x.mean((2, 3), keepdim=True).expand_as(x))


def test_the_hint_is_resized_once_and_again_for_another_size() -> None:
    net = ready(control())
    called(net)
    resized = net.cond_hint
    called(net)
    assert net.cond_hint is resized
    cond = {"c_crossattn": draw(1, 1, 7, 16)}
    net.get_control(draw(0, 1, 4, 8, 8), torch.tensor([2.0]), cond, 1, {})
    assert net.cond_hint is not None and net.cond_hint.shape == (1, 3, 64, 64)


def test_more_channels_are_put_behind_the_hint() -> None:
    net = ready(made().set_cond_hint(torch.rand(2, 3, 32, 48), extra_concat=[torch.ones(1, 1, 5, 5)]))
    called(net)
    hint = net.control_model.calls[0]["hint"]
    assert hint.shape == (2, 4, 32, 48)
    assert torch.equal(hint[:, 3], torch.ones(2, 32, 48))


@pytest.mark.parametrize(
    ("hints", "batch", "number", "expected"),
    [(1, 4, 2, [0]), (2, 4, 2, [0, 1, 0, 1]), (3, 4, 2, [0, 1, 0, 1]), (2, 6, 2, [0, 1, 0, 0, 1, 0]), (2, 1, 1, [0])],
)
def test_hints_follow_the_latents_of_each_conditioning(
    hints: int, batch: int, number: int, expected: list[int]
) -> None:
    hint = torch.arange(hints).float().reshape(-1, 1, 1, 1)
    assert hint_for_batch(hint, batch, number).flatten().tolist() == expected


def test_a_copy_shares_weights_and_settings_but_no_chain_and_no_run() -> None:
    net = ready(control(strength=0.3, timestep_percent_range=(0.1, 0.2)).set_previous_controlnet(control()))
    called(net)
    copy = net.copy()
    assert copy.control_model is net.control_model and copy.strength == 0.3
    assert copy.timestep_percent_range == (0.1, 0.2) and copy.cond_hint_original is net.cond_hint_original
    assert copy.previous_controlnet is None and copy.cond_hint is None
    copy.set_extra_arg("control_type", [1])
    assert net.extra_args == {}


def test_a_missing_hint_is_named() -> None:
    with pytest.raises(ValueError, match="give it a picture"):
        called(ready(made()))


class Fixed(Echo):
    """A network whose result fits the tiny UNet."""

    def forward(self, **inputs: Any) -> dict[str, list[Tensor]]:
        self.calls.append(inputs)
        return {"middle": [], "output": [torch.ones(len(inputs["x"]), 32, *inputs["x"].shape[2:])]}


def sampled(net: ControlNet | None) -> Tensor:
    entries = {} if net is None else {"control": net}
    noise = draw(5, 1, 4, 8, 8)
    model = patcher()
    return sample(model, noise, conditioning(1, **entries), conditioning(2, **entries), 3.0, 3, "euler", "normal")


def test_a_run_calls_it_at_each_step_and_leaves_nothing_in_it() -> None:
    nets = [ControlNet(ModelPatcher(Fixed(), "cpu", "cpu")).set_cond_hint(torch.rand(1, 3, 8, 8)) for _ in range(2)]
    out = sampled(nets[1].set_previous_controlnet(nets[0]))
    assert [len(net.control_model.calls) for net in nets] == [3, 3]
    assert all(len(call["x"]) == 2 for call in nets[0].control_model.calls)
    assert all(net.cond_hint is None and net.model_sampling_current is None for net in nets)
    assert not torch.allclose(out, sampled(None))


def test_strength_zero_is_no_control_bit_for_bit() -> None:
    net = ControlNet(ModelPatcher(Fixed(), "cpu", "cpu")).set_cond_hint(torch.rand(1, 3, 8, 8), strength=0.0)
    assert torch.equal(sampled(net), sampled(None))
    assert len(net.control_model.calls) == 3


def test_a_run_moves_the_weights_to_the_device_first() -> None:
    model = ModelPatcher(Fixed(), "cpu", "cpu")
    moved: list[Any] = []
    model.add_callback(CallbacksMP.ON_LOAD, lambda *arguments: moved.append(arguments[1]))
    sampled(ControlNet(model).set_cond_hint(torch.rand(1, 3, 8, 8)))
    assert moved == [torch.device("cpu")]
    assert model.model.patched_by is None


def test_a_run_that_fails_is_cleaned_up_too() -> None:
    class Broken(Echo):
        def forward(self, **inputs: Any) -> dict[str, list[Tensor]]:
            raise RuntimeError("broken")

    net = ControlNet(ModelPatcher(Broken(), "cpu", "cpu")).set_cond_hint(torch.rand(1, 3, 8, 8))
    with pytest.raises(RuntimeError, match="broken"):
        sampled(net)
    assert net.cond_hint is None and net.model_sampling_current is None
