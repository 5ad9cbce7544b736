"""The nodes that manage patches: what they take off, copy, save and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.engine.inventory import placed
from attention_patchbay.ldm_patched.patches.record.plan import entries
from attention_patchbay.nodes.manage import CopyPatches, PatchPreset, RemovePatches

from .conftest import NODES

WINDOW: dict[str, Any] = {"start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}
ZERO = {"slot": "attn1.out", "operation": "zero", "value": 1.0, "strength": 1.0, "blocks": "middle", **WINDOW}
EVERYTHING = {"slot": "all", "owner": "all", "blocks": "all"}


def patched(model: Any) -> Any:
    model = NODES["PatchbayAttentionPatch"].execute(model=model, **ZERO).args[0]
    return (
        NODES["PatchbayPerturbedGuidance"].execute(model=model, scale=2.0, blocks="middle, output:0", **WINDOW).args[0]
    )


def test_removed_patches_are_gone_and_named(model: Any, run: Callable) -> None:
    base, both = run(model), patched(model)
    changed = run(both)
    clone, lines = RemovePatches.execute(model=both, **EVERYTHING).args
    assert torch.equal(run(clone), base)
    assert lines.splitlines() == [
        "removed zero attn1.out on middle",
        "removed perturbed-attention guidance 2 on middle, output:0",
    ]
    assert torch.equal(run(both), changed)


@pytest.mark.parametrize(
    ("widgets", "left"),
    [
        ({"slot": "sampler_post_cfg_function"}, ["zero attn1.out on middle"]),
        ({"owner": "Guidance"}, ["zero attn1.out on middle"]),
        ({"owner": "zero attn1"}, ["perturbed-attention guidance 2 on middle, output:0"]),
        ({"blocks": "m"}, ["perturbed-attention guidance 2 on middle, output:0, !middle"]),
    ],
)
def test_patches_are_selected_by_the_widgets(widgets: dict[str, Any], left: list[str], model: Any) -> None:
    clone = RemovePatches.execute(model=patched(model), **EVERYTHING | widgets).args[0]
    assert [entry.name for entry in entries(clone)] == left


def test_a_rule_is_removed_as_the_override(model: Any) -> None:
    widgets = {"backend": "basic", "blocks": "all", "kind": "all", "start_percent": 0.0, "end_percent": 1.0}
    ruled = NODES["PatchbayAttentionBackend"].execute(model=patched(model), **widgets).args[0]
    clone = RemovePatches.execute(model=ruled, **EVERYTHING | {"slot": "override"}).args[0]
    assert len(entries(clone)) == 2 and "override" not in {part.slot for part in placed(clone)}


def test_nothing_to_remove_is_an_error(model: Any) -> None:
    with pytest.raises(ValueError, match="no patch to remove .* the model has\n- zero attn1.out on middle"):
        RemovePatches.execute(model=patched(model), **EVERYTHING | {"owner": "nodes_pag"})


@pytest.mark.parametrize(("wrong", "reason"), [({"blocks": "nowhere"}, "nowhere"), ({"owner": " "}, "owner is empty")])
def test_wrong_widgets_of_a_removal_are_refused(wrong: dict[str, Any], reason: str) -> None:
    assert reason in str(RemovePatches.validate_inputs(**{"owner": "all", "blocks": "all"} | wrong))
    assert (
        RemovePatches.validate_inputs() is True and RemovePatches.validate_inputs(owner="all", blocks="middle") is True
    )


def test_copied_patches_act_as_the_nodes_would(model: Any, run: Callable) -> None:
    base = run(model)
    source = patched(model)
    clone = CopyPatches.execute(model=model, source=source, foreign=False).args[0]
    assert torch.equal(run(clone), run(source)) and torch.equal(run(model), base)
    source.set_model_attn1_output_patch(lambda n, extra_options: n * 1.5)
    foreign = CopyPatches.execute(model=model, source=source, foreign=True).args[0]
    assert torch.equal(run(foreign), run(source)) and not torch.equal(run(foreign), run(clone))


def test_the_text_of_a_preset_makes_the_same_model_again(model: Any, run: Callable) -> None:
    source = patched(model)
    output = PatchPreset.execute(model=source, preset="")
    text = output.args[1]
    assert output.ui == {"text": [text]}
    assert [patch["type"] for patch in json.loads(text)["patches"]] == ["AttentionPatch", "Guidance"]
    assert PatchPreset.validate_inputs(preset=text) is True
    clone, again = PatchPreset.execute(model=model, preset=text).args
    assert again == text
    assert torch.equal(run(clone), run(source)) and not torch.equal(run(clone), run(model))


def test_a_wrong_preset_is_refused_before_anything_runs() -> None:
    wrong = PatchPreset.validate_inputs(preset='{"patchbay": 1, "patches": [{"type": "X"}]}')
    assert isinstance(wrong, str) and "unknown type 'X'" in wrong
    assert PatchPreset.validate_inputs() is True and PatchPreset.validate_inputs(preset="") is True
