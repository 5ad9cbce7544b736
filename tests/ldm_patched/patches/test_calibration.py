"""Weights by the text's measured share: numpy in float64 on joint attention, and where nothing is measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.method import Method
from attention_patchbay.ldm_patched.patches.methods.calibration import LEAST, MEASURED, calibrated
from attention_patchbay.ldm_patched.patches.methods.weighted_prompt import WeightedPrompt
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.record.plan import plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from torch import Tensor

from .models import draw, patcher, run
from .test_views import DIM, HEADS, TOKENS_OF_TEXT, B, attended, close, joint, patched, softmax, split

TEXT = slice(0, TOKENS_OF_TEXT)
IMAGE = slice(TOKENS_OF_TEXT, None)
POSITIVE = slice(0, B // 2)  # the calls have the positive prompt first


def share_of(q: Tensor, k: Tensor, bias: Tensor | float = 0.0) -> float:
    """Return the part of the picture's attention that the text gets, by numpy."""
    scores = (q[POSITIVE, :, IMAGE].double() @ k[POSITIVE].double().mT / math.sqrt(DIM) + bias).numpy()
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return float((weights[..., TEXT].sum(-1) / weights.sum(-1)).mean())


def moved(given: list[Tensor], factors: dict[int, float], bias: Tensor | float = 0.0) -> Tensor:
    """Return attention in which the picture's rows of the positive prompt see scaled values."""
    q, k, v = given
    values = v.clone()
    for place, factor in factors.items():
        values[POSITIVE, :, place] *= factor
    wanted = softmax(q, k, v, bias)
    wanted[:, :, IMAGE] = softmax(q[:, :, IMAGE], k, values, bias)
    return wanted


def stepped(model: Any, calls: list[list[Tensor]], **kwargs: Any) -> tuple[list[Tensor], Run]:
    """Return the results of calls in the steps of one run, the first two in the first, and the run."""
    now = Run(plan_of(model), lambda percent: 1.0 - percent)
    schedule = torch.tensor([1.0, 0.5, 0.0])
    sigmas = [schedule[:1], *(schedule[i : i + 1] for i in range(len(calls) - 1))]
    found = []
    for given, sigma in zip(calls, sigmas, strict=True):
        options = {"sigmas": sigma, "sample_sigmas": schedule}
        found.append(split(attended(model, given, run=now, options=options, skip_reshape=True, **kwargs)))
    return found, now


def told(now: Run) -> str:
    """Return what the report says of the share."""
    (note,) = [note for note in now.notes if "the text got" in note]
    return note


@pytest.mark.parametrize("weight", [1.3, 3.0, 0.5, 0.0, -1.0])
def test_a_weight_gains_what_it_gains_where_the_text_gets_all(weight: float) -> None:
    """s' = s + (w - 1) s / t above 1, w s from 0 to 1, w s / t below 0."""
    share, of_text = 0.2, 0.04
    word = share * of_text
    promised = of_text * (weight - 1.0) + word if weight > 1.0 else weight * (of_text if weight < 0.0 else word)
    assert calibrated(weight, share) * word == pytest.approx(promised, rel=1e-12)
    assert calibrated(weight, 1.0) == pytest.approx(weight, rel=1e-12)
    assert calibrated(0.0, share) == 0.0 and calibrated(1.0, share) == 1.0


@pytest.mark.parametrize("weight", [1.3, 0.5, -1.0])
def test_the_share_is_the_mean_of_the_first_step_and_holds_in_later_ones(weight: float) -> None:
    calls = [[draw(10 * call + i, B, HEADS, TOKENS_OF_TEXT + 24, DIM) for i in range(3)] for call in range(3)]
    shares = [share_of(q, k) for q, k, _ in calls]
    model = patched(WordWeight((2,), weight, TOKENS_OF_TEXT, meaning=MEASURED))
    found, now = stepped(model, calls)
    for out, given, share in zip(found, calls, (shares[0], np.mean(shares[:2]), np.mean(shares[:2])), strict=True):
        close(out, moved(given, {2: calibrated(weight, float(share))}))
    share, note = float(np.mean(shares[:2])), told(now)
    assert f"the text got {100 * share:.1f} % of the picture's attention in step 1" in note
    assert note.endswith(f"so {weight:g} acted as {calibrated(weight, share):.3g}.")


def test_each_weight_of_a_prompt_is_calibrated() -> None:
    given = joint()
    share = share_of(given[0], given[1])
    model = patched(WeightedPrompt((1, 2, 3), (1.5, 0.5, -1.0), TOKENS_OF_TEXT, meaning=MEASURED))
    (out,), _ = stepped(model, [given])
    close(out, moved(given, {1: 1.0 + 0.5 / share, 2: 0.5, 3: -1.0 / share}))


def test_tokens_that_a_mask_hides_are_no_part_of_the_share() -> None:
    given = joint()
    mask = torch.zeros(B, 1, 1, given[0].shape[2])
    mask[..., 3:5] = -10000.0
    share = share_of(given[0], given[1], mask[POSITIVE].double())
    assert share < 0.9 * share_of(given[0], given[1])
    model = patched(WordWeight((1,), 1.3, TOKENS_OF_TEXT, meaning=MEASURED))
    (out,), _ = stepped(model, [given], mask=mask)
    close(out, moved(given, {1: 1.0 + 0.3 / share}, mask.double()))


def test_a_text_that_gets_next_to_nothing_does_not_make_weights_endless() -> None:
    q, k, v = joint()
    k[:, :, TEXT], q[:, :, IMAGE] = -100.0, q[:, :, IMAGE].abs()
    model = patched(WordWeight((1,), 1.3, TOKENS_OF_TEXT, meaning=MEASURED))
    _, now = stepped(model, [[q, k, v]])
    assert told(now).endswith(f"acted as {1.0 + 0.3 / LEAST:.3g}.")


NEUTRAL: list[Method] = [WordWeight((2,), 1.0, 7, meaning=MEASURED), WordWeight((2,), 1.5, 7, 0.0, meaning=MEASURED)]


@pytest.mark.parametrize("neutral", [*NEUTRAL, WeightedPrompt((), (), 7, meaning=MEASURED)])
def test_neutral_settings_are_bit_equal(neutral: Method) -> None:
    assert torch.equal(run(attach(patcher(), neutral)), run(patcher()))


@pytest.mark.parametrize("weight", [1.3, -1.0])
def test_where_the_text_gets_all_of_the_attention_a_weight_is_as_written_to_the_bit(weight: float) -> None:
    written, measured = (attach(patcher(), WordWeight((2,), weight, 7, **more)) for more in ({}, {"meaning": MEASURED}))
    assert torch.equal(run(measured), run(written))


def test_it_is_told_in_the_name_and_another_meaning_is_refused() -> None:
    assert WordWeight((2,), 1.3, 7, meaning=MEASURED).name == "word weight 1.3 by measured share of tokens 2 on all"
    with pytest.raises(ValueError, match="unknown meaning 'loud'; choose one of as written, by measured share"):
        WordWeight((2,), 1.3, 7, meaning="loud")
