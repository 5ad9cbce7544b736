"""The inspector names what is on a model, whose it is, and why it does nothing."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.call import APPLY_MODEL, COMPILE
from attention_patchbay.ldm_patched.patches.methods.attention_temperature import AttentionTemperature
from attention_patchbay.ldm_patched.patches.reading.beside import beside
from attention_patchbay.ldm_patched.patches.reading.inspector import Finding, findings, fits, rows, text
from attention_patchbay.ldm_patched.patches.routing.rule import Rule

from .models import HALF, IDENTITY, STEPS, ZERO, patcher, run
from .test_contracts import Flux, Silent, WanModel, model

HERE = "tests.ldm_patched.patches.test_inspector" if __name__.startswith("tests.") else __name__


def passes(q: Any, k: Any, v: torch.Tensor, extra_options: Any) -> torch.Tensor:
    return v


def before(n: Any, context: Any, value: Any, extra_options: Any) -> tuple[Any, Any, Any]:
    return n, context, value


def found(patched: Any, name: str, samples: Any = None) -> Finding:
    (finding,) = [finding for finding in findings(patched, samples) if finding.owner.endswith(name)]
    return finding


def test_a_model_without_patches_has_no_findings() -> None:
    assert findings(patcher()) == []
    assert text(patcher(), []) == "UNet model, 10 transformer blocks, 0 patches."


def test_foreign_patches_are_named_by_module_and_function() -> None:
    patched = patcher()
    patched.set_model_attn1_patch(partial(before))
    patched.set_model_attn2_replace(passes, "input", 3, 1)
    assert found(patched, "before") == Finding("attn1_patch", "all", f"{HERE}.before", "-", None, None, "")
    assert found(patched, "passes").block == "input:3.1"


def test_calls_of_foreign_patches_are_counted_once_a_patch_of_ours_is_there() -> None:
    patched = patcher()
    patched.set_model_attn1_patch(before)
    patched.set_model_attn1_replace(passes, "middle", 0)
    plain = run(patched)
    watched = attach(patched, Rule("pytorch"))
    out, short = run(watched), run(watched, steps=1)
    assert torch.allclose(out, plain, atol=1e-5)
    assert (found(watched, "before", out).calls, found(watched, "passes", out).calls) == (10 * STEPS, STEPS)
    assert found(watched, "passes", out).seconds > 0.0  # type: ignore[operator]
    assert found(watched, "passes", short).calls == 1
    assert found(watched, "passes").calls is None and found(watched, "passes", plain + 1.0).calls is None


def test_a_foreign_patch_inside_a_stack_is_counted_too() -> None:
    patched = patcher()
    patched.set_model_attn1_replace(passes, "input", 3, 1)
    watched = attach(patched, HALF)
    finding = found(watched, "passes", run(watched))
    assert finding.calls == STEPS and not finding.trouble


@pytest.mark.parametrize("address", [("middle", 1), ("input", 2), ("input", 3, 2)])
def test_an_address_that_the_model_lacks_is_told(address: tuple[Any, ...]) -> None:
    patched = patcher()
    patched.set_model_attn1_replace(passes, *address)
    finding = found(patched, "passes")
    assert finding.trouble == "the model has no such block"
    assert finding.block == f"{address[0]}:{'.'.join(map(str, address[1:]))}"


def test_an_exact_address_hides_that_of_the_whole_block() -> None:
    patched = patcher()
    patched.set_model_attn1_replace(passes, "input", 3)
    patched.set_model_attn1_replace(partial(before), "input", 3, 0)
    assert found(patched, "passes").trouble == f"hidden by {HERE}.before on input:3.0"


def test_a_patch_that_was_never_called_is_told_after_the_run() -> None:
    patched = attach(patcher(), Rule("pytorch"))
    patched.set_model_patch(passes, "double_block")
    assert found(patched, "passes").trouble == ""
    assert found(patched, "passes", run(patched, steps=1)).trouble == "not called in the run"


def test_contracts_of_other_families_are_checked() -> None:
    flux, wan = model(Flux()), model(WanModel())
    for patched in (flux, wan):
        patched.set_model_attn1_patch(before)
        assert "call this slot with other arguments" in found(patched, "before").trouble
    flux.set_model_attn2_patch(partial(passes))
    assert found(flux, "passes").trouble == "Flux models never call this slot"
    silent = model(Silent())
    silent.set_model_attn1_patch(before)
    assert found(silent, "before").trouble == "Silent models never call this slot"


def test_ours_are_there_with_schedule_and_fate() -> None:
    late = type(ZERO)(ZERO.slot, ZERO.operation, where=Where(ZERO.address, Schedule(0.999, 1.0, "linear")))
    patched = attach(attach(patcher(), IDENTITY), late)
    assert [(finding.schedule, finding.calls) for finding in findings(patched) if "2. " in finding.owner] == [
        ("99.9-100% linear", None)
    ]
    after = findings(patched, run(patched, steps=1))
    (finding,) = [finding for finding in after if finding.owner.startswith("2. ")]
    assert finding.calls == 0 and finding.trouble.startswith("never ran, no step of the run lay in its window")
    assert all(not finding.trouble and finding.calls for finding in after if finding.owner[0] == "1")


def test_a_compiled_model_may_keep_a_graph_from_before_a_foreign_patch() -> None:
    patched = patcher()
    patched.set_model_attn1_patch(before)
    patched.add_wrapper_with_key(APPLY_MODEL, COMPILE, lambda executor, *args: executor(*args))
    assert "torch.compile may keep a graph" in found(patched, "before").trouble
    assert found(attach(patched, Rule("pytorch")), "before").trouble == ""


def test_text_and_json_hold_every_row() -> None:
    patched = attach(patcher(), Rule("pytorch"))
    patched.set_model_attn1_replace(passes, "middle", 1)
    listed = findings(patched, run(patched, steps=1))
    assert [row["slot"] for row in json.loads(json.dumps(rows(listed)))] == ["attn1", "override"]
    head, _, columns, *lines = text(patched, listed).split("\n")
    assert head == "UNet model, 10 transformer blocks, 2 patches, 1 of them without effect or at risk."
    assert columns.split() == ["slot", "block", "owner", "schedule", "calls", "time", "state"] and len(lines) == 2


class Silenced:
    """A callable whose signature cannot be read."""

    __signature__ = "none"

    def __call__(self, *args: Any) -> None: ...


def test_what_cannot_be_told_fits() -> None:
    assert fits(Silenced(), 3, ("pe",)) and fits(print, 2, ()) and fits(lambda *a, **k: None, 3, ("pe",))
    assert not fits(lambda a: None, 2, ())


def away(*args: Any, **kwargs: Any) -> torch.Tensor:
    raise AssertionError("never called")


def test_methods_that_others_put_in_the_place_of_the_network_s_are_listed() -> None:
    patched = patcher()
    there = "diffusion_model.input_blocks.3.1.transformer_blocks.1"
    patched.add_object_patch("diffusion_model.forward", partial(away))
    patched.add_object_patch(f"{there}.forward", away)
    patched.add_object_patch(f"{there}.attn2.forward", away)
    patched.add_object_patch("model_sampling", patched.get_model_object("model_sampling"))
    seen = [(finding.slot, finding.block, finding.owner, finding.trouble) for finding in findings(patched)]
    mine = f"{HERE}.away"
    assert seen == [
        ("model.forward", "all", mine, ""),
        ("block.forward", "input:3.1", mine, ""),
        ("attn2.forward", "input:3.1", mine, ""),
    ]
    watched = attach(patched, AttentionTemperature(2.0, where=Where.of("input:3 cross")))
    troubles = [finding.trouble for finding in findings(watched) if finding.owner == mine]
    assert troubles == ["", "", "patch 1 replaces this attention, so it is not called"]


def test_a_foreign_override_in_front_of_ours_is_not_called_dead() -> None:
    def theirs(func: Any, *args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    patched = attach(patcher(), Rule("basic"))
    patched.model_options["transformer_options"]["optimized_attention_override"] = theirs
    finding = found(patched, "theirs", run(patched, steps=1))
    assert finding.calls is None and not finding.trouble
    assert found(patched, "basic on all").trouble.endswith(".theirs took its place")
    inside = patcher()
    inside.model_options["transformer_options"]["optimized_attention_override"] = theirs
    watched = attach(inside, Rule("basic", Where.of("middle")))
    assert found(watched, "theirs", run(watched, steps=1)).calls == 18


def said(patched: Any) -> list[tuple[str, str]]:
    list_of = findings(patched)
    lines = beside(patched, list_of)
    assert len(lines) == len(list_of)
    return [(finding.slot, line) for finding, line in zip(list_of, lines, strict=True) if line]


def test_a_patch_says_what_it_replaces_and_what_it_keeps_from_being_called() -> None:
    patched = patcher()
    patched.set_model_attn1_patch(before)
    patched.set_model_attn1_replace(passes, "input", 3)
    patched.set_model_attn1_replace(partial(before), "input", 3, 0)
    patched.add_object_patch("diffusion_model.middle_block.1.transformer_blocks.0.attn2.forward", away)
    watched = attach(attach(patched, IDENTITY), AttentionTemperature(2.0, where=Where.of("middle cross")))
    mine = [(f"{HERE}.passes on input:3", f"{HERE}.before on input:3.0")]
    ((whole, exact),) = mine
    assert said(watched) == [
        ("attn1", f"around {whole}; around {exact}"),
        ("attn1", f"around {whole}"),
        ("attn2", f"goes round {HERE}.away on middle.0"),
        ("attn1", "in the place of the self-attention"),
        ("attn1", f"in the place of the self-attention; hides {whole}"),
        ("attn2.forward", "in the place of the model's own attn2.forward"),
    ]


def test_an_override_says_for_which_calls_and_what_is_gone_says_nothing() -> None:
    def theirs(func: Any, *args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    inside = patcher()
    inside.model_options["transformer_options"]["optimized_attention_override"] = theirs
    place = "in the place of the attention function"
    behind = attach(inside, Rule("basic"))
    assert said(behind) == [("override", f"{place}; for the calls that no rule of Patchbay takes")]
    behind.model_options["transformer_options"]["optimized_attention_override"] = theirs
    assert said(behind) == [("override", place)]
