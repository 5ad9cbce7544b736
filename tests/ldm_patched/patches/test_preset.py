"""Presets: what is written is what is read, and what cannot be read is named."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import Address, AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.attention_patch import (
    ATTENTION_SLOTS,
    AttentionPatch,
    operations_for,
)
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word
from attention_patchbay.ldm_patched.patches.methods.live_mask import LiveMask
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference
from attention_patchbay.ldm_patched.patches.methods.sliding_window_guidance import SlidingWindowGuidance
from attention_patchbay.ldm_patched.patches.methods.smoothed_guidance import SmoothedGuidance
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.reading.declared import declared
from attention_patchbay.ldm_patched.patches.reading.presets import (
    Preset,
    from_json,
    preset_of,
    put_preset,
    savable,
    to_json,
)
from attention_patchbay.ldm_patched.patches.record.plan import entries
from attention_patchbay.ldm_patched.patches.routing.rule import BACKENDS, Rule
from hypothesis import given, settings
from hypothesis import strategies as st

from .models import HALF, ZERO, patcher, run, unchanged

PERCENTS = st.floats(0.0, 1.0)
TERMS = st.sampled_from(
    ["all", "i4", "input:7-8", "m", "middle.1", "output:3-", "o3.1", "!o5", "double:0-18", "single"]
)
CURVES = st.sampled_from(["constant", "linear", "cosine", "0:0, 0.5:1, 1:0"])
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def addresses(draw: st.DrawFn, kinds: tuple[str, ...]) -> Address:
    terms = ", ".join(draw(st.lists(TERMS, min_size=1, max_size=3)))
    return parse(f"{terms} {draw(st.sampled_from(('', *kinds)))}")


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    start, end = sorted(draw(st.tuples(PERCENTS, PERCENTS)))
    return Schedule(start, end, draw(CURVES))


@st.composite
def attention_patches(draw: st.DrawFn) -> AttentionPatch:
    slot = draw(st.sampled_from(ATTENTION_SLOTS))
    operation = draw(st.sampled_from(operations_for(slot)))
    value = draw(FINITE.filter(lambda x: operation in ("scale", "mean", "zero") or x > 0))
    kind = "self" if slot.startswith("attn1") else "cross"
    where = Where(draw(addresses((kind,))), draw(schedules()))
    return AttentionPatch(slot, operation, value, draw(PERCENTS), where)


WHERES = st.builds(Where, addresses(("self",)), schedules())
BLURS = st.floats(0.0, math.inf, exclude_min=True)
RULES = st.builds(Rule, st.sampled_from(BACKENDS), st.builds(Where, addresses(("self", "cross")), schedules()))
GUIDANCES = st.one_of(
    st.builds(PerturbedGuidance, scale=FINITE, where=WHERES),
    st.builds(SmoothedGuidance, scale=FINITE, blur=BLURS, where=WHERES),
)
LEFT_OUT = st.lists(st.tuples(st.text(), st.text()), max_size=2).map(tuple)


@given(st.lists(st.one_of(RULES, attention_patches(), GUIDANCES), max_size=4), LEFT_OUT)
@settings(max_examples=150)
def test_what_is_written_is_read(values: list[Any], left_out: tuple[tuple[str, str], ...]) -> None:
    preset = Preset(tuple(values), left_out)
    text = to_json(preset)
    assert from_json(text) == preset
    assert to_json(from_json(text)) == text
    assert json.loads(text)["patchbay"] == 1


def test_a_preset_is_readable() -> None:
    guidance = SmoothedGuidance(scale=2.0, where=Where(parse("middle, o0-1"), Schedule(0.0, 0.5)))
    assert json.loads(to_json(Preset((guidance,)))) == {
        "patchbay": 1,
        "patches": [
            {
                "type": "Guidance",
                "weakening": {"type": "SmoothedEnergy", "sigma": "inf"},
                "scale": 2.0,
                "address": "middle, output:0-1",
                "schedule": {"start_percent": 0.0, "end_percent": 0.5, "curve": "constant"},
            }
        ],
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "preset, this is not JSON: .*line 1 column 2"),
        ("[" * 100_000, "preset, this is not JSON"),
        ("[]", "preset, its shape: write"),
        ('{"patchbay": 1, "patches": {}}', "preset, its shape: write"),
        ('{"patchbay": 2, "patches": []}', "preset, its version: it is 2; this pack reads 1"),
        ('{"patches": []}', "preset, its version: it is None"),
        ('{"patchbay": 1, "patch": []}', "unknown field 'patch'; there are patchbay, patches, left_out"),
        ('{"patchbay": 1, "left_out": ["x"]}', "preset, left_out: write objects with name and reason"),
        ('{"patchbay": 1, "patches": [3]}', 'preset, patch 1: write an object such as {"type": "AttentionPatch", ...}'),
        ('{"patchbay": 1, "patches": [{"type": "Rule"}, {"type": "Foo"}]}', "preset, patch 2: unknown type 'Foo'"),
        (
            '{"patchbay": 1, "patches": [{"type": "Perturbed"}]}',
            "unknown type 'Perturbed'; choose one of AttentionPatch",
        ),
    ],
)
def test_a_wrong_preset_is_refused_with_the_place(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        from_json(text)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"slit": 1}, "unknown field 'slit'; there are slot, operation, value, strength, address, schedule"),
        ({"value": "1"}, '.value: "1" is not a number'),
        ({"value": True}, ".value: true is not a number"),
        ({"value": 10**400}, ".value: int too large"),
        ({"value": "inf"}, ": value is inf; give a finite number"),
        ({"slot": None}, ".slot: null is not text"),
        ({"slot": "attn3.q"}, ": unknown slot 'attn3.q'"),
        ({"address": "middle, inptu:3"}, ".address: block address, column 9: unknown block 'inptu'"),
        ({"schedule": [0, 1]}, ".schedule: write an object with start_percent, end_percent, curve"),
        ({"schedule": {"end": 1}}, ".schedule: unknown field 'end'"),
        ({"schedule": {"curve": "zigzag"}}, ".schedule: curve: cannot read 'zigzag'"),
    ],
)
def test_a_wrong_field_is_refused_by_name(fields: dict[str, Any], reason: str) -> None:
    text = json.dumps({"patchbay": 1, "patches": [{"type": "AttentionPatch", **fields}]})
    with pytest.raises(ValueError) as refusal:
        from_json(text)
    assert str(refusal.value).startswith("preset, patch 1 AttentionPatch")
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"length": 3.5}, ".length: 3.5 is not a whole number"),
        ({"side": 1}, ".side: 1 is not text"),
        ({"heads": 1}, ".heads: 1 is not a list"),
        ({"heads": ["x"]}, '.heads[0]: "x" is not a whole number'),
        ({"words": [{"type": "Odd"}]}, ".words[0]: unknown type 'Odd'; choose one of Word"),
    ],
)
def test_a_field_of_another_type_is_refused(fields: dict[str, Any], reason: str) -> None:
    given = {"type": "Capture", "words": [{"type": "Word", "text": "red", "positions": [1]}]}
    assert from_json(json.dumps({"patchbay": 1, "patches": [given]})).patches == (
        Capture((Word("red", (1,)),), where=Where()),
    )
    with pytest.raises(ValueError) as refusal:
        from_json(json.dumps({"patchbay": 1, "patches": [given | fields]}))
    assert reason in str(refusal.value)
    with pytest.raises(ValueError, match="the field 'words' is missing"):
        from_json(json.dumps({"patchbay": 1, "patches": [{"type": "Capture"}]}))


def test_what_text_cannot_hold_is_left_out_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    model = attach(attach(patcher(), AttentionPatch("attn2.k", "towards", other=torch.zeros(1, 7, 16))), ZERO)
    model = attach(model, Reference(torch.zeros(1, 4, 8, 8)))
    model.set_model_attn1_output_patch(lambda n, extra_options: n)
    preset = from_json(to_json(preset_of(model)))
    assert preset.patches == (ZERO,)
    (foreign, why), *ours = preset.left_out
    assert __name__ in foreign and why == "a patch of another pack"
    assert ours == [
        ("towards attn2.k on all", "AttentionPatch.other is a Tensor, which text cannot hold"),
        ("reference attention on all", "presets do not know Reference"),
    ]
    with caplog.at_level(logging.WARNING):
        put_preset(patcher(), preset)
    assert "the preset does not hold reference attention on all: presets do not know Reference" in caplog.text


def test_a_loaded_preset_is_what_the_nodes_themselves_would_have_put() -> None:
    values = [ZERO, Rule("basic"), HALF, PerturbedGuidance(scale=1.0, where=Where(parse("middle")))]
    model = patcher()
    with unchanged(model):
        loaded = put_preset(model, Preset(tuple(values)))  # type: ignore[arg-type]
    assert [entry.value for entry in entries(loaded)] == values
    by_hand = attach(attach(put_preset(model, Preset((ZERO, Rule("basic")))), HALF), values[3])
    assert torch.equal(run(loaded), run(by_hand))
    assert preset_of(loaded) == Preset(tuple(values))  # type: ignore[arg-type]


def test_an_empty_preset_changes_nothing() -> None:
    model = patcher()
    assert from_json(" \n") == from_json(to_json(Preset())) == Preset()
    clone = put_preset(model, Preset())
    assert clone is not model and torch.equal(run(clone), run(model))


def test_an_address_that_the_model_lacks_names_the_patch() -> None:
    with pytest.raises(AddressError, match="zero attn1.out on input:9: block address"):
        put_preset(patcher(), Preset((dataclasses.replace(ZERO, where=Where(parse("input:9"))),)))


def test_every_method_can_be_saved_but_those_that_hold_pictures_prompts_or_files() -> None:
    hold_tensors = {"LoraRules", "NormalizedGuidance", "Reference", "RegionalPrompt", "StyleTransfer", "WordMask"}
    assert {cls.__name__ for cls in declared()} - {cls.__name__ for cls in savable()} == hold_tensors


def test_every_kind_of_patch_comes_back_from_its_text() -> None:
    """With values of their own where a kind has no defaults."""
    given: dict[str, tuple[Any, ...]] = {
        "WordWeight": ((1, 4), 0.5),
        "WeightedPrompt": ((1, 4), (1.5, -1.0)),
        "PromptToPrompt": ((0, 5, 6), (0, 7, 6)),
        "Capture": ((Word("red", (1,)), Word("blue square", (4, 5))), 12),
        "LiveMask": ((Word("red", (1,)),), 12),
        "LiveWordMask": ((1,), LiveMask((Word("cat", (2,)),), 12, then="grow"), 12),
        "PointCapture": (((0.25, 0.5), (1.0, 0.0)),),
    }
    values: tuple[Any, ...] = tuple(cls(*given.get(cls.__name__, ())) for cls in savable())
    values += (SlidingWindowGuidance(scale=1.5, size=0.25, where=Where(parse("middle, input:3"))), WordWeight(()))
    assert from_json(to_json(Preset(values))) == Preset(values)
