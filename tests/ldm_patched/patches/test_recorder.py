from __future__ import annotations

import copy
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.marks import Mark
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging
from attention_patchbay.ldm_patched.patches.record.plan import KEY
from attention_patchbay.ldm_patched.patches.record.run import Run, current_block
from attention_patchbay.ldm_patched.patches.record.steps import StepCount
from attention_patchbay.ldm_patched.patches.record.tally import Account, Call
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from attention_patchbay.ldm_patched.sampling import samplers

from .models import BLOCKS, STEPS, conditioning, draw, last_run, patcher, run

HERE = BlockId("middle", 0)


@pytest.fixture
def quick_switching() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("quick_switching")
def test_threads_count_exactly_and_do_not_see_each_others_kind() -> None:
    recorder, wrong = Run(), []

    def work(kind: str) -> None:
        for _ in range(2000):
            recorder.enter(kind, HERE)
            recorder.count_patch(1, HERE)
            recorder.count_call(Account(Call(HERE, recorder.kind_in(HERE, True), "basic", rule=2)))
            if recorder.kind_in(HERE, True) != kind:
                wrong.append(kind)

    threads = [threading.Thread(target=work, args=(kind,)) for kind in ("self", "cross") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert recorder.seen == {(HERE, "self"): 4000, (HERE, "cross"): 4000}
    assert recorder.calls == {
        Call(HERE, "self", "basic", rule=2): 4000,
        Call(HERE, "cross", "basic", rule=2): 4000,
    }
    assert recorder.patched == {(1, HERE): 8000, (2, HERE): 8000}


class Sigmas:
    """Stands for the sigmas of a step on a device; counts how often they are brought from there."""

    def __init__(self, value: float) -> None:
        self.value, self.reads = value, 0

    def flatten(self) -> Sigmas:
        return self

    def __getitem__(self, index: int) -> Sigmas:
        assert index == 0
        return self

    def __float__(self) -> float:
        self.reads += 1
        return self.value


def test_the_sigma_of_a_step_is_read_once() -> None:
    recorder = Run(percent_to_sigma=lambda percent: 1.0 - percent)
    for value in (0.75, 0.25):
        sigmas: Any = Sigmas(value)
        for _ in range(5):
            assert recorder.percent({"sigmas": sigmas}) == pytest.approx(1.0 - value)
        assert sigmas.reads == 1


def test_a_run_without_windows_never_asks_how_far_it_is() -> None:
    recorder = Run(percent_to_sigma=lambda percent: pytest.fail("it asked"))
    schedule = torch.tensor([0.75, 0.5, 0.25, 0.0])
    calls = ({"sigmas": schedule[step, None], "sample_sigmas": schedule} for step in range(3))
    assert [recorder.step(options) for options in calls] == [1, 2, 3]


def test_without_a_noise_level_it_is_the_first_step() -> None:
    assert Run(percent_to_sigma=lambda percent: 1.0 - percent).percent({}) == 0.0
    assert Run().percent({"sigmas": torch.tensor([0.5])}) == 0.0


def test_every_attention_of_a_run_is_seen() -> None:
    model = attach(patcher(), Rule("auto", Where(parse("middle"), Schedule(0.2, 0.4))))
    run(model)
    recorder = last_run(model)
    assert {f"{block} {kind}" for block, kind in recorder.seen} == {
        f"{b} {k}" for b in BLOCKS for k in ("self", "cross")
    }
    assert set(recorder.seen.values()) == {STEPS}
    assert len(recorder.percents) == STEPS


def test_a_marker_gives_back_what_it_got() -> None:
    n, context = torch.zeros(1), torch.ones(1)
    out = Mark("self")(n, context, None, {})
    assert out[0] is n
    assert out[1] is context
    assert out[2] is None


@pytest.mark.parametrize(
    ("options", "block"),
    [
        ({"block": ("input", 4), "block_index": 1}, BlockId("input", 4, 1)),
        ({"block": ["middle", 0]}, BlockId("middle", 0)),
        ({"block_type": "double", "block_index": 7}, BlockId("double", 7)),
        ({"block_index": 7}, BlockId("block", 7)),
        ({}, None),
    ],
)
def test_the_block_is_read_as_each_family_writes_it(options: dict[str, Any], block: BlockId | None) -> None:
    assert current_block(options) == block


def test_the_percent_follows_the_model_that_samples() -> None:
    """A schedule that a later node put on the model counts, not the one that was there when the patch was attached."""
    model = attach(patcher(), AttentionPatch("attn1.q", "zero", where=Where(schedule=Schedule(0.0, 0.5))))
    late = copy.copy(model.get_model_object("model_sampling"))
    late.percent_to_sigma = lambda percent: 0.0 if percent > 0.1 else 100.0
    model.add_object_patch("model_sampling", late)
    run(model)
    assert last_run(model).percents == pytest.approx((0.1,) * STEPS)


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [("heunpp2", 5), ("heunpp2", 2), ("heunpp2", 1), ("heun", 4), ("exp_heun_2_x0", 4)],
)
def test_a_sampler_of_several_calls_is_counted_as_it_makes_them(sampler: str, calls: int) -> None:
    """Heun++ calls at the next two sigmas, Heun at the next; both make fewer calls where the sigmas end."""
    steps = [float(sigma) for sigma in range(calls, -1, -1)]
    more = 2 if sampler == "heunpp2" else 1
    count, schedule, seen = StepCount(sampler), torch.tensor(steps), []
    for i in range(calls):
        made = [i, *range(i + 1, min(i + 1 + more, calls))]
        for number, at in enumerate(made):
            sigma = torch.tensor([steps[at]])
            seen.append(count.of(sigma, steps[at], schedule))
            assert count.of(sigma, steps[at], schedule) == seen[-1]
            if number == 0:
                count.end_of_first_call()
        assert seen[-len(made) :] == [i + 1] * len(made)


@pytest.mark.parametrize("sampler", ["euler", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "heun"])
def test_all_predictions_of_a_step_belong_to_it(sampler: str) -> None:
    """Random draws hang on the step, and reports count by it: both are the same for all calls of one step."""
    model = attach(patcher(), TokenMerging(0.5))
    noise = draw(0, 1, 4, 8, 8)
    seen: list[list[int]] = [[]]

    def note(n: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        if options["block"] == ("middle", 0):
            seen[-1].append(options[KEY].step(options))
        return n

    model.set_model_attn1_output_patch(note)
    settings = (4.0, 4, sampler, "normal", 1.0)
    samplers.sample(model, noise, conditioning(1), conditioning(2), *settings, seed=0)
    counts = Counter(seen[0])
    twice = sampler != "euler"
    assert counts == {1: 1 + twice, 2: 1 + twice, 3: 1 + twice, 4: 1}
    assert seen[0] == sorted(seen[0])
