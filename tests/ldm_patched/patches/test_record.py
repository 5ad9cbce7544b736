"""One record for each run: of threads at once, of other sizes on the way, and with nothing else kept alive by it."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId, parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.gathering import Sums
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word
from attention_patchbay.ldm_patched.patches.methods.point_capture import PointCapture
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference
from attention_patchbay.ldm_patched.patches.reading import inspector
from attention_patchbay.ldm_patched.patches.reading.maps import Gathered, captured, gathered_in
from attention_patchbay.ldm_patched.patches.reading.report import TWINS, report
from attention_patchbay.ldm_patched.patches.record.archive import ARCHIVE
from attention_patchbay.ldm_patched.patches.record.plan import Entry, Plan, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.patches.record.tally import Account, Call
from attention_patchbay.ldm_patched.sampling import samplers

from .models import BLOCKS, STEPS, ZERO, conditioning, draw, patcher, run

MIDDLE = BlockId("middle", 0)
CAPTURE = Capture((Word("one", (1,)),), 7)
POINT = PointCapture(((0.3, 0.6),))


def sample(model: Any, positive: Any, seed: int = 0, steps: int = STEPS) -> torch.Tensor:
    noise = draw(seed, 1, 4, 8, 8)
    return samplers.sample(model, noise, positive, conditioning(2), 4.0, steps, "euler", "normal", 1.0, seed=0)


def calls(found: Gathered) -> set[int]:
    return {sums.calls for sums in found.blocks.values()}


def test_threads_that_sample_at_once_have_a_record_each() -> None:
    model, results = attach(attach(patcher(), CAPTURE), ZERO), {}
    sample(model, conditioning(1), seed=9)  # loaded

    def work(steps: int) -> None:
        results[steps] = sample(model, conditioning(1), seed=steps, steps=steps)

    threads = [threading.Thread(target=work, args=(steps,)) for steps in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for steps, samples in results.items():
        assert torch.equal(samples, sample(model, conditioning(1), seed=steps, steps=steps))
    for steps, samples in results.items():
        mine = ARCHIVE.runs(samples, plan_of(model))[-1]
        assert mine.calls.total() == 2 * len(BLOCKS) * steps and mine.patched[2, MIDDLE] == steps
        assert calls(gathered_in(mine)[0]) == {steps}


@pytest.mark.parametrize("size", [(8, 8), (6, 12)], ids=["same size", "other size"])
@pytest.mark.parametrize("method", [CAPTURE, POINT], ids=["words", "points"])
def test_a_reference_is_not_captured(size: tuple[int, int], method: Any) -> None:
    reference = Reference(draw(9, 1, 4, *size), strength=0.0001, where=Where(parse("input:1 self")))
    model = attach(attach(patcher(), reference), method)
    (found,) = captured(model, run(model))
    alone = attach(patcher(), method)
    (wanted,) = captured(alone, run(alone))
    assert calls(found) == calls(wanted) == {STEPS}
    for block, sums in wanted.blocks.items():
        assert torch.allclose(found.blocks[block].attention, sums.attention, atol=1e-3)


def test_a_prompt_for_an_area_is_not_captured() -> None:
    whole, left = conditioning(1), [[draw(3, 1, 7, 16), {"area": (8, 4, 0, 0)}]]
    model = attach(patcher(), CAPTURE)
    (found,) = captured(model, sample(model, whole + left))
    assert calls(found) == {STEPS} and {sums.grid for sums in found.blocks.values()} <= {(8, 8), (4, 4)}
    with pytest.raises(ValueError, match="nothing was captured: a prompt for an area of the picture is not captured"):
        captured(model, sample(model, left))


@pytest.mark.parametrize(("method", "share"), [(CAPTURE, 1.0), (POINT, 0.25)], ids=["words", "points"])
def test_a_block_with_two_grids_is_summed_on_the_larger(method: Any, share: float) -> None:
    entry = Entry("", value=method)
    one, block = Run(Plan((entry,))), MIDDLE
    cpu = torch.device("cpu")
    for grid in ((2, 2), (4, 4)):
        tokens = grid[0] * grid[1]
        one.gather(1, ((block, grid), cpu), Sums(torch.ones(1, 1, tokens), torch.ones(3), grid, 2), max)
    (found,) = gathered_in(one)
    sums = found.blocks[block]
    assert sums.grid == (4, 4) and sums.calls == 4 and torch.allclose(sums.attention, torch.tensor(1.0 + share))


def test_a_record_keeps_no_model_alive() -> None:
    model = patcher()
    model.model = copy.deepcopy(model.model)
    model = attach(attach(model, CAPTURE), ZERO)
    network, samples, plan = weakref.ref(model.model.diffusion_model), run(model), plan_of(model)
    del model
    gc.collect()
    assert network() is None and ARCHIVE.find(samples, plan)


def test_many_runs_lose_their_captures_first_and_then_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ARCHIVE, "most_gathered", 1)
    monkeypatch.setattr(ARCHIVE, "most_runs", 3)
    model = attach(patcher(), CAPTURE)
    first, *_, before, last = (sample(model, conditioning(1), seed=100 + n, steps=1) for n in range(5))
    assert len(ARCHIVE._runs) == 3 and calls(captured(model, last)[0]) == {1}
    with pytest.raises(ValueError, match="had to make room for those of later ones; run the sampler again"):
        captured(model, before)
    assert report(model, before).text.startswith(f"{2 * len(BLOCKS)} attention calls")
    assert "its run is gone (the last 3 are kept)" in report(model, first).text


def test_the_inspector_says_when_it_knows_no_run() -> None:
    model, samples = attach(patcher(), ZERO), draw(77, 1, 4, 8, 8)
    assert "No calls are shown: no run is known that gave this latent" in inspector.text(model, [], samples)
    assert "No calls" not in inspector.text(model, [], run(model))
    assert "No calls" not in inspector.text(patcher(), [], samples)  # nothing there could have been recorded


def test_two_runs_that_gave_the_same_latent_are_not_taken_for_one() -> None:
    model, samples = attach(patcher(), ZERO), draw(78, 1, 4, 8, 8)
    for count in (1, 1, 2):
        one = Run(plan_of(model) or Plan())
        for _ in range(count):
            one.count_call(Account(Call(None, None, "basic")))
        assert TWINS not in report(model, samples).text
        ARCHIVE.keep(one, [samples])
    assert report(model, samples).text.endswith(TWINS)
