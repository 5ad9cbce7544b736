"""The life of a patch on a model: it is on its own clone only, and gone with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.inventory import placed
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.reading.manage import Selection, copy_patches, put, remove_patches
from attention_patchbay.ldm_patched.patches.record.plan import entries
from attention_patchbay.ldm_patched.patches.routing.rule import Rule

from .models import HALF, ZERO, patcher, run, unchanged

VALUES = [ZERO, HALF, Rule("basic"), PerturbedGuidance(scale=2.0, where=Where(parse("middle")))]
MEAN = AttentionPatch("attn2.out", "mean", strength=0.5, where=Where(parse("output:0")))
each = pytest.mark.parametrize("value", VALUES, ids=lambda value: value.name)


def count(model: Any) -> tuple[int, int]:
    """Return how many patches and callbacks are on a model."""
    return len(list(placed(model))), sum(map(len, (model.get_all_callbacks(m) for m in model.callbacks)))


@each
def test_neither_the_input_nor_another_clone_changes(value: Any) -> None:
    model = put(patcher(), MEAN)
    other, base = put(model, HALF), run(model)
    wanted = run(other)
    with unchanged(model), unchanged(other):
        patched = put(model, value)
        run(patched)
        copy_patches(patched, other)
        remove_patches(patched, Selection())
    assert torch.equal(run(model), base) and torch.equal(run(other), wanted)
    assert not torch.equal(run(patched), base)


@each
def test_it_is_gone_when_its_node_is_bypassed(value: Any) -> None:
    upstream = put(patcher(), MEAN)
    wanted = run(put(upstream, HALF))
    run(put(put(upstream, value), HALF))
    assert torch.equal(run(put(upstream, HALF)), wanted)


@each
def test_nothing_adds_up_on_a_cached_upstream(value: Any) -> None:
    upstream = put(patcher(), MEAN)
    once = put(upstream, value)
    wanted = run(once)
    for _ in range(3):
        run(upstream)
        again = put(upstream, value)
        assert torch.equal(run(again), wanted) and torch.equal(run(again), wanted)
        assert count(again) == count(once) and len(entries(again)) == 2
