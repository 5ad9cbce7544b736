"""Patched transformers of diffusers: bit-equal where nothing acts, and exact where something does."""

from __future__ import annotations

import copy
import functools
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.on_diffusers import patched
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.attention_temperature import AttentionTemperature
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.methods.whole_block_skip import WholeBlockSkip
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.reading.maps import gathered_in
from attention_patchbay.ldm_patched.patches.reading.report import table
from attention_patchbay.ldm_patched.patches.routing.rules import parse_rules
from torch import Tensor

from ...unets import draw
from .tiny import MAKERS, STEPS, WORDS, flow, sampled, transformer

NAMES = list(MAKERS)
FIRST = Where.of("double:0")


def run_of(name: str, *methods: Any, cfg: float = 1.0) -> tuple[Tensor, Any]:
    """Return what a patched transformer gives, and the record; nothing of the patches stays."""
    net = transformer(name)[0]
    patched.patch(net, methods)
    try:
        scheduler = flow()
        with patched.running(net, scheduler) as run:
            return sampled(name, scheduler, cfg), run
    finally:
        patched.unpatch(net)


def error(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", NAMES)
def test_listening_and_neutral_methods_are_bit_equal(name: str) -> None:
    plain = sampled(name, flow(), 3.0)
    capture = Capture(words=(Word("one", (1,)),), length=WORDS)
    out, run = run_of(name, AttentionTemperature(temperature=1.0), cfg=3.0)
    assert torch.equal(out, plain)
    seen = [row["block"] for row in table(run) if row["attention"] == "self"]
    assert seen == ["double:0", "double:1", *(["single:0"] if name == "Flux" else [])]
    assert {row["heads"] for row in table(run)} == {"2 x 16"}
    assert all(row["steps"] == f"1-{STEPS}" and row["function"] == "diffusers" for row in table(run))
    out, run = run_of(name, capture, cfg=3.0)
    assert error(out, plain) < 1e-5
    (found,) = gathered_in(run)
    assert {sums.calls for sums in found.blocks.values()} == {STEPS}  # of the positive prompt alone
    net, x, _ = transformer(name)
    assert "forward" not in vars(net) and torch.equal(sampled(name, flow(), 3.0), plain)


@pytest.mark.parametrize("name", NAMES)
def test_rules_choose_the_function_by_block_and_step(name: str) -> None:
    out, run = run_of(name, *parse_rules("double:1 40-100% -> basic"))
    assert error(out, sampled(name, flow())) < 1e-5
    ran = {(row["block"], row["function"]): row["steps"] for row in table(run)}
    # the second of three steps lies about the middle of the way, whatever the scheduler's shift
    assert ran["double:1", "basic"] == f"2-{STEPS}" and ran["double:1", "diffusers"] == "1"
    assert ran["double:0", "diffusers"] == f"1-{STEPS}"


def zeroed(own: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a processor of diffusers whose attention gives the picture nothing: what is behind the text is 0."""
    there = sys.modules[type(own).__module__]
    real = there.dispatch_attention_fn

    def nothing(q: Tensor, *rest: Any, **more: Any) -> Tensor:
        out: Tensor = real(q, *rest, **more)
        return torch.cat([out[:, :WORDS], torch.zeros_like(out[:, WORDS:])], dim=1)

    @functools.wraps(type(own).__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(there, "dispatch_attention_fn", nothing)
            return own(*args, **kwargs)

    return type("Zeroed", (), {"__call__": call})()


@pytest.mark.parametrize("name", ["Flux", "Qwen-Image"])
def test_a_patch_acts_on_the_picture_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = transformer(name)[0]
    out, _ = run_of(name, AttentionPatch("attn1.out", "zero", where=FIRST))
    before = dict(net.attn_processors)
    place = "transformer_blocks.0.attn.processor"
    net.set_attn_processor({**before, place: zeroed(before[place], monkeypatch)})
    try:
        truth = sampled(name, flow())
    finally:
        net.set_attn_processor(before)
    assert error(out, truth) < 1e-5
    assert error(out, sampled(name, flow())) > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_a_word_without_values_is_a_word_whose_values_are_zero(name: str) -> None:
    """Word Weight at 0 on all blocks, and at 1 beside it: the first moves the picture, the second is neutral."""
    plain = sampled(name, flow())
    assert error(run_of(name, WordWeight(positions=(1,), weight=0.0, length=WORDS))[0], plain) > 1e-3
    assert torch.equal(run_of(name, WordWeight(positions=(1,), weight=1.0, length=WORDS))[0], plain)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [WORDS - 2, WORDS])
def test_a_further_prompt_that_is_the_own_one_changes_nothing(name: str, length: int) -> None:
    """Normalized guidance away from the very prompt is no guidance; another prompt, of another length, moves."""
    own = transformer(name)[2]["encoder_hidden_states"]
    plain = sampled(name, flow())
    moved, run = run_of(name, NormalizedGuidance(negative=draw(5, 1, length, 32), scale=4.0))
    assert error(moved, plain) > 1e-2 and any("Further prompts" in note for note in run.notes)
    if name != "Qwen-Image" and length == WORDS:  # whose own prompt has a mask
        out, _ = run_of(name, NormalizedGuidance(negative=own, scale=4.0, tau=100.0))
        assert error(out, plain) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_guidance_is_added_once_whatever_the_scale(name: str) -> None:
    """The first step: guided + scale * (cond - weak), with the weak prediction made by a patch of its own."""
    net, x, given = transformer(name)
    where = Where.of("double:1", kind="self")
    both: dict[str, Tensor] = {}

    def first(*methods: Any) -> dict[str, Tensor]:
        patched.patch(net, methods or [AttentionTemperature(temperature=1.0)])
        scheduler = flow()
        t = scheduler.timesteps[:1] / (1.0 if name == "Wan" else 1000.0)
        with torch.no_grad(), patched.running(net, scheduler):
            for side, text in (("cond", given["encoder_hidden_states"]), ("uncond", draw(9, 1, WORDS, 32))):
                with net.cache_context(side):
                    both[side] = net(hidden_states=x, timestep=t, **{**given, "encoder_hidden_states": text}).sample
        patched.unpatch(net)
        return dict(both)

    plain, guided = first(), first(PerturbedGuidance(scale=2.0, where=where))
    added = guided["cond"] - plain["cond"]
    assert float(added.norm() / plain["cond"].norm()) > 1e-3
    assert torch.allclose(guided["uncond"] - plain["uncond"], added, atol=1e-5)


def test_each_of_two_networks_has_a_run_of_its_own() -> None:
    """As Wan 2.2 has them, one for the high noise levels and one for the low."""
    high = transformer("Wan")[0]
    low, (_, x, given) = copy.deepcopy(high), transformer("Wan")
    pipe = SimpleNamespace(transformer=high, transformer_2=low)
    with pytest.raises(TypeError, match="has 2 networks that denoise"):
        patched.patch(pipe, [AttentionTemperature(temperature=0.5)])
    for net in (high, low):
        patched.patch(net, [AttentionTemperature(temperature=0.5)])
    scheduler = flow()
    with torch.no_grad(), patched.running(high, scheduler) as first, patched.running(low, scheduler) as second:
        for net, t in zip((high, high, low), scheduler.timesteps, strict=True):
            net(hidden_states=x, timestep=t.expand(1), **given)
    assert {row["steps"] for row in table(first)} == {"1-2"} and {row["steps"] for row in table(second)} == {"3"}
    patched.unpatch(high)


def test_whole_blocks_are_refused() -> None:
    net = transformer("Flux")[0]
    with pytest.raises(AddressError, match="acts on whole blocks"):
        patched.patch(net, [WholeBlockSkip(where=Where.of("double:0", kind="block"))])
    assert not hasattr(net, "_diffusers_hook") or not net._diffusers_hook.hooks


@torch.no_grad()
def test_guidance_leaves_the_tokens_of_a_reference_alone() -> None:
    """Flux Kontext puts a reference behind the picture, whose places have another first id."""
    net, x, given = transformer("Flux")
    places = given["img_ids"][:12] + torch.tensor([1.0, 0.0, 0.0])
    more = {**given, "img_ids": torch.cat([given["img_ids"], places]), "timestep": torch.tensor([0.5])}
    both = torch.cat([x, draw(8, 1, 12, 16)], dim=1)
    plain = net(hidden_states=both, **more).sample
    patched.patch(net, [PerturbedGuidance(scale=2.0, where=Where.of("double:1", kind="self"))])
    with patched.running(net, flow()):
        out = net(hidden_states=both, **more).sample
    patched.unpatch(net)
    assert torch.equal(out[:, 24:], plain[:, 24:])
    assert error(out[:, :24], plain[:, :24]) > 1e-3


@torch.no_grad()
def test_the_report_names_the_backend_that_diffusers_was_told() -> None:
    net, x, given = transformer("Wan")
    plain = net(hidden_states=x, timestep=torch.tensor([500.0]), **given).sample
    patched.patch(net, [AttentionTemperature(temperature=1.0)])
    try:
        net.set_attention_backend("native")
        with patched.running(net, flow()) as run:
            out = net(hidden_states=x, timestep=torch.tensor([500.0]), **given).sample
    finally:
        patched.unpatch(net)
        net.reset_attention_backend()
    assert torch.equal(out, plain)
    assert {row["function"] for row in table(run)} == {"diffusers native"}
