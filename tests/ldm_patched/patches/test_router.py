from __future__ import annotations

import logging
import pickle
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import attention_basic, optimized_attention
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, BlockId, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.listed import LISTED
from attention_patchbay.ldm_patched.patches.engine.router import SLOT, Route, Router
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.record.plan import KEY, Entry
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.patches.routing.rule import BACKENDS, Rule

from .models import BLOCKS, STEPS, calls, draw, last_run, patcher, run


def test_a_foreign_override_stays_at_the_end_of_the_chain() -> None:
    seen: list[tuple] = []

    def foreign(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(kwargs["transformer_options"]["block"])
        return func(*args, **kwargs)

    model = patcher()
    model.model_options["transformer_options"][SLOT] = foreign
    routed = attach(attach(model, Rule("basic", Where(parse("middle")))), Rule("split", Where(parse("output cross"))))
    base = run(patcher())
    assert (run(routed) - base).abs().max() < 1e-4 * base.abs().max()
    assert len(seen) == STEPS * (2 * len(BLOCKS) - 2 - 6)
    assert ("middle", 0) not in seen
    assert calls(routed)["input:1", "self", __name__] == STEPS
    assert calls(routed)["output:0", "cross", "split"] == STEPS
    assert calls(routed)["middle", "self", "basic"] == STEPS


def test_a_later_rule_refines_an_earlier_one() -> None:
    model = attach(attach(patcher(), Rule("split")), Rule("basic", Where(parse("output:2 self"))))
    run(model)
    counted = calls(model)
    assert counted.pop(("output:2", "self", "basic")) == STEPS
    assert {name for _, _, name in counted} == {"split"}
    assert sum(counted.values()) == STEPS * (2 * len(BLOCKS) - 1)


def test_rules_hold_inside_a_replaced_attention() -> None:
    half = AttentionPatch("attn1.out", "identity", strength=0.5, where=Where(parse("middle")))
    model = attach(attach(patcher(), Rule("split", Where(parse("middle self")))), half)
    run(model)
    assert calls(model)["middle", "self", "split"] == STEPS


def test_a_rule_keeps_to_its_window() -> None:
    model = attach(patcher(), Rule("basic", Where(parse("all"), Schedule(0.0, 0.5))))
    run(model, steps=6)
    counted = calls(model)
    assert 0 < counted["middle", "self", "basic"] < 6
    assert counted["middle", "self", "basic"] + counted["middle", "self", "pytorch"] == 6


@pytest.mark.parametrize("backend", ["auto", "basic", "sub_quad", "split", "pytorch"])
def test_every_exact_function_gives_the_same_latents(backend: str) -> None:
    base = run(patcher())
    out = run(attach(patcher(), Rule(backend)))
    assert (out - base).abs().max() < 1e-4 * base.abs().max()


def test_a_function_that_cannot_run_falls_back_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    model = attach(patcher(), Rule("sage"))
    with caplog.at_level(logging.WARNING):
        out = run(model)
    assert torch.equal(out, run(patcher()))
    assert len(caplog.records) == 1
    assert "sage: sageattention is not installed" in caplog.text
    assert "Running pytorch instead" in caplog.text
    assert {row["note"] for row in report.table(last_run(model))} == {"instead of sage"}
    text = report.text(last_run(model))
    assert "40 fell back" in text and "blocks; its function ran in none of them and fell back" in text
    assert [row["ran"] for row in report.fates(last_run(model))] == [False]


def test_an_unknown_function_is_refused_before_sampling() -> None:
    with pytest.raises(ValueError, match="unknown attention function 'turbo'; choose one of auto, basic"):
        Rule("turbo")


def test_a_rule_for_blocks_the_model_lacks_is_refused() -> None:
    with pytest.raises(AddressError, match="no block 'output:11'"):
        attach(patcher(), Rule("basic", Where(parse("output:11"))))


# One call


def route(backend: str, *cells: tuple[BlockId, str | None]) -> Route:
    return Route(backend, Entry(backend), frozenset(cells) or None)


def test_the_first_rule_that_takes_a_call_decides() -> None:
    middle, other = BlockId("middle", 0), BlockId("output", 1)
    router = Router((route("basic", (middle, "self")), route("split", (middle, "self"), (other, "cross"))))
    recorder, q = Run(), draw(0, 1, 6, 16)
    for kind, block in (("self", middle), ("cross", middle), ("cross", other), ("self", other)):
        options = {SLOT: router, KEY: recorder, "block": block[:2], "block_index": 0}
        recorder.enter(kind, block)
        optimized_attention(q, q, q, 2, transformer_options=options)
    assert {(call.block, call.kind): call.backend for call in recorder.calls} == {
        (middle, "self"): "basic",
        (middle, "cross"): "pytorch",
        (other, "cross"): "split",
        (other, "self"): "pytorch",
    }


def test_every_argument_reaches_the_function() -> None:
    q, k, mask = draw(0, 2, 6, 16), draw(1, 2, 9, 16), draw(2, 6, 9) > 0
    wanted = attention_basic(q, k, k, 2, mask, scale=0.5)
    for router in (Router((route("split"),)), Router()):
        options = {SLOT: router}
        as_word = optimized_attention(q, k, k, 2, mask=mask, scale=0.5, transformer_options=options)
        in_place = optimized_attention(q, k, k, 2, mask, None, scale=0.5, transformer_options=options)
        assert (as_word - wanted).abs().max() < 1e-5
        assert (in_place - wanted).abs().max() < 1e-5
    q, k = (t.unflatten(2, (2, 8)).transpose(1, 2) for t in (q, k))
    heads = optimized_attention(q, k, k, 2, mask, skip_reshape=True, scale=0.5, transformer_options=options)
    assert (heads - wanted).abs().max() < 1e-5


def test_a_call_without_the_guard_of_the_hook_does_not_come_back() -> None:
    q = draw(0, 1, 6, 16)
    for router in (Router((route("basic"),)), Router()):
        out = router(optimized_attention, q, q, q, 2, transformer_options={SLOT: router})
        assert (out - attention_basic(q, q, q, 2)).abs().max() < 1e-5


@pytest.fixture
def quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a function that is not exact and takes no mask under the name of one this machine lacks."""
    fake = registry.Backend("sage", registry._registry["basic"].function, mask=False, exact=False)
    monkeypatch.setitem(registry._registry, "sage", fake)


@pytest.mark.usefixtures("quantised")
def test_a_rule_asks_for_each_call_whether_its_function_can_run_it(caplog: pytest.LogCaptureFixture) -> None:
    recorder, q = Run(), draw(0, 1, 6, 16)
    options = {SLOT: Router((route("sage"),)), KEY: recorder}
    with caplog.at_level(logging.WARNING):
        for extra in ({}, {"mask": torch.ones(6, 6, dtype=torch.bool)}, {"low_precision_attention": False}):
            for _ in range(3):
                optimized_attention(q, q, q, 2, transformer_options=options, **extra)
    assert {(call.backend, call.fallback): count for call, count in recorder.calls.items()} == {
        ("sage", ""): 3,
        ("pytorch", "sage: takes no mask"): 3,
        ("pytorch", "sage: is quantised, and the call asks for an exact kernel"): 3,
    }
    assert [record.getMessage() for record in caplog.records] == [
        "Attention Patchbay: sage: takes no mask. Running pytorch instead.",
        "Attention Patchbay: sage: is quantised, and the call asks for an exact kernel. Running pytorch instead.",
    ]


def test_a_fallback_is_said_again_in_the_next_run(caplog: pytest.LogCaptureFixture) -> None:
    model = attach(patcher(), Rule("sage3", Where(parse("middle"))))
    with caplog.at_level(logging.WARNING):
        run(model, steps=1)
        run(model, steps=1)
    assert len(caplog.records) == 2


def test_a_rule_for_all_kinds_holds_where_the_kind_is_unknown() -> None:
    for text, name in (("middle", "basic"), ("middle self", "pytorch")):
        model = attach(patcher(), Rule("basic", Where(parse(text))))
        del model.model_options["transformer_options"][LISTED]
        run(model, steps=1)
        assert calls(model)["middle", "-", name] == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rule_is_a_value(backend: str) -> None:
    rule = Rule(backend, Where(parse("input:3-, !m cross"), Schedule(0.1, 0.5)))
    assert pickle.loads(pickle.dumps(rule)) == rule
