"""A LoRA with rules baked in: by a plain loader it gives what the rules give."""

from __future__ import annotations

import re

import pytest
import torch
from attention_patchbay.ldm_patched.files.lora import load_lora
from attention_patchbay.ldm_patched.modules.weight_patches import WeightPatch, calculate_weight
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.reading.lora_baked import baked, idle
from attention_patchbay.ldm_patched.patches.reading.lora_layers import lora_layers
from attention_patchbay.ldm_patched.patches.routing.lora_rules import LoraRules
from attention_patchbay.ldm_patched.patches.routing.strengths import parse_strengths
from torch import Tensor

from .loras import entries, lora, patched
from .models import draw, patcher, run
from .test_branch import CASES
from .test_lora_layers import NAME, filled

ALL = entries()
TEXT = {"lora_te_text_model_encoder_layers_1_mlp_fc1.lora_up.weight": torch.ones(4, 2)}
TEXT |= {"lora_te_text_model_encoder_layers_1_mlp_fc1.lora_down.weight": torch.ones(2, 4)}


@pytest.mark.parametrize(
    "text",
    [
        "input:2-3 -> 0.3; middle -> 0; * -> 1",
        "cross -> -0.4; output:1 self -> 2; input -> 0.5",
        "input:3.1 -> 0; !middle -> 0.7",
        "* -> 0.8",
    ],
)
def test_a_baked_file_gives_what_the_rules_give(text: str) -> None:
    rules = parse_strengths(text)
    got = run(patched(baked(ALL, rules)))
    wanted = run(attach(patcher(), LoraRules(lora(ALL), rules, 1.0, Where())))
    assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (got - run(patched(ALL))).abs().max() > 1e-3 * wanted.abs().max()


def test_blocks_at_0_are_left_out_and_text_stays() -> None:
    kept = baked({**ALL, **TEXT}, parse_strengths("middle -> 1"))
    assert set(TEXT) <= set(kept) and all("middle" in key for key in set(kept) - set(TEXT))
    assert all(torch.equal(kept[key], {**ALL, **TEXT}[key]) for key in kept)


def changed(file: dict[str, Tensor], weight: Tensor, strength: float) -> Tensor:
    patches, _ = load_lora(file, {NAME: "x.weight"})
    return calculate_weight([WeightPatch(strength, patches["x.weight"])], weight, "x.weight", torch.float64)


GLORA = {"a1.weight": (24, 4), "a2.weight": (4, 24), "b1.weight": (32, 4), "b2.weight": (4, 24)}
OLD_GLORA = {"a1.weight": (4, 24), "a2.weight": (24, 4), "b1.weight": (4, 24), "b2.weight": (32, 4)}
SHAPES = {name: (module.weight.shape, shapes) for name, (module, shapes) in CASES.items()}
SHAPES |= {"glora": (torch.Size((32, 24)), GLORA), "early glora": (torch.Size((32, 24)), OLD_GLORA)}


@pytest.mark.parametrize("case", SHAPES)
def test_every_kind_is_scaled(case: str) -> None:
    shape, shapes = SHAPES[case]
    file, weight = filled(shapes, 1.5), draw(9, *shape).double()
    got = changed(baked(file, parse_strengths("* -> 0.3")), weight, 1.0)
    wanted = changed(file, weight, 0.3)
    moved = (wanted - weight).abs().max()
    assert (got - wanted).abs().max() < 1e-6 * moved and moved > 1e-3


def test_numbers_keep_their_dtype() -> None:
    kept = baked({key: value.half() for key, value in ALL.items()}, parse_strengths("* -> 0.3"))
    assert {value.dtype for value in kept.values()} == {torch.float16}


DORA = {"lora_up.weight": (32, 4), "lora_down.weight": (4, 24), "dora_scale": (32, 1)}


@pytest.mark.parametrize(
    ("shapes", "kind"), [(DORA, "dora"), ({"oft_blocks": (4, 8, 8)}, "oft"), ({"set_weight": (32, 24)}, "set")]
)
def test_what_cannot_be_scaled_is_refused(shapes: dict[str, tuple[int, ...]], kind: str) -> None:
    file = {**ALL, **filled(shapes, None)}
    file = {key: value for key, value in file.items() if not key.startswith(NAME) or key in filled(shapes, None)}
    with pytest.raises(ValueError, match=f"{NAME}: {kind} cannot be scaled in the file; .* 0 or 1, not 0.3"):
        baked(file, parse_strengths("* -> 0.3"))
    assert baked(file, parse_strengths("* -> 1")).keys() == file.keys()
    assert not any(key.startswith(NAME) for key in baked(file, parse_strengths("middle -> 0; * -> 1")))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("middle 0-40% -> 1; * -> 1", "the rule for 'middle 0-40%' holds in a part of the run"),
        ("double:3 -> 1; * -> 1", "this LoRA has no blocks 'double'; it has input, middle, output"),
        ("input:99 -> 1", "no layer of this file lies in 'input:99'; its blocks are input:0, input:1,"),
        ("input:99 -> 1; middle -> 0", "no layer of this file lies in 'input:99'; its blocks are input:0, input:1,"),
        ("* -> 0", "these rules leave nothing"),
        ("", "these rules leave nothing"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        baked(ALL, parse_strengths(text))


@pytest.mark.parametrize(
    "shapes",
    [
        {"lora_up.weight": (8, 5), "lora_down.weight": (4, 8)},
        {"hada_w1_a": (8, 2), "hada_w1_b": (3, 8), "hada_w2_a": (8, 2), "hada_w2_b": (2, 8)},
        {"lokr_w1": (2, 2), "lokr_w2_a": (4, 3), "lokr_w2_b": (2, 4)},
    ],
)
@pytest.mark.parametrize("strength", ["1", "0.5"])
def test_parts_that_do_not_fit_each_other_are_refused(shapes: dict[str, tuple[int, ...]], strength: str) -> None:
    file = {key: value for key, value in ALL.items() if not key.startswith(NAME)} | filled(shapes, 2.0)
    with pytest.raises(ValueError, match=f"{NAME}: its parts do not fit each other"):
        baked(file, parse_strengths(f"* -> {strength}"))
    assert not any(key.startswith(NAME) for key in baked(file, parse_strengths("input -> 1")))


def test_a_part_of_a_transformer_is_refused_by_names_alone() -> None:
    file = {
        f"lora_unet_double_blocks_{n}_img_mod_lin.lora_{end}.weight": torch.ones(2, 2)
        for n in (0, 1)
        for end in ("up", "down")
    }
    with pytest.raises(ValueError, match="no blocks 'middle'; it has double"):
        baked(file, parse_strengths("middle -> 0.5; * -> 1"))


def test_rules_that_take_nothing_are_told() -> None:
    rules = parse_strengths("input:9 -> 1; middle -> 1")
    assert idle(rules, lora_layers(ALL)[0]) == [rules[0]]
