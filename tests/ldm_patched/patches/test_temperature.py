"""The scale of attention's scores: the formula, the trained size, and what stays untouched."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.attention_temperature import AttentionTemperature
from attention_patchbay.ldm_patched.patches.methods.key_value_downsampling import KeyValueDownsampling
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.reading import report
from torch import Tensor

from .layers import HEADS, layers, near, options, tokens
from .models import STEPS, last_run, patcher, run, unchanged
from .test_downsampling import cells

ALL = Where()


def by_hand(q: Tensor, k: Tensor, v: Tensor, factor: float) -> Tensor:
    """Attend with the scores times `factor`, query by query in float64."""
    q, k, v = (x.double().unflatten(-1, (HEADS, -1)) for x in (q, k, v))
    out = torch.empty_like(q)
    for b in range(q.shape[0]):
        for h in range(HEADS):
            for i in range(q.shape[1]):
                scores = (k[b, :, h] * q[b, i, h]).sum(-1) / math.sqrt(q.shape[-1]) * factor
                weights = scores.exp() / scores.exp().sum()
                out[b, i, h] = (weights[:, None] * v[b, :, h]).sum(0)
    return out.flatten(2)


def test_the_scores_are_divided_by_the_temperature() -> None:
    q, k, v = tokens(4, 6)
    for slot in ("attn1", "attn2"):
        out = layers(AttentionTemperature(0.7, where=ALL), slot=slot)(q, k, v, options(4, 6))
        assert near(out, by_hand(q, k, v, 1 / 0.7))


def test_the_trained_size_keeps_the_entropy_in_self_attention_only() -> None:
    q, k, v = tokens(4, 6)
    sized = AttentionTemperature(1.0, 64, 32, ALL)  # 8x4 latent pixels; the tokens are 2x2 of them: 4x2 in training
    out = layers(sized)(q, k, v, options(4, 6, latent=2))
    assert near(out, by_hand(q, k, v, math.sqrt(math.log(24) / math.log(8))))
    assert layers(sized, slot="attn2").layers == ()
    both = AttentionTemperature(2.0, 64, 32, ALL)
    assert near(layers(both)(q, k, v, options(4, 6, latent=2)), by_hand(q, k, v, math.sqrt(math.log(24, 8)) / 2))
    assert near(layers(both, slot="attn2")(q, k, v, options(4, 6, latent=2)), by_hand(q, k, v, 0.5))


def test_at_the_trained_size_nothing_changes() -> None:
    q, k, v = tokens(4, 6)
    same = AttentionTemperature(1.0, 48, 32)
    assert torch.equal(layers(same)(q, k, v, options(4, 6)), layers()(q, k, v, options(4, 6)))


def test_larger_pictures_keep_the_entropy_of_smaller_ones() -> None:
    """The paper's aim, on random tokens with Gaussian scores."""

    def entropy(height: int, width: int, factor: float) -> float:
        q, k, _ = tokens(height, width, 1, 64)
        weights = (q[0].double() @ k[0].double().T / 8 * 2 * factor).softmax(-1)
        return float(-(weights * weights.log()).sum(-1).mean()) / math.log(64)

    trained, larger = entropy(8, 8, 1.0), entropy(32, 32, 1.0)
    scaled = entropy(32, 32, math.sqrt(math.log(1024) / math.log(64)))
    assert abs(scaled - trained) < abs(larger - trained)


def test_attention_over_time_and_blocks_of_one_trained_token_have_no_size() -> None:
    q, k, v = tokens(1, 3, batch=8)
    sized = layers(AttentionTemperature(1.0, 64, 64))
    video = options(2, 2, batch=6)  # two videos of three frames, four pixels each
    assert torch.equal(sized(q, k, v, video), layers()(q, k, v, video))
    q, k, v = tokens(2, 2)
    tiny = options(2, 2, latent=8)
    assert torch.equal(sized(q, k, v, tiny), layers()(q, k, v, tiny))


def test_it_composes_with_other_layers_in_both_orders() -> None:
    q, k, v = tokens(4, 6)
    half, warm = AttentionPatch("attn1.out", "identity", strength=0.5), AttentionTemperature(0.7, where=ALL)
    for order in ((half, warm), (warm, half)):
        assert near(layers(*order)(q, k, v, options(4, 6)), 0.5 * by_hand(q, k, v, 1 / 0.7) + 0.5 * v)
    first = [cell[0] for cell in cells((4, 6), 2)]
    for order in ((KeyValueDownsampling(2), warm), (warm, KeyValueDownsampling(2))):
        assert near(layers(*order)(q, k, v, options(4, 6)), by_hand(q, k[:, first], v[:, first], 1 / 0.7))
    guidance = PerturbedGuidance(scale=2.0, where=Where(parse("middle")))
    one = run(attach(attach(patcher(), guidance), warm))
    assert torch.equal(one, run(attach(attach(patcher(), warm), guidance)))


def test_neutral_settings_are_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    neutral = [AttentionTemperature(1.0), AttentionTemperature(1.0, 64, 64, Where(parse("all cross")))]
    with unchanged(model):
        changed = run(attach(model, AttentionTemperature(0.5, where=ALL)))
        for value in neutral:
            assert value.neutral and torch.equal(run(attach(model, value)), base)
    assert torch.equal(run(model), base) and not torch.equal(changed, base)
    value = AttentionTemperature(0.5, 64, 32, Where(parse("middle self")))
    assert pickle.loads(pickle.dumps(value)) == value


def test_it_acts_on_the_kinds_of_its_address() -> None:
    for address, name, count in (("middle", "self", 2), ("middle self", "self", 1), ("middle cross", "cross", 1)):
        model = attach(patcher(), AttentionTemperature(0.5, where=Where(parse(address))))
        run(model)
        rows = {row["attention"]: row["patches"] for row in report.table(last_run(model)) if row["block"] == "middle"}
        assert rows[name] == f"temperature 0.5 on {address} x{count * STEPS}"
        assert f"ran {count * STEPS} times" in report.text(last_run(model))


def test_the_curve_blends_the_factor_from_1_inside_the_window() -> None:
    q, k, v = tokens(4, 6)
    half = layers(AttentionTemperature(3.0, 16, 16, where=Where(schedule=Schedule(curve="0:0.5"))))(
        q, k, v, options(4, 6)
    )
    assert near(half, by_hand(q, k, v, (1 + math.sqrt(math.log(24, 4))) / 2 / 2))
    model = attach(patcher(), AttentionTemperature(0.5, where=Where(parse("middle self"), Schedule(0.0, 0.5))))
    run(model)
    assert f"ran {STEPS // 2} times in 1 of 1 blocks" in report.text(last_run(model))


def test_wrong_settings_are_refused() -> None:
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"temperature is {temperature}"):
            AttentionTemperature(temperature)
    for size in ((512, 0), (4, 512), (-8, -8)):
        with pytest.raises(ValueError, match=f"the trained size is {size[0]}x{size[1]}"):
            AttentionTemperature(1.0, *size)
    with pytest.raises(AddressError, match="no block 'input:9'"):
        attach(patcher(), AttentionTemperature(0.5, where=Where(parse("input:9"))))
