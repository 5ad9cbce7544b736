from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.methods.attention_patch import BLOCK_SLOTS, SLOTS

from .conftest import NODES

AttentionPatchNode = NODES["PatchbayAttentionPatch"]
NEUTRAL = {
    "slot": "attn1.out",
    "operation": "scale",
    "value": 1.0,
    "strength": 1.0,
    "blocks": "all",
    "start_percent": 0.0,
    "end_percent": 1.0,
    "curve": "constant",
}


def apply(model: Any, **widgets: Any) -> Any:
    (patched,) = AttentionPatchNode.execute(model=model, **(NEUTRAL | widgets)).result
    return patched


def test_the_defaults_change_no_bit(model: Any, run: Callable) -> None:
    assert torch.equal(run(apply(model)), run(model))


@pytest.mark.parametrize("slot", SLOTS)
def test_strength_0_changes_no_bit_and_strength_1_changes_the_result(slot: str, model: Any, run: Callable) -> None:
    before = run(model)
    where = {"blocks": BLOCK_SLOTS[slot][1]} if slot in BLOCK_SLOTS else {}
    assert torch.equal(run(apply(model, slot=slot, operation="mean", strength=0.0, **where)), before)
    assert not torch.allclose(run(apply(model, slot=slot, operation="mean", **where)), before)


def test_channels_and_another_prompt_are_optional(model: Any, run: Callable) -> None:
    before = run(model)
    assert torch.equal(run(apply(model, operation="gain")), before)
    assert not torch.equal(run(apply(model, operation="gain", channels="0-7:0")), before)
    assert torch.equal(run(apply(model, slot="attn2.v", operation="towards")), before)
    prompt = [[torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(8)), {}]]
    assert not torch.equal(run(apply(model, slot="attn2.v", operation="towards", conditioning=prompt)), before)
    assert "cannot read" in str(AttentionPatchNode.validate_inputs(channels="a"))


def test_two_patches_act_one_after_the_other(model: Any, run: Callable) -> None:
    twice = apply(apply(model, value=2.0), value=1.5)
    torch.testing.assert_close(run(twice), run(apply(model, value=3.0)))


def test_the_input_model_is_not_changed(model: Any, run: Callable) -> None:
    before = run(model)
    run(apply(model, operation="zero"))
    assert torch.equal(run(model), before)


@pytest.mark.parametrize(
    ("widgets", "reason"),
    [
        ({"value": math.nan}, "value is nan"),
        ({"value": math.inf}, "value is inf"),
        ({"strength": 1.5}, "strength is 1.5"),
        ({"slot": "attn3.q"}, "attn2.out"),
        ({"slot": "attn1.v", "operation": "temperature"}, "scale, mean, zero"),
        ({"slot": "attn2.q", "operation": "temperature", "value": -1.0}, "above 0"),
        ({"blocks": "m, o5-3"}, "column 4"),
        ({"start_percent": math.nan}, "start_percent is nan"),
        ({"curve": "wobbly"}, "constant, linear, cosine"),
        ({"curve": "0:0, 0.5:inf"}, "0.5:inf"),
    ],
)
def test_wrong_widgets_are_refused_with_the_fix(widgets: dict[str, Any], reason: str) -> None:
    refusal = AttentionPatchNode.validate_inputs(**(NEUTRAL | widgets))
    assert isinstance(refusal, str) and reason in refusal


def test_linked_and_missing_widgets_are_not_judged() -> None:
    assert AttentionPatchNode.validate_inputs(**dict.fromkeys(NEUTRAL)) is True
    assert AttentionPatchNode.validate_inputs() is True


def test_a_block_that_the_model_lacks_is_refused_with_those_it_has(model: Any) -> None:
    with pytest.raises(ValueError, match=r"input:4.*input:1, middle, output:0, output:1"):
        apply(model, blocks="input:4")
