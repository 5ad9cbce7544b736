from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import optimized_attention
from attention_patchbay.ldm_patched.patches import report
from attention_patchbay.ldm_patched.patches.attach import attach_patch, attach_rule, recorder_of
from attention_patchbay.ldm_patched.patches.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.router import SLOT, Router, Rule
from attention_patchbay.ldm_patched.patches.schedule import Schedule
from attention_patchbay.ldm_patched.patches.targets import AddressError, parse

from .models import BLOCKS, STEPS, patcher, run, unchanged

ZERO = AttentionPatch("attn1.out", "zero", address=parse("middle"))
IDENTITY = AttentionPatch("attn1.out", "identity", address=parse("input:3"))


def calls(model: Any) -> dict[tuple[str, str, str], int]:
    """Return the counted calls as (block, kind, function) -> count."""
    return {(row["block"], row["attention"], row["function"]): row["calls"] for row in report.table(recorder_of(model))}


# No leaks


@pytest.mark.parametrize("patch", [ZERO, IDENTITY], ids=["list", "replace"])
def test_the_input_model_and_its_other_clones_stay_as_they_were(patch: AttentionPatch) -> None:
    model = patcher()
    base = run(model)
    other = model.clone()
    with unchanged(model), unchanged(other):
        patched = attach_patch(model, patch)
        run(patched)
        attach_patch(patched, patch)
        attach_rule(patched, Rule("split"))
    assert torch.equal(run(model), base)
    assert torch.equal(run(other), base)
    assert not torch.equal(run(patched), base)


def test_running_a_node_again_on_a_cached_model_adds_nothing_up() -> None:
    model = patcher()
    upstream = attach_patch(model, AttentionPatch("attn1.out", "scale", 1.5))
    once = run(attach_patch(upstream, AttentionPatch("attn1.out", "scale", 1.5)))
    for _ in range(3):
        again = attach_patch(upstream, AttentionPatch("attn1.out", "scale", 1.5))
        assert torch.equal(run(again), once)
        assert len(recorder_of(again).entries) == 2
        assert len(again.model_options["transformer_options"]["patches"]["attn1_output_patch"]) == 2
        assert len(again.get_all_callbacks("on_pre_run")) == 1


def test_sampling_leaves_nothing_in_the_model() -> None:
    patched = attach_rule(attach_patch(patcher(), IDENTITY), Rule("basic"))
    with unchanged(patched):
        run(patched)


def test_clones_do_not_share_a_recorder() -> None:
    upstream = attach_rule(patcher(), Rule("pytorch"))
    left, right = attach_patch(upstream, ZERO), attach_patch(upstream, IDENTITY)
    run(left)
    assert sum(recorder_of(left).calls.values()) == len(BLOCKS) * 2 * STEPS
    assert not recorder_of(right).calls
    assert not recorder_of(upstream).calls


# Foreign patches


def test_a_foreign_replace_patch_becomes_the_innermost() -> None:
    seen: list[str] = []

    def foreign(q: Any, k: Any, v: Any, extra_options: dict) -> torch.Tensor:
        seen.append("foreign")
        return optimized_attention(q, k, v, extra_options["n_heads"], transformer_options=extra_options) * 0.5

    for address in (("input", 3), ("input", 3, 1)):
        model = patcher()
        model.set_model_attn1_replace(foreign, *address)
        base = run(model)
        seen.clear()
        half = AttentionPatch("attn1.out", "identity", strength=0.5, address=parse("input:3"))
        out = run(attach_patch(model, half))
        assert len(seen) == STEPS * (2 if len(address) == 2 else 1)
        assert not torch.equal(out, base)


def test_the_longer_and_the_shorter_address_of_a_slot_both_run() -> None:
    seen: list[tuple] = []

    def foreign(name: str) -> Any:
        def patch(q: Any, k: Any, v: Any, extra_options: dict) -> torch.Tensor:
            seen.append((name, extra_options["block_index"]))
            return v

        return patch

    model = patcher()
    model.set_model_attn1_replace(foreign("pair"), "input", 3)
    model.set_model_attn1_replace(foreign("triple"), "input", 3, 0)
    run(attach_patch(model, AttentionPatch("attn1.out", "identity", strength=0.5, address=parse("input:3"))), steps=1)
    assert sorted(seen) == [("pair", 1), ("triple", 0)]


def test_a_foreign_override_stays_at_the_end_of_the_chain() -> None:
    seen: list[tuple] = []

    def foreign(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(kwargs["transformer_options"]["block"])
        return func(*args, **kwargs)

    model = patcher()
    model.model_options["transformer_options"][SLOT] = foreign
    routed = attach_rule(attach_rule(model, Rule("basic", parse("middle"))), Rule("split", parse("output cross")))
    base = run(patcher())
    assert (run(routed) - base).abs().max() < 1e-4 * base.abs().max()
    assert len(seen) == STEPS * (2 * len(BLOCKS) - 2 - 6)
    assert ("middle", 0) not in seen
    assert calls(routed)["input:1", "self", "foreign"] == STEPS
    assert calls(routed)["output:0", "cross", "split"] == STEPS
    assert calls(routed)["middle", "self", "basic"] == STEPS


# Rules


def test_a_later_rule_refines_an_earlier_one() -> None:
    model = attach_rule(attach_rule(patcher(), Rule("split")), Rule("basic", parse("output:2 self")))
    run(model)
    counted = calls(model)
    assert counted.pop(("output:2", "self", "basic")) == STEPS
    assert {name for _, _, name in counted} == {"split"}
    assert sum(counted.values()) == STEPS * (2 * len(BLOCKS) - 1)


def test_rules_hold_inside_a_replaced_attention() -> None:
    half = AttentionPatch("attn1.out", "identity", strength=0.5, address=parse("middle"))
    model = attach_patch(attach_rule(patcher(), Rule("split", parse("middle self"))), half)
    run(model)
    assert calls(model)["middle", "self", "split"] == STEPS


def test_a_rule_keeps_to_its_window() -> None:
    model = attach_rule(patcher(), Rule("basic", parse("all"), Schedule(0.0, 0.5)))
    run(model, steps=6)
    counted = calls(model)
    assert 0 < counted["middle", "self", "basic"] < 6
    assert counted["middle", "self", "basic"] + counted["middle", "self", "pytorch"] == 6


@pytest.mark.parametrize("backend", ["auto", "basic", "sub_quad", "split", "pytorch"])
def test_every_exact_function_gives_the_same_latents(backend: str) -> None:
    base = run(patcher())
    out = run(attach_rule(patcher(), Rule(backend)))
    assert (out - base).abs().max() < 1e-4 * base.abs().max()


def test_a_function_that_cannot_run_falls_back_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    model = attach_rule(patcher(), Rule("sage"))
    with caplog.at_level(logging.WARNING):
        out = run(model)
    assert torch.equal(out, run(patcher()))
    assert len(caplog.records) == 1
    assert "sage: sageattention is not installed" in caplog.text
    assert "Running pytorch instead" in caplog.text
    assert {row["note"] for row in report.table(recorder_of(model))} == {"instead of sage"}
    assert "80 fell back" in report.text(recorder_of(model))


def test_an_unknown_function_is_refused_before_sampling() -> None:
    with pytest.raises(ValueError, match="unknown attention function 'turbo'; choose one of auto, basic"):
        Rule("turbo")


def test_a_rule_for_blocks_the_model_lacks_is_refused() -> None:
    with pytest.raises(AddressError, match="no block 'output:11'"):
        attach_rule(patcher(), Rule("basic", parse("output:11")))


def test_the_router_has_no_container_function() -> None:
    assert not hasattr(Router(), "container_function")


# Report


def test_the_report_counts_every_call_and_patch() -> None:
    model = attach_patch(attach_patch(patcher(), ZERO), IDENTITY)
    run(model)
    recorder = recorder_of(model)
    text = report.text(recorder)
    assert text.startswith(f"{2 * len(BLOCKS) * STEPS - 2 * STEPS} attention calls: pytorch")
    assert "1. zero attn1.out on middle: ran 4 times in 1 of 1 blocks" in text
    assert "2. identity attn1.out on input:3: ran 8 times in 2 of 2 blocks" in text
    rows = {(row["block"], row["attention"]): row for row in report.table(recorder)}
    assert rows["middle", "self"]["patches"] == "zero attn1.out on middle x4"
    assert rows["middle", "self"]["heads"] == "4 x 16"
    assert rows["middle", "cross"]["patches"] == ""


def test_the_report_names_patches_that_never_ran() -> None:
    late = AttentionPatch("attn1.out", "zero", address=parse("middle"), schedule=Schedule(0.4, 0.5))
    neutral = AttentionPatch("attn1.out", "zero", strength=0.0)
    model = attach_patch(attach_patch(patcher(), late), neutral)
    run(model)
    text = report.text(recorder_of(model))
    assert "1. zero attn1.out on middle: never ran" in text
    assert "2. zero attn1.out on all: never ran" in text


def test_a_replaced_slot_shows_as_a_patch_that_never_ran() -> None:
    model = attach_patch(patcher(), IDENTITY)
    for index in (0, 1):
        model.set_model_attn1_replace(lambda q, k, v, extra_options: v, "input", 3, index)
    run(model)
    assert "1. identity attn1.out on input:3: never ran" in report.text(recorder_of(model))


def test_the_report_starts_again_with_every_run() -> None:
    model = attach_patch(patcher(), ZERO)
    assert "sample with this model first" in report.text(recorder_of(model))
    for _ in range(2):
        run(model)
        assert "ran 4 times" in report.text(recorder_of(model))


def test_the_report_of_an_untouched_model_says_so() -> None:
    assert report.text(recorder_of(patcher())) == report.NOTHING
    assert report.table(None) == []
