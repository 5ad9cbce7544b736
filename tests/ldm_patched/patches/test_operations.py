"""The wider operations and slots of an attention patch, each against its formula."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.listed import with_listed
from attention_patchbay.ldm_patched.patches.methods import operations
from attention_patchbay.ldm_patched.patches.methods.attention_patch import (
    BLOCK_SLOTS,
    OPERATIONS,
    SLOTS,
    AttentionPatch,
    operations_for,
)
from attention_patchbay.ldm_patched.patches.methods.operations import Gain, parse_gains
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.sampling import samplers
from hypothesis import given
from hypothesis import strategies as st

from .models import STEPS, conditioning, draw, last_run, patcher, run, unchanged
from .test_guidance import by_hand

PAIRS = [(slot, operation) for slot in SLOTS for operation in operations_for(slot)]
ALWAYS, CLOSED = Schedule(), Schedule(0.4, 0.4)
NO_CHANGE = {"scale": 1.0, "temperature": 1.0, "noise": 0.0, "blur": 0.0}


def patch(slot: str, operation: str, value: float = 2.0, schedule: Schedule = ALWAYS, **given: Any) -> AttentionPatch:
    """Return a patch that does something, in the blocks that call the slot."""
    address = parse(BLOCK_SLOTS[slot][1]) if slot in BLOCK_SLOTS else parse("middle, input:3, output:2")
    value = 0.05 if operation == "clamp" else value  # below what the outputs reach
    extra = {"channels": "0-15:3, 20-:0.5"} if operation == "gain" else {}
    extra |= {"other": draw(9, 1, 7, 16)} if operation == "towards" else {}
    return AttentionPatch(slot, operation, value, where=Where(address, schedule), **extra, **given)  # type: ignore[arg-type]


FEW = 1  # step


@functools.cache
def without_patch() -> tuple[Any, torch.Tensor]:
    """Return a model, and its latents without a patch."""
    model = patcher()
    return model, run(model, FEW)


@pytest.mark.parametrize(("slot", "operation"), PAIRS)
def test_every_operation_acts_on_every_slot_it_fits_and_is_neutral_to_the_bit(slot: str, operation: str) -> None:
    model, base = without_patch()
    with unchanged(model):
        patched = attach(model, patch(slot, operation))
        changed = run(patched, FEW)
        neutral = attach(attach(model, patch(slot, operation, strength=0.0)), patch(slot, operation, schedule=CLOSED))
        if operation in NO_CHANGE:
            neutral = attach(neutral, patch(slot, operation, NO_CHANGE[operation]))
        assert torch.equal(run(neutral, FEW), base)
    assert not torch.equal(changed, base) and torch.isfinite(changed).all()
    assert torch.equal(run(patched, FEW), changed)  # also what is drawn by chance
    assert "never" not in report.text(last_run(patched)).splitlines()[2]


@pytest.mark.parametrize("slot", list(BLOCK_SLOTS))
def test_a_block_slot_changes_what_the_block_hands_on(slot: str) -> None:
    """Half of it scaled, against the same by a plain function of the slot."""
    name, room = BLOCK_SLOTS[slot]
    plain = patcher()

    def whole(h: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        return h * 1.5

    def middle(args: dict[str, Any]) -> dict[str, Any]:
        return {**args, "h": args["h"] * 1.5}

    def two(h: torch.Tensor, hsp: torch.Tensor, options: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return (h * 1.5, hsp) if slot == "block.output" else (h, hsp * 1.5)

    plain.set_model_patch({"input": whole, "middle": middle, "output": two}[room], name)
    out = run(attach(patcher(), patch(slot, "scale", 2.0, strength=0.5)))
    expected = run(plain)
    assert (out - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_middle_slot_lies_between_the_attentions() -> None:
    plain = patcher()
    plain.set_model_patch(lambda x, options: x * 2.0 if options["block"] == ("middle", 0) else x, "middle_patch")
    out = run(attach(patcher(), AttentionPatch("middle", "scale", 2.0, where=Where(parse("middle")))))
    assert torch.equal(out, run(plain))


def test_clamp_noise_gain_shuffle_and_blur_are_their_formulas() -> None:
    x = draw(0, 2, 12, 6)
    assert torch.allclose(operations.clamp(x, 0.5, 0.25), 0.75 * x + 0.25 * x.clamp(-0.5, 0.5))
    generator = torch.Generator().manual_seed(3)
    noisy = operations.noise(x, 0.5, 0.5, generator)
    added = noisy - x
    drawn = torch.randn(12, 6, generator=torch.Generator().manual_seed(3))
    for row in range(2):
        deviation = ((x[row] - x[row].mean()) ** 2).sum().div(71).sqrt()
        assert torch.allclose(added[row], 0.25 * deviation * drawn, atol=1e-6)
    gained = operations.gain(x, parse_gains("0:3, 2-3:0, 5-:0.5"), 0.5)
    factors = torch.tensor([2.0, 1.0, 0.5, 0.5, 1.0, 0.75])
    assert torch.allclose(gained, x * factors)
    shuffled = operations.shuffle(x, 1.0, torch.Generator().manual_seed(1))
    order = [next(i for i in range(12) if torch.equal(x[:, i], shuffled[:, j])) for j in range(12)]
    assert sorted(order) == list(range(12)) and order != sorted(order)
    smooth = operations.blur(x, 1.5, 1.0, (3, 4))
    assert (smooth[1, :, 2].reshape(3, 4) - by_hand(x[1, :, 2].reshape(3, 4), 1.5)).abs().max() < 1e-6


def test_the_prompt_goes_towards_another_one_on_its_own_side_only() -> None:
    other = draw(9, 1, 7, 16)
    blended = [[torch.lerp(conditioning(1)[0][0], other, 0.3), {}]]
    both = attach(patcher(), AttentionPatch("attn2.k", "towards", strength=0.3, other=other))
    both = attach(both, AttentionPatch("attn2.v", "towards", strength=0.3, other=other))
    noise = draw(0, 1, 4, 8, 8)
    settings = (conditioning(2), 4.0, STEPS, "euler", "normal", 1.0)
    expected = samplers.sample(patcher(), noise, blended, *settings, seed=0)
    out = samplers.sample(both, noise, conditioning(1), *settings, seed=0)
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()
    with pytest.raises(ValueError, match="has 5 tokens, the sampler's 7"):
        run(attach(patcher(), AttentionPatch("attn2.k", "towards", other=draw(9, 1, 5, 16))))


def test_chance_is_another_one_in_each_step_and_the_same_in_each_run() -> None:
    seen: list[torch.Tensor] = []
    model = attach(patcher(), AttentionPatch("attn1.out", "noise", 1.0, where=Where(parse("middle"))))
    before = torch.random.get_rng_state()
    # behind the patch, which enters behind those of others
    model.model_options["transformer_options"] = with_listed(
        model.model_options["transformer_options"],
        "attn1_output_patch",
        lambda n, options: seen.append(n.clone()) or n if options["block"][0] == "middle" else n,  # type: ignore[func-returns-value]
    )
    run(model)
    first = list(seen)
    seen.clear()
    run(model)
    assert all(torch.equal(a, b) for a, b in zip(first, seen, strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)
    plain: list[torch.Tensor] = []
    other = patcher()
    other.set_model_attn1_output_patch(
        lambda n, options: plain.append(n.clone()) or n if options["block"][0] == "middle" else n  # type: ignore[func-returns-value]
    )
    run(other)
    drawn = [(a - b)[0] / (a - b)[0].std() for a, b in zip(first[:1], plain[:1], strict=True)]
    assert abs(float(drawn[0].mean())) < 0.2


@given(st.text("0123456789-:., +", max_size=20))
def test_channels_are_read_or_refused_with_the_way_to_write_them(text: str) -> None:
    try:
        gains = parse_gains(text)
    except ValueError as error:
        assert "channels" in str(error)
    else:
        assert all(isinstance(one, Gain) and one.first >= 0 for one in gains)


def test_channels_mean_what_they_say() -> None:
    expected = (Gain(0, 0, 1.5), Gain(4, 7, 0.0), Gain(100, None, -0.5))
    assert parse_gains("0:1.5, 4-7:0,100-:-0.5") == expected
    with pytest.raises(ValueError, match="runs backwards; write 4-7"):
        parse_gains("7-4:1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slot": "attn2.k", "operation": "blur"}, "'blur' does not work on slot attn2.k"),
        ({"slot": "attn1.q", "operation": "towards"}, "does not work on slot attn1.q"),
        ({"slot": "block.output", "operation": "temperature"}, "does not work on slot block.output"),
        ({"slot": "block.output"}, "called by output blocks, not by 'all'; write output"),
        ({"slot": "block.skip", "where": Where(parse("input:1"))}, "called by output blocks, not by 'input:1'"),
        ({"slot": "block.input", "where": Where(parse("input self"))}, "says self, but this is for whole blocks"),
        ({"operation": "clamp", "value": -1.0}, "value is -1.0; give a finite number, from 0 for clamp"),
        ({"operation": "gain", "channels": "x"}, "channels: cannot read 'x'"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionPatch(**settings)


def test_blocks_without_attention_are_blocks_too() -> None:
    run(attach(patcher(), AttentionPatch("block.input", "scale", 0.5, where=Where(parse("input:0")))))
    with pytest.raises(AddressError, match="this model has no block 'input:9'; it has input:0"):
        attach(patcher(), AttentionPatch("block.input", "scale", 0.5, where=Where(parse("input:9"))))


def test_every_operation_is_offered_and_a_patch_is_a_value() -> None:
    assert {operation for _, operation in PAIRS} == set(OPERATIONS)
    for slot, operation in PAIRS:
        one = patch(slot, operation)
        assert pickle.loads(pickle.dumps(one)) == one
