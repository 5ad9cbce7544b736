"""What a run keeps of its routes: chosen once for each kind of call, whatever the step, and never for another kind."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import attention_basic, attention_pytorch, attention_split
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.preferred import TOLD
from attention_patchbay.ldm_patched.patches.engine.router import SLOT, Route, Router
from attention_patchbay.ldm_patched.patches.methods.gate_patches import GatePatches
from attention_patchbay.ldm_patched.patches.record.plan import KEY, Entry
from attention_patchbay.ldm_patched.patches.record.run import STATES, Run
from attention_patchbay.ldm_patched.patches.routing.nan_guard import REPAIR, Sentinel
from attention_patchbay.ldm_patched.patches.routing.rule import Rule

from .models import BLOCKS, draw, last_run, patcher, run

MIDDLE = BlockId("middle", 0)
PLACE = {"block": MIDDLE[:2], "block_index": 0}
SIGMAS = torch.linspace(1.0, 0.0, 9)
HALF_THE_RUN = Route("basic", Entry("early", schedule=Schedule(0.0, 0.5)), None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count how often a backend is selected, by the one that was asked for."""
    counts: Counter[str] = Counter()
    select = registry.select

    def counting(call: Any, wanted: str = "auto") -> Any:
        counts[wanted] += 1
        return select(call, wanted)

    monkeypatch.setattr(registry, "select", counting)
    yield counts


def backends(recorder: Run) -> list[str]:
    return sorted(call.backend for call in recorder.calls.elements())


def call(router: Router, func: Callable[..., Any], x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return router(func, x, x, x, 2, *args, **kwargs)


@pytest.mark.parametrize("steps", [4, 12])
def test_a_rule_is_resolved_once_for_each_attention(asked: Counter[str], steps: int) -> None:
    model = attach(patcher(), Rule("basic", Where(parse("all"), Schedule(0.0, 0.5))))
    run(model, steps=steps)
    assert asked["basic"] == 2 * len(BLOCKS)
    counted = Counter(call.backend for call in last_run(model).calls.elements())
    assert counted.total() == 2 * len(BLOCKS) * steps and 0 < counted["basic"] < counted.total()


def test_what_is_kept_grows_with_the_windows_and_not_with_the_steps() -> None:
    recorder, router, x = (
        Run(percent_to_sigma=lambda percent: 1.0 - percent),
        Router((HALF_THE_RUN,)),
        draw(0, 1, 6, 16),
    )
    sizes = []
    for step in range(8):
        options = {KEY: recorder, **PLACE, "sigmas": SIGMAS[step, None], "sample_sigmas": SIGMAS}
        for tokens in (6, 4):
            call(router, attention_split, x[:, :tokens], transformer_options=options)
        sizes.append(sum(len(kept) for _, kept in recorder.ways.values()))
    assert sizes == [2, 2, 2, 2, 4, 4, 4, 4]
    assert backends(recorder) == ["basic"] * 8 + ["split"] * 8
    assert {call.backend: sorted(steps) for call, steps in recorder.tallies.items()} == {
        "basic": [1, 2, 3, 4],
        "split": [5, 6, 7, 8],
    }


def test_a_run_that_is_over_keeps_nothing() -> None:
    recorder = Run()
    call(Router(), attention_basic, draw(0, 1, 6, 16), transformer_options={KEY: recorder, **PLACE})
    lane = recorder.lane({})
    assert recorder.ways and lane.ways
    recorder.settle()
    assert not recorder.ways and recorder.lane({}) is not lane and backends(recorder) == ["basic"]


def test_options_that_are_copied_through_and_through_do_not_pile_up() -> None:
    recorder, router, x = Run(), Router((HALF_THE_RUN,)), draw(0, 1, 6, 16)
    for _ in range(3 * STATES):
        recorder.enter_model()
        call(copy.deepcopy(router), attention_split, x, transformer_options={KEY: recorder, **PLACE})
    assert len(recorder.ways) <= STATES and recorder.calls.total() == 3 * STATES


def test_another_choice_of_the_host_is_another_function() -> None:
    recorder, x = Run(), draw(0, 1, 6, 16)
    plain, ruled = Router(), Router((Route("split", Entry("all"), None),))
    for router in (plain, ruled):
        for func in (attention_basic, attention_pytorch, attention_basic):
            call(router, func, x, transformer_options={KEY: recorder, **PLACE})
    assert backends(recorder) == ["basic"] * 2 + ["pytorch"] + ["split"] * 3


def test_the_functions_of_others_get_the_host_choice_of_each_call() -> None:
    seen: list[Any] = []

    def foreign(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(func)
        out: torch.Tensor = func(*args, **kwargs)
        return out

    recorder, router, x = Run(), Router(previous=foreign), draw(0, 1, 6, 16)
    for func in (attention_basic, attention_pytorch, attention_basic):
        call(router, func, x, transformer_options={KEY: recorder, **PLACE})
    assert seen == [attention_basic, attention_pytorch, attention_basic]


def test_layers_outside_of_the_blocks_keep_apart_what_they_prefer() -> None:
    class Layer:
        def __init__(self, function: Any) -> None:
            self.function = function

    recorder, router, x = Run(), Router(), draw(0, 1, 6, 16)
    layers = Layer(attention_basic), Layer(attention_split), None
    for layer in (*layers, *layers):
        options = {KEY: recorder} if layer is None else {KEY: recorder, TOLD: layer}
        call(router, attention_pytorch, x, transformer_options=options)
    assert backends(recorder) == ["basic"] * 2 + ["pytorch"] * 2 + ["split"] * 2


def test_an_override_that_comes_in_front_during_the_run_hides_what_layers_prefer() -> None:
    recorder, router, x = Run(), Router(), draw(0, 1, 6, 16)
    recorder.preferred = {(MIDDLE, "self"): attention_split}
    recorder.enter("self", MIDDLE)
    for in_front in ("", "another pack"):
        recorder.enter_model()
        recorder.in_front = in_front
        call(router, attention_pytorch, x, transformer_options={KEY: recorder, **PLACE})
    assert backends(recorder) == ["pytorch", "split"]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {"scale": 0.3}),
        ((), {"mask": torch.zeros(6, 6)}),
        ((torch.ones(6, 6, dtype=torch.bool),), {}),
        ((None, torch.float32), {}),
        ((), {"attn_precision": torch.float32}),
        ((), {"low_precision_attention": False}),
    ],
)
def test_every_setting_is_a_kind_of_its_own(asked: Counter[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    recorder, router, x = Run(), Router((Route("split", Entry("all"), None),)), draw(0, 1, 6, 16)
    for _ in range(2):
        for some, more in (((), {}), (args, kwargs)):
            out = call(router, attention_pytorch, x, *some, **more, transformer_options={KEY: recorder, **PLACE})
            assert torch.allclose(out, attention_basic(x, x, x, 2, *some, **more), atol=1e-5)
    assert asked["split"] == 2


def test_rows_tokens_dtype_and_layout_are_kinds_of_their_own(asked: Counter[str]) -> None:
    recorder, router, x = Run(), Router((Route("split", Entry("all"), None),)), draw(0, 2, 6, 16)
    options = {KEY: recorder, **PLACE}
    for _ in range(2):
        for q, k in ((x, x), (x[:1], x[:1]), (x, x[:, :4]), (x.double(), x.double())):
            router(attention_pytorch, q, k, k, 2, transformer_options=options)
        by_head = x.unflatten(-1, (2, 8)).transpose(1, 2)
        call(router, attention_pytorch, by_head, skip_reshape=True, transformer_options=options)
    assert asked["split"] == 5


def test_a_result_is_looked_at_whatever_is_kept() -> None:
    """The guard finds the one bad result among good ones, and the attention stays on the exact function."""
    guard = attach(patcher(), Sentinel()).model_options["transformer_options"][SLOT]
    recorder, x, bad = Run(), draw(0, 1, 6, 16), []

    def sometimes(q: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        bad.append(len(bad) == 2)
        return torch.full_like(q, math.nan) if bad[-1] else attention_basic(q, *args, **kwargs)

    for _ in range(5):
        out = call(guard, sometimes, x, transformer_options={KEY: recorder, **PLACE})
        assert torch.allclose(out, attention_basic(x, x, x, 2), atol=1e-5)
    assert bad == [False, False, True] and backends(recorder) == [*["sometimes"] * 3, REPAIR, REPAIR]
    assert sum(recorder.patched.values()) == 3


def test_a_gate_around_the_override_of_others_lets_rules_be_kept(asked: Counter[str]) -> None:
    """Under a gate each call of the model has a router of its own, with the same parts."""

    def foreign(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        out: torch.Tensor = func(*args, **kwargs)
        return out

    model = patcher()
    model.model_options["transformer_options"][SLOT] = foreign
    for value in (GatePatches(where=Where(parse("all"), Schedule(0.0, 0.5))), Rule("basic", Where(parse("middle")))):
        model = attach(model, value)
    run(model, steps=4)
    assert asked["basic"] == 2
    counted = Counter(call.backend for call in last_run(model).calls.elements())
    assert counted["basic"] == 8 and 0 < counted[__name__] < counted.total() - 8
