"""What blocks do in a run: how far patches move each, against the block run by hand, and the numbers of the map."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, BlockId
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.methods.block_scale import BlockScale
from attention_patchbay.ldm_patched.patches.methods.block_watch import BlockWatch
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.methods.whole_block_skip import WholeBlockSkip
from attention_patchbay.ldm_patched.patches.reading.block_values import block_values, known_values
from attention_patchbay.ldm_patched.patches.reading.inspector import findings
from attention_patchbay.ldm_patched.patches.reading.maps import gathered_in
from attention_patchbay.ldm_patched.patches.reading.report import fates
from attention_patchbay.ldm_patched.patches.record.plan import KEY, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run

from .models import ZERO, draw, last_run, network, patcher, run
from .test_whole_blocks import called
from .test_whole_blocks import patcher as transformer

MIDDLE = BlockId("middle", 0)
DOUBLE = Where.of("double")


@contextmanager
def middle_calls() -> Iterator[list[tuple[Any, Any, Any]]]:
    """Note input, context and result of each call of the middle block, as the network makes it."""
    block = network().diffusion_model.middle_block[1].transformer_blocks[0]
    found: list[tuple[Any, Any, Any]] = []

    def note(_: Any, args: Any, kwargs: Any, out: Any) -> None:
        found.append((args[0].clone(), kwargs["context"], out.clone()))

    handle = block.register_forward_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def test_the_change_is_that_of_the_block_run_by_hand_without_the_patch() -> None:
    model = attach(attach(patcher(), ZERO), BlockWatch(change=True))
    with middle_calls() as calls:
        run(model, steps=6)
    block = network().diffusion_model.middle_block[1].transformer_blocks[0]
    measured = [calls[0], calls[4]]
    expected = []
    for x, context, out in measured:
        without = type(block).forward(block, x, context=context, transformer_options={})
        expected.append(float((out - without).norm() / without.norm()))
    changes = last_run(model).changes
    assert min(expected) > 0.01 and changes[MIDDLE] == pytest.approx(expected, rel=1e-5)
    assert len(changes) == 10 and {one for block, some in changes.items() if block != MIDDLE for one in some} == {0.0}


def test_it_changes_nothing_and_says_that_it_ran() -> None:
    plain = attach(patcher(), ZERO)
    model = attach(plain, BlockWatch(change=True))
    assert torch.equal(run(model), run(plain))
    assert fates(last_run(model))[1]["fate"].startswith("ran 20 times in 10 of 10 blocks")
    assert [finding.slot for finding in findings(model)] == ["attn1_output_patch", "sampler_post_cfg_function"]


def test_without_a_measure_no_block_is_touched() -> None:
    model = attach(patcher(), BlockWatch(node="3"))
    assert not model.object_patches
    run(model)
    assert not last_run(model).changes


def test_an_extra_prediction_of_a_guidance_is_not_measured() -> None:
    guided = attach(patcher(), PerturbedGuidance(scale=3.0, where=Where.of("middle")))
    model = attach(guided, BlockWatch(change=True))
    run(model, steps=1)
    assert last_run(model).changes[MIDDLE] == [0.0]


@pytest.mark.parametrize(
    ("method", "part"), [(BlockScale(0.5, where=DOUBLE), 0.5), (WholeBlockSkip(where=DOUBLE), 0.0)]
)
def test_a_block_of_a_transformer_that_writes_into_what_it_gets(method: Any, part: float) -> None:
    without = attach(transformer(), method)
    model = attach(without, BlockWatch(change=True))
    made = Run(plan_of(model))
    now = {"sigmas": torch.tensor([1.0]), "sample_sigmas": torch.tensor([1.0, 0.0])}
    options = model.model_options["transformer_options"] | now | {KEY: made}
    img, txt = draw(1, 2, 5, 8), draw(2, 2, 3, 8)
    model.patch_model()
    try:
        out = model.model.diffusion_model(img.clone(), txt, options)
    finally:
        model.unpatch_model()
    assert torch.equal(out, called(without))
    whole = torch.cat([img + txt.mean() + 1.0, txt * 3.0], dim=1)
    far = torch.cat([(1.0 - part) * (txt.mean() + 1.0).expand_as(img), (1.0 - part) * 2.0 * txt], dim=1)
    assert made.changes.pop(BlockId("double", 0)) == pytest.approx([float(far.norm() / whole.norm())])
    assert [*made.changes.values()] == [[0.0], [0.0]]


def test_each_step_is_shown_in_the_node_of_the_page() -> None:
    seen: list[tuple[str, int, int]] = []

    def show(node: str, step: int, run: Run) -> None:
        seen.append((node, step, sum(row["calls"] for row in block_values(run))))

    run(attach(patcher(), BlockWatch(node="7"), Host(show_blocks=show)))
    assert seen == [("7", 1, 20), ("7", 2, 40)]


def test_numbers_of_the_blocks_and_the_map_that_a_capture_heard() -> None:
    capture = Capture((Word("cat", (2,)), Word("dog", (3,))), 7)
    model = attach(attach(attach(patcher(), ZERO), capture), BlockWatch(change=True))
    samples = run(model)
    rows = {row["name"]: row for row in known_values(model, samples)}
    assert list(rows) == ["input:1", "input:3", "middle", "output:0", "output:1", "output:2", "output:3"]
    assert rows["input:3"]["calls"] == 2 * 2 * 2 and rows["middle"]["calls"] == 2 * 2  # deep, kinds, steps
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1.0, abs=1e-4)
    assert rows["middle"]["patches"] == {"1. zero attn1.out on middle": 2, "2. attention to cat, dog on all": 2}
    assert rows["middle"]["change"] > 0.0 == rows["input:3"]["change"]
    assert (rows["middle"]["measured"], rows["input:3"]["measured"]) == (1, 2)
    (heard,) = gathered_in(last_run(model))
    blocks = [heard.blocks[BlockId("input", 3, inner)] for inner in (0, 1)]
    assert rows["input:3"]["entropy"] == pytest.approx(fmean(float((one.entropy / one.calls).mean()) for one in blocks))
    shown = rows["middle"]["map"]
    pixels = base64.b64decode(shown["bytes"])
    assert shown["label"] == "cat" and len(pixels) == shown["height"] * shown["width"]
    assert (min(pixels), max(pixels)) == (0, 255)
    means = heard.blocks[MIDDLE].attention[0, 0]
    assert pixels.index(255) == int(means.argmax())


def test_a_latent_that_no_run_of_the_model_gave_has_no_numbers() -> None:
    assert known_values(patcher(), None) == known_values(patcher(), torch.zeros(1, 4, 8, 8)) == []


class StageC(torch.nn.Module):
    """A network whose blocks nobody has written down."""


def test_the_change_of_a_model_of_unknown_blocks_is_refused() -> None:
    with pytest.raises(AddressError, match="blocks of Stable Cascade models.* turn it off"):
        attach(transformer(StageC()), BlockWatch(change=True))
    attach(transformer(StageC()), BlockWatch(node="1"))
