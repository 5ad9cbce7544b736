"""How conditionings are cut, batched and averaged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.sampling.cond_batch import calc_cond_batch, convert_cond, process_conds
from attention_patchbay.ldm_patched.sampling.conds import CONDConstant, CONDCrossAttn, repeat_to_batch_size
from attention_patchbay.ldm_patched.sampling.model_base import BaseModel
from attention_patchbay.ldm_patched.sampling.samplers import sample
from torch import Tensor

from ..tiny import conditioning, draw, patcher

SIZE = 16
X = draw(0, 1, 4, SIZE, SIZE)


class Painter(BaseModel):
    """A model whose prediction is the mean of its context, everywhere, and that logs its calls."""

    calls: list[list[int]]

    def apply_model(self, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.calls.append([*x.shape, kwargs["c_crossattn"].shape[1]])
        return torch.zeros_like(x) + kwargs["c_crossattn"].mean(dim=(1, 2)).reshape(-1, 1, 1, 1)


@pytest.fixture
def model() -> Painter:
    made = patcher().model
    made.__class__ = Painter
    made.calls = []
    return made


def flat(value: float, tokens: int = 7, **entries: Any) -> list[Any]:
    return [torch.full((1, tokens, 16), value), entries]


def evaluate(model: Painter, *groups: list[list[Any]], sigma: float = 1.0, x: Tensor = X) -> list[Tensor]:
    named = {str(i): convert_cond(group) for i, group in enumerate(groups)}
    conds = process_conds(model, x, named, x.device)
    return calc_cond_batch(model, list(conds.values()), x, torch.tensor([sigma] * x.shape[0]), {})


def test_groups_share_a_call_and_come_back_in_order(model: Painter) -> None:
    a, b = evaluate(model, [flat(1.0)], [flat(2.0)])
    assert model.calls == [[2, 4, SIZE, SIZE, 7]]
    torch.testing.assert_close((a, b), (torch.ones_like(X), 2 * torch.ones_like(X)))


def test_little_memory_makes_more_calls_with_the_same_result(model: Painter, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(model, [flat(1.0), flat(3.0)], [flat(2.0)])
    one = patcher()
    monkeypatch.setattr(one, "get_free_memory", lambda device: model.memory_required([2, 4, SIZE, SIZE]))
    model.current_patcher = one
    model.calls.clear()
    parts = evaluate(model, [flat(1.0), flat(3.0)], [flat(2.0)])
    assert [call[0] for call in model.calls] == [1, 1, 1]
    torch.testing.assert_close(parts, whole)


def test_contexts_of_different_length_repeat_up_to_four_times(model: Painter) -> None:
    evaluate(model, [flat(1.0, 6)], [flat(2.0, 4)])
    evaluate(model, [flat(1.0, 7)], [flat(2.0, 6)])
    assert model.calls == [[2, 4, SIZE, SIZE, 12], [1, 4, SIZE, SIZE, 7], [1, 4, SIZE, SIZE, 6]]


def test_repeating_a_context_does_not_change_a_real_model() -> None:
    model = patcher().model
    options: dict[str, Any] = {}
    sigma, context = torch.tensor([1.0]), draw(1, 1, 7, 16)
    once = model.apply_model(X, sigma, c_crossattn=context, transformer_options=options)
    twice = model.apply_model(X, sigma, c_crossattn=context.repeat(1, 3, 1), transformer_options=options)
    torch.testing.assert_close(once, twice, rtol=1e-4, atol=1e-5)


def test_strengths_weigh_an_average(model: Painter) -> None:
    (mixed,) = evaluate(model, [flat(1.0), flat(5.0, strength=3.0)])
    torch.testing.assert_close(mixed, torch.full_like(X, 4.0))


def test_an_area_is_the_models_whole_world(model: Painter) -> None:
    (out,) = evaluate(model, [flat(1.0), flat(2.0, area=(16, 8, 0, 8), strength=1e6)])
    assert model.calls == [[1, 4, 16, 16, 7], [1, 4, 16, 8, 7]]
    torch.testing.assert_close(out[..., :8], torch.ones(1, 4, 16, 8))
    torch.testing.assert_close(out[..., 8:], 2 * torch.ones(1, 4, 16, 8))


def test_an_areas_inner_edge_fades(model: Painter) -> None:
    (out,) = evaluate(model, [flat(0.0), flat(1.0, area=(16, 8, 0, 8))])
    row = out[0, 0, 0]
    assert row[:8].abs().max() == 0 and (row[9:] >= row[8:-1]).all()
    torch.testing.assert_close(row[8], torch.tensor(1 / 3))  # weight 1/2 beside weight 1
    torch.testing.assert_close(row[-1], torch.tensor(0.5))


def test_an_area_in_shares_of_the_picture(model: Painter) -> None:
    evaluate(model, [flat(1.0, area=("percentage", 0.5, 0.25, 0.5, 0.75))])
    assert model.calls == [[1, 4, 8, 4, 7]]


def test_the_other_side_of_the_guidance_gets_the_same_area(model: Painter) -> None:
    evaluate(model, [flat(1.0, area=(8, 8, 4, 4))], [flat(2.0)])
    assert sorted(model.calls) == [[1, 4, 16, 16, 7], [2, 4, 8, 8, 7]]


def test_masks_divide_the_picture(model: Painter) -> None:
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1
    (out,) = evaluate(model, [flat(1.0, mask=left), flat(2.0, mask=1 - left, mask_strength=0.5)])
    torch.testing.assert_close(out[..., :7], torch.ones(1, 4, 16, 7))
    torch.testing.assert_close(out[..., 9:], 2 * torch.ones(1, 4, 16, 7))


def test_a_masks_bounds_become_the_area(model: Painter) -> None:
    mask = torch.zeros(SIZE, SIZE)
    mask[2:12, 5:8] = 1
    evaluate(model, [flat(1.0, mask=mask, set_area_to_bounds=True)])
    evaluate(model, [flat(1.0, mask=torch.zeros(SIZE, SIZE), set_area_to_bounds=True)])
    assert model.calls == [[1, 4, 10, 8, 7], [1, 4, 8, 8, 7]]


@pytest.mark.parametrize(("percent", "first"), [(0.1, True), (0.39, True), (0.41, False), (0.9, False)])
def test_time_windows(model: Painter, percent: float, first: bool) -> None:
    sigma = model.model_sampling.percent_to_sigma(percent)
    windows = [flat(1.0, start_percent=0.0, end_percent=0.4), flat(2.0, start_percent=0.4, end_percent=1.0)]
    (out,) = evaluate(model, windows, sigma=sigma)
    torch.testing.assert_close(out, torch.full_like(X, 1.0 if first else 2.0))


def test_a_group_that_is_left_out_gives_zeros(model: Painter) -> None:
    conds = process_conds(model, X, {"a": convert_cond([flat(1.0)])}, X.device)
    out = calc_cond_batch(model, [conds["a"], None], X, torch.ones(1), {})
    assert torch.count_nonzero(out[1]) == 0


class Grounding:
    """Stand for a GLIGEN model."""

    model: Any

    def __init__(self) -> None:
        self.model = self

    def set_position(self, shape: Any, boxes: Any, device: Any) -> Any:
        return lambda n, options: n + boxes

    def set_empty(self, shape: Any, device: Any) -> Any:
        return lambda n, options: n


def test_grounding_adds_a_middle_patch_and_leaves_the_callers_options_alone(model: Painter) -> None:
    options = {"transformer_options": {"patches": {"attn1_patch": [print], "middle_patch": [len]}}}
    conds = process_conds(model, X, {"a": convert_cond([flat(1.0, gligen=("position", Grounding(), 0.5))])}, X.device)
    seen: list[Any] = []

    def wrapper(apply_model: Any, call: dict[str, Any]) -> Tensor:
        seen.append(call["c"]["transformer_options"]["patches"])
        return apply_model(call["input"], call["timestep"], **call["c"])

    calc_cond_batch(model, [conds["a"]], X, torch.ones(1), options | {"model_function_wrapper": wrapper})
    assert seen[0]["attn1_patch"] == [print] and seen[0]["middle_patch"][0] is len
    assert seen[0]["middle_patch"][1](1.0, {}) == 1.5
    assert options == {"transformer_options": {"patches": {"attn1_patch": [print], "middle_patch": [len]}}}


def test_grounding_of_the_positive_side_reaches_the_negative_one(model: Painter) -> None:
    grounding = ("position", Grounding(), 0.5)
    positive = [flat(1.0, gligen=grounding), flat(2.0, area=(8, 8, 0, 0))]
    named = {"positive": convert_cond(positive), "negative": convert_cond([flat(3.0), flat(4.0, area=(8, 8, 0, 0))])}
    conds = process_conds(model, X, named, X.device)
    assert [cond.get("gligen") for cond in conds["negative"]] == [grounding, None]


class Control:
    """Stand for a ControlNet."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def get_models(self) -> list[Any]:
        return []

    def pre_run(self, model: Any, percent_to_sigma: Any) -> None:
        self.log.append(f"pre_run {percent_to_sigma(1.0)}")

    def get_control(self, x: Tensor, t: Tensor, c: dict[str, Any], batched: int, options: dict[str, Any]) -> Any:
        assert x.shape[0] == len(t) == batched == len(options["cond_or_uncond"])
        self.log.append(f"control {batched}")
        return {"middle": [torch.ones(batched, 32, x.shape[2], x.shape[3])]}

    def cleanup(self) -> None:
        self.log.append("cleanup")


@pytest.mark.parametrize(("both", "batches"), [(True, ["control 2"]), (False, ["control 1"])])
def test_a_control_applies_to_one_side_or_both(both: bool, batches: list[str]) -> None:
    model, control = patcher(), Control()
    positive = conditioning(1, control=control, control_apply_to_uncond=both)
    with_control, without = (
        sample(model, X, conds, conditioning(2), 2.0, 1, "euler", "normal", seed=0)
        for conds in (positive, conditioning(1))
    )
    assert control.log == ["pre_run 0.0", *batches, "cleanup"]
    assert (with_control - without).abs().max() > 0.01


def test_small_pieces() -> None:
    assert repeat_to_batch_size(torch.arange(3), 5).tolist() == [0, 1, 2, 0, 1]
    assert repeat_to_batch_size(torch.arange(3), 2).tolist() == [0, 1]
    assert not CONDCrossAttn(draw(0, 1, 5, 4)).can_concat(CONDCrossAttn(draw(0, 1, 5, 6)))
    assert CONDConstant("a").can_concat(CONDConstant("a")) and not CONDConstant("a").can_concat(CONDConstant("b"))
    assert CONDConstant(X).can_concat(CONDConstant(X.clone()))
