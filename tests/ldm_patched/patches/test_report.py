from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.router import SLOT
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word
from attention_patchbay.ldm_patched.patches.methods.style_aligned import StyleAligned
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.reading.fate import fate
from attention_patchbay.ldm_patched.patches.reading.manage import Selection, copy_patches, remove_patches
from attention_patchbay.ldm_patched.patches.reading.presets import preset_of, put_preset
from attention_patchbay.ldm_patched.patches.record.plan import Entry, Plan
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from attention_patchbay.ldm_patched.patches.routing.rules import attach_rules, parse_rules
from attention_patchbay.ldm_patched.sampling import samplers

from . import models
from .models import BLOCKS, HALF, IDENTITY, ZERO, last_run, patcher

STEPS = 4  # a window of half a run has two
run = functools.partial(models.run, steps=STEPS)


def entries(model: Any) -> list[str]:
    """Return what the report says about each patch and rule."""
    return [line for line in report.text(last_run(model)).split("\n") if line[:2] in ("1.", "2.", "3.")]


def test_the_report_counts_every_call_and_patch() -> None:
    model = attach(attach(patcher(), ZERO), IDENTITY)
    run(model)
    text = report.text(last_run(model))
    assert text.startswith("72 of 80 attention calls took the override: pytorch 72.\n")
    assert entries(model) == [
        "1. zero attn1.out on middle: ran 4 times in 1 of 1 blocks",
        "2. identity attn1.out on input:3: ran 8 times in 2 of 2 blocks",
    ]
    rows = {(row["block"], row["attention"]): row for row in report.table(last_run(model))}
    assert list(rows) == [(block, kind) for block in BLOCKS for kind in ("self", "cross")]
    assert all(row["time"].endswith(" %") for row in rows.values() if row["function"] != "none")
    assert rows["middle", "self"] | {"time": ""} == {
        "block": "middle",
        "attention": "self",
        "heads": "4 x 16",
        "function": "pytorch",
        "calls": STEPS,
        "steps": f"1-{STEPS}",
        "time": "",
        "patches": "zero attn1.out on middle x4",
        "note": "",
    }
    assert rows["middle", "cross"]["patches"] == ""
    replaced = rows["input:3.1", "self"]
    assert (replaced["function"], replaced["calls"]) == ("none", STEPS)
    assert replaced["note"] == "no call took the override"
    assert sum(row["calls"] for row in rows.values()) == 2 * len(BLOCKS) * STEPS


def test_the_steps_say_what_ran_in_each() -> None:
    half = Rule("basic", Where(parse("middle self"), Schedule(0.0, 0.5)))
    model = attach(patcher(), half)
    run(model)
    ran = [(row["step"], row["function"], row["calls"]) for row in report.steps(last_run(model))]
    calls = 2 * len(BLOCKS)
    assert ran[:4] == [(1, "basic", 1), (1, "pytorch", calls - 1), (2, "basic", 1), (2, "pytorch", calls - 1)]
    assert ran[4:] == [(3, "pytorch", calls), (4, "pytorch", calls)]
    assert all(row["seconds"] > 0 and row["fallbacks"] == 0 for row in report.steps(last_run(model)))
    lines = [row["steps"] for row in report.table(last_run(model)) if row["block"] == "middle"]
    assert lines == ["1-2", "3-4", "1-4"]


def test_the_table_is_plain() -> None:
    model = attach(attach(patcher(), ZERO), Rule("sage", Where(parse("middle self"))))
    run(model, steps=1)
    rows = report.table(last_run(model))
    assert json.loads(json.dumps(rows)) == rows
    assert {tuple(row) for row in rows} == {report.COLUMNS}


def test_the_report_tells_why_a_patch_never_ran() -> None:
    late = AttentionPatch("attn1.out", "zero", where=Where(parse("middle"), Schedule(0.4, 0.41, "linear")))
    neutral = AttentionPatch("attn1.out", "zero", strength=0.0)
    silent = AttentionPatch("attn2.out", "zero", where=Where(parse("middle"), Schedule(curve="0:0")))
    model = attach(attach(attach(patcher(), late), neutral), silent)
    run(model)
    window = "never ran, no step of the run lay in its window with a strength above 0"
    assert entries(model) == [
        f"1. zero attn1.out on middle 40-41% linear: {window}",
        "2. zero attn1.out x 0 on all: never ran, its settings change nothing",
        f"3. zero attn2.out on middle 0-100% 0:0: {window}",
    ]


def test_the_report_names_the_later_node_that_replaced_an_attention() -> None:
    model = attach(attach(patcher(), TokenMerging(0.5)), AttentionPatch("attn1.out", "identity"))
    run(model)
    replaced = "never ran, later nodes replaced the attention of its blocks (identity attn1.out on all)"
    assert entries(model)[0].endswith(replaced)
    ruled = attach(model, Rule("basic"))
    run(ruled)
    assert entries(ruled)[0].endswith(replaced)


def test_the_report_tells_that_a_batch_of_one_has_nothing_to_share() -> None:
    model = attach(patcher(), StyleAligned())
    run(model)
    assert entries(model) == ["1. style aligned on all: never ran, the batch holds one picture"]


def test_the_report_tells_that_a_patch_was_asked_and_found_nothing() -> None:
    entry = Entry("words", 1, targets=((BlockId("middle", 0), "cross"),))
    found = Run(Plan((entry,)), placed=frozenset({(1, None)}))
    assert fate(found, entry) == "never ran, the model did not enter its blocks"
    found.enter("cross", BlockId("middle", 0))
    assert fate(found, entry) == "never ran, later nodes replaced the attention of its blocks"
    found.reached.add(1)
    assert fate(found, entry) == "never ran, it found nothing to act on in its blocks"


@pytest.mark.parametrize(
    ("side", "sides", "why"),
    [
        ("negative", {0}, "no negative prompt was predicted: at cfg 1 there is none"),
        ("positive", {1}, "no positive prompt was predicted"),
        ("negative", {0, 1}, "it found nothing to act on in its blocks"),
        ("negative", set(), "it found nothing to act on in its blocks"),
    ],
)
def test_the_report_tells_that_the_side_of_a_patch_was_never_predicted(side: str, sides: set[int], why: str) -> None:
    capture = Capture((Word("word", (1,)),), side=side)
    entry = Entry("words", 1, targets=((BlockId("middle", 0), "cross"),), value=capture)
    found = Run(Plan((entry,)), placed=frozenset({(1, None)}))
    found.reached.add(1)
    found.sides |= sides
    assert fate(found, entry) == f"never ran, {why}"


@pytest.mark.parametrize(("cfg", "says"), [(1.0, "never ran, no negative prompt was predicted"), (4.0, "ran 40 times")])
def test_a_capture_of_the_negative_prompt_needs_one(cfg: float, says: str) -> None:
    model = attach(patcher(), Capture((Word("word", (1,)),), 7, side="negative"))
    prompts = models.conditioning(1), models.conditioning(2)
    samplers.sample(model, models.draw(0, 1, 4, 8, 8), *prompts, cfg, STEPS, "euler", "normal", 1.0, seed=0)
    assert says in entries(model)[0]


def test_the_report_tells_why_a_rule_never_ran() -> None:
    model = attach(attach(patcher(), Rule("split", Where(parse("middle")))), Rule("basic"))
    run(model)
    assert entries(model) == [
        "1. backend split on middle: never ran, no call was left for it: rules of later nodes or patches that replace "
        "the attention came first",
        "2. backend basic on all: ran 80 times in 10 of 10 blocks",
    ]


def test_an_override_of_a_later_node_is_reported_as_zero_calls() -> None:
    model = attach(patcher(), Rule("basic"))

    def foreign(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        return func(*args, **kwargs)

    model.model_options["transformer_options"][SLOT] = foreign
    run(model)
    assert report.text(last_run(model)).startswith(
        f"0 of 80 attention calls took the override: {__name__} took them.\n"
    )
    assert entries(model) == [f"1. backend basic on all: never ran, {__name__} took the attention override after it"]


def test_the_report_is_of_the_run_of_its_latent() -> None:
    model = attach(patcher(), ZERO)
    assert "No run was recorded: no run is known" in report.report(model, torch.ones(1, 4, 8, 8)).text
    for steps in (4, 3):
        assert f"ran {steps} times" in report.report(model, run(model, steps=steps)).text


def test_the_report_of_an_untouched_model_says_so() -> None:
    assert report.report(patcher(), torch.zeros(1, 4, 8, 8)) == report.Report(report.NOTHING, [], [])


def test_rules_are_listed_in_the_order_of_their_text() -> None:
    model = attach_rules(attach(patcher(), ZERO), parse_rules("middle -> basic; input -> split; * -> auto"))
    wanted = ["1. zero attn1.out on middle", "2. backend basic on middle", "3. backend split on input"]
    wanted += ["4. backend auto on all"]

    def check(model: Any) -> None:
        lines = [line.partition(":")[0] for line in report.report(model, run(model)).text.splitlines()]
        assert [line for line in lines if line[:2] in {"1.", "2.", "3.", "4."}] == wanted
        ran = {row["block"]: row["function"] for row in report.table(last_run(model))}
        assert (ran["middle"], ran["input:1"]) == ("basic", "split")  # the first that matches

    less, _ = remove_patches(attach(model, HALF), Selection(owner="identity"))
    for other in (model, copy_patches(model, patcher()), put_preset(patcher(), preset_of(model)), less):
        check(other)
