"""LoRA by rules: against patched weights, by block and by step."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.inventory import placed
from attention_patchbay.ldm_patched.patches.engine.lora import kind_of
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.reading.inspector import findings
from attention_patchbay.ldm_patched.patches.reading.manage import Selection, copy_patches, remove_patches
from attention_patchbay.ldm_patched.patches.routing.lora_rules import LoraRules
from attention_patchbay.ldm_patched.patches.routing.rules import RuleError
from attention_patchbay.ldm_patched.patches.routing.strengths import StrengthRule, parse_strengths
from attention_patchbay.ldm_patched.sampling import samplers
from torch import Tensor

from .loras import entries, layers, lora, patched
from .models import STEPS, conditioning, draw, last_run, patcher, run, unchanged

ALL = entries()
SHARED = json.loads((Path(__file__).parents[2] / "data" / "lora_rules.json").read_text())  # with the page


def close(got: Tensor, wanted: Tensor) -> bool:
    return bool((got - wanted).abs().max() < 1e-5 * wanted.abs().max())


def by_rules(text: str, file: dict[str, Tensor] = ALL) -> LoraRules:
    return LoraRules(lora(file), parse_strengths(text), 1.0, Where())


def ruled(text: str, file: dict[str, Tensor] = ALL) -> Any:
    return attach(patcher(), by_rules(text, file))


@pytest.mark.parametrize("strength", [1.0, -0.4])
def test_one_strength_everywhere_is_a_model_with_patched_weights(strength: float) -> None:
    base, got = run(patcher()), run(ruled(f"* -> {strength}"))
    assert close(got, run(patched(ALL, strength)))
    assert (got - base).abs().max() > 0.1 * base.abs().max()
    halved = attach(patcher(), LoraRules(lora(ALL), parse_strengths(f"* -> {2 * strength}"), 0.5, Where()))
    assert close(run(halved), got)


@pytest.mark.parametrize(
    "text", ["* -> 0", "", "* 0-0% -> 1", "input:1 -> 0\n* -> 0  # nothing", "* -> 0; * -> 1", "input:11 -> 0; * -> 0"]
)
def test_strength_0_is_the_plain_model_to_the_bit(text: str) -> None:
    text = text.replace("input:11", "input:2")
    assert torch.equal(run(ruled(text)), run(patcher()))


# rules with one strength, and the paths of the layers that they are to take
RULES: dict[str, Callable[[str], bool]] = {
    "input:1 -> 0.7": lambda path: path.startswith("input_blocks.1."),
    "input:2 -> 0.7": lambda path: path.startswith("input_blocks.2."),
    "input:3.1 -> 0.7": lambda path: path.startswith("input_blocks.3.1.transformer_blocks.1."),
    "middle -> 0.7": lambda path: path.startswith("middle_block."),
    "output:0-1, !output:1 -> 0.7": lambda path: path.startswith("output_blocks.0."),
    "!input, !output -> 0.7": lambda path: not path.startswith(("input_blocks.", "output_blocks.")),
    "cross -> 0.7": lambda path: ".attn2." in path,
    "middle self -> 0.7": lambda path: path.startswith("middle_block.") and ".attn1." in path,
    "middle -> 0.7; * -> 0": lambda path: path.startswith("middle_block."),
    "output -> 0; middle -> 0; * -> 0.7": lambda path: not path.startswith(("middle_block.", "output_blocks.")),
    "* 0-0% -> 5; * -> 0.7": lambda path: True,
}


@pytest.mark.parametrize("text", RULES)
def test_a_rule_is_weights_patched_in_its_blocks_alone(text: str) -> None:
    wanted = RULES[text]
    assert 0 < len(layers(wanted)) <= len(layers())
    file = {
        key: value
        for path in layers(wanted)
        for key, value in ALL.items()
        if key.startswith(f"lora_unet_{path.replace('.', '_')}.")
    }
    assert close(run(ruled(text)), run(patched(file, 0.7)))


def test_a_window_is_two_runs_spliced_by_hand() -> None:
    """The first of three steps has another LoRA strength than the others."""

    def part(model: Any, noise: Tensor, latent: Tensor, first: int, last: int) -> Tensor:
        given = (model, noise, conditioning(1), conditioning(2), 4.0, 3, "euler", "normal", 1.0, first, last)
        return samplers.sample(*given, seed=0, latent_image=latent)

    noise, nothing = draw(0, 1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
    strong, weak = patched(ALL, 1.2), patched(ALL, 0.3)
    spliced = part(weak, nothing, part(strong, noise, nothing, 0, 1), 1, 3)
    assert close(run(ruled("* 0-10% -> 1.2; * -> 0.3"), 3), spliced)
    assert not close(run(strong, 3), spliced) and not close(run(weak, 3), spliced)


def test_several_loras_add_up_whatever_is_in_the_weights() -> None:
    other = entries(lambda path: "attn" in path, seed=7000)
    both = attach(ruled("* -> 0.5"), by_rules("middle -> 0.8", other))
    wanted = patched(ALL, 0.5)
    for key, patches in patched({k: v for k, v in other.items() if "middle" in k}, 0.8).patches.items():
        wanted.patches[key] = [*wanted.patches.get(key, []), *patches]
    assert close(run(both), run(wanted))
    beside = attach(patched(ALL, 0.5), by_rules("middle -> 0.8", other))
    assert close(run(beside), run(wanted))


def test_what_another_pack_put_on_a_layer_stays_inside() -> None:
    """A layer whose forward was doubled, and the same after the branch was put on and taken off."""
    path = "diffusion_model.middle_block.1.transformer_blocks.0.ff.net.2.forward"

    def doubled(model: Any) -> Any:
        clone, forward = model.clone(), model.get_model_object(path)
        clone.add_object_patch(path, lambda x: 2.0 * forward(x))
        return clone

    foreign = doubled(patcher())
    base, plain = run(foreign), run(patcher())
    both = attach(foreign, by_rules("middle -> 1"))
    assert not torch.equal(run(both), base) and not torch.equal(base, plain)
    assert [part.number for part in placed(both) if part.slot == "ff.net.2.forward"] == [None]
    assert torch.equal(run(remove_patches(both, Selection(owner="ours"))[0]), base)
    assert torch.equal(run(remove_patches(both, Selection(owner="foreign"))[0]), run(ruled("middle -> 1")))


def test_it_comes_off_and_goes_on_another_model() -> None:
    model = ruled("* -> 1")
    clone, lines = remove_patches(model, Selection())
    assert lines == ["removed LoRA style by 1 rule"] and torch.equal(run(clone), run(patcher()))
    less, _ = remove_patches(model, Selection(address=parse("middle, output")))
    assert close(run(less), run(ruled("!middle, !output -> 1")))
    assert torch.equal(run(copy_patches(model, patcher())), run(model))


def test_the_network_and_the_input_model_are_left_alone() -> None:
    model, base = patcher(), run(patcher())
    before = {name: id(value) for name, value in model.model.state_dict(keep_vars=True).items()}
    with unchanged(model):
        changed = attach(model, by_rules("* -> 1"))
        run(changed)
    assert {name: id(value) for name, value in model.model.state_dict(keep_vars=True).items()} == before
    assert not model.object_patches and torch.equal(run(model), base)


def test_the_report_counts_by_block_and_names_what_has_no_place() -> None:
    norm = {"lora_unet_output_blocks_0_1_norm.diff": draw(1, 64), "lora_te_text_model_x.alpha": torch.tensor(1.0)}
    file = entries(lambda path: path.startswith("middle_block.1.")) | norm | {"lora_unet_nowhere.alpha": torch.ones(())}
    model = attach(patcher(), by_rules("middle 0-10% -> 1; !input:1 -> 0.5", file))
    run(model)
    found, count = last_run(model), len(layers(lambda path: path.startswith("middle_block.1.")))
    told = report.report(model, run(model))
    assert f"LoRA style: {3 * count} of {3 * count + 2} keys found; no place for lora_unet_nowhere.alpha, " in told.text
    assert f"1. LoRA style by 2 rules: ran {STEPS * count} times in 1 of 1 blocks" in told.text
    (row,) = [row for row in report.table(found) if (row["block"], row["attention"]) == ("middle", "self")]
    assert row["patches"] == f"LoRA style by 2 rules x{STEPS * count}"
    plain = attach(patcher(), by_rules("* -> 0", file))
    run(plain)
    assert "never ran, its settings change nothing" in report.text(last_run(plain))


def test_layers_outside_of_all_blocks_are_no_block_more() -> None:
    inside, outside = (lambda path: path.startswith("middle_block.1.")), (lambda path: path == "time_embed.0")
    model = attach(patcher(), by_rules("* -> 1", entries(lambda path: inside(path) or outside(path))))
    run(model)
    assert len(layers(outside)) == 1
    count = STEPS * (1 + len(layers(inside)))
    told = f"1. LoRA style by 1 rule: ran {count} times in 1 of 1 blocks and outside of all blocks\n"
    assert told in report.text(last_run(model))


def test_rules_whose_windows_hold_no_step_are_the_reason() -> None:
    model = attach(patcher(), by_rules("* 50-50% -> 1; output -> 0"))
    run(model)
    assert "never ran, no step of the run lay in its window with a strength above 0" in report.text(last_run(model))


MIDDLE = entries(lambda path: path.startswith("middle_block.1."))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("input:1 -> 0.3; * -> 1", ["rule 1 (input:1) takes no layer of this LoRA"]),
        ("middle -> 1; * -> 0.5", ["rule 2 (all) comes after rules that take all its layers (1)"]),
        (
            "self -> 1; cross -> 1; middle self -> 0.5",
            ["rule 3 (middle self) comes after rules that take all its layers (1)"],
        ),
        (
            "* 0-50% -> 1; middle 50-100% -> 2; middle -> 3",
            ["rule 3 (middle) comes after rules that take all its layers (1, 2)"],
        ),
        ("* 0-50% -> 1; middle 40-60% -> 2; middle -> 3", []),
        ("* 20-50% -> 1; middle 10-50% -> 2", []),
        (
            "middle self -> 1; middle -> 0.5; middle cross -> 2",
            ["rule 3 (middle cross) comes after rules that take all its layers (2)"],
        ),
        ("input -> 1; output -> 1; middle -> 1", ["rule 1 (input) takes", "rule 2 (output) takes"]),
    ],
)
def test_the_report_names_rules_that_can_never_act(text: str, told: list[str]) -> None:
    model = ruled(text, MIDDLE)
    run(model)
    (row,) = report.fates(last_run(model))
    assert row["fate"].count(" takes no layer") + row["fate"].count(" comes after rules") == len(told)
    assert all(one in row["fate"] for one in told)


def test_a_rule_that_can_never_act_may_go_without_a_change() -> None:
    text = "input:1 -> 0.3; middle self 0-50% -> 1; * -> 0.5; middle -> 9"
    assert torch.equal(run(ruled(text, MIDDLE)), run(ruled("middle self 0-50% -> 1; * -> 0.5", MIDDLE)))


def test_rules_that_all_take_nothing_are_the_reason() -> None:
    model = ruled("input:1 -> 1; output -> 0.5", MIDDLE)
    assert torch.equal(run(model), run(patcher()))
    why = "rule 1 (input:1) takes no layer of this LoRA; rule 2 (output) takes no layer of this LoRA"
    assert f"1. LoRA style by 2 rules: never ran, {why}\n" in report.text(last_run(model))
    assert [finding.trouble for finding in findings(model)] == [why]


def test_the_report_names_rules_between_two_steps() -> None:
    model = ruled("middle 1-2% -> 3; * -> 0.5; output 0-0% -> 1", MIDDLE)
    run(model)
    (row,) = report.fates(last_run(model))
    assert "; no step of the run lay in the window of rule 1 (middle 1-2%), 3 (output 0-0%)" in row["fate"]


def test_a_rule_for_blocks_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(AddressError, match="no block 'input:9'; it has input:0, input:1, .*, middle, output:0, "):
        ruled("* -> 1; input:9 -> 1")
    for text in ("input:9 self -> 1", "input:9.1 -> 1", "input:0 cross -> 1"):
        with pytest.raises(AddressError, match="with attention"):
            ruled(text)
    ruled("input:0 -> 1")


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("* 1", (1, 4), "'->' and a strength are missing; write \\* -> 1"),
        ("* ->", (1, 5), "no strength after '->'; write a number such as 0.8"),
        ("* -> 1\nmiddle -> much", (2, 11), "cannot read the strength 'much'"),
        ("* -> inf", (1, 6), "the strength is inf; give a number from -100 to 100"),
        ("* -> 1e30", (1, 6), "the strength is 1e30; give a number from -100 to 100"),
        ("* -> 1; middle -> -100.5", (1, 19), "the strength is -100.5; give a number from -100 to 100"),
        ("foo -> 1", (1, 1), "unknown block 'foo'"),
        ("* 0-200% -> 1", (1, 3), "from 0 to 1"),
    ],
)
def test_an_error_points_at_its_column(text: str, place: tuple[int, int], reason: str) -> None:
    with pytest.raises(RuleError, match=f"rules, line {place[0]}, column {place[1]}: .*{reason}"):
        parse_strengths(text)


@pytest.mark.parametrize(("text", "wanted"), SHARED["right"])
def test_the_page_reads_rules_as_here(text: str, wanted: list[list[Any]]) -> None:
    rules = parse_strengths(text)
    assert [rule.strength for rule in rules] == [strength for _, _, strength in wanted]
    assert [rule.where.address for rule in rules] == [parse(address) for address, _, _ in wanted]
    assert [rule.where.schedule.always for rule in rules] == [not window for _, window, _ in wanted]


@pytest.mark.parametrize(("text", "line", "column"), SHARED["wrong"])
def test_the_page_refuses_where_the_node_does(text: str, line: int, column: int) -> None:
    with pytest.raises(RuleError, match=f"rules, line {line}, column {column}: "):
        parse_strengths(text)


def test_rules_are_read_in_order() -> None:
    assert parse_strengths("input:7-8 -> 0.3; output:0 0-50% -> 1.2; * -> -1  # rest") == (
        StrengthRule(0.3, Where.of("input:7-8")),
        StrengthRule(1.2, Where.of("output:0", 0.0, 0.5)),
        StrengthRule(-1.0, Where.of("all")),
    )


def test_it_is_a_value() -> None:
    one, other = by_rules("* -> 1"), by_rules("* -> 1", entries(seed=1))
    assert pickle.loads(pickle.dumps(one)) == one == by_rules("* -> 1") and one != other
    assert hash(one) == hash(by_rules("* -> 1")) and one != by_rules("* -> 2")


def test_kinds_are_told_by_paths() -> None:
    assert kind_of("attn1.to_q") == kind_of("img_attn.qkv") == kind_of("self_attn.k") == "self"
    assert kind_of("attn2.to_out.0") == kind_of("cross_attn.v") == "cross"
    assert kind_of("ff.net.2") is kind_of("proj_in") is None
