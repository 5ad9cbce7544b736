"""A patched UNet of diffusers gives what this library's UNet gives with the same weights and patches."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.on_diffusers import patched
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.prompts import prompt_of
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.attention_temperature import AttentionTemperature
from attention_patchbay.ldm_patched.patches.methods.block_scale import BlockScale
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word
from attention_patchbay.ldm_patched.patches.methods.free_u import FreeU
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.methods.self_attention_guidance import SelfAttentionGuidance
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging
from attention_patchbay.ldm_patched.patches.methods.whole_block_guidance import WholeBlockGuidance
from attention_patchbay.ldm_patched.patches.methods.whole_block_skip import WholeBlockSkip
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.reading.maps import gathered_in
from attention_patchbay.ldm_patched.patches.reading.report import fates, table
from attention_patchbay.ldm_patched.patches.record.archive import ARCHIVE
from attention_patchbay.ldm_patched.patches.record.plan import plan_of
from attention_patchbay.ldm_patched.patches.routing.rules import attach_rules, parse_rules
from attention_patchbay.ldm_patched.sampling.preparation import run_options
from torch import Tensor

from ...unets import draw
from .tiny import CFG, NOISE, WORDS, euler, same_unet, sampled_by_diffusers, sampled_here, unet

OTHER = prompt_of([[draw(5, 1, WORDS, 16), {}]])
LEFT = torch.zeros(1, 8, 8)
LEFT[..., :4] = 1.0
NEUTRAL = AttentionTemperature(temperature=1.0)
METHODS = {
    "temperature in a window": AttentionTemperature(temperature=0.5, where=Where.of("output", 0.3, 1.0, kind="self")),
    "word weight": WordWeight(positions=(1, 2), weight=4.0, length=WORDS),
    "normalized guidance": NormalizedGuidance(negative=OTHER, scale=4.0),
    "perturbed guidance": PerturbedGuidance(scale=2.0, where=Where.of("middle", 0.0, 0.7, kind="self")),
    "self-attention guidance": SelfAttentionGuidance(),
    "regional prompt": RegionalPrompt(regions=(Region(OTHER, LEFT),)),
    "token merging": TokenMerging(ratio=0.5, where=Where.of("input:1", kind="self")),
    "scaled blocks": BlockScale(backbone=1.5, skip=0.5, where=Where.of("all", kind="block")),
    "FreeU": FreeU(),
    "behind the skip": AttentionPatch("block.after_skip", "scale", 0.5, where=Where.of("input:0-1", kind="block")),
    "skipped blocks": WholeBlockSkip(where=Where.of("input:1, middle, output:0", kind="block")),
    "skip-block guidance": WholeBlockGuidance(scale=2.0, where=Where.of("middle", kind="block")),
    "queries": AttentionPatch("attn1.q", "scale", 0.5, where=Where.of("input:3")),
}


def patched_run(*methods: Any) -> tuple[Tensor, Any]:
    """Return what the patched UNet of diffusers gives, and the record; nothing of the patches stays."""
    patched.patch(unet(), methods)
    try:
        scheduler = euler()
        with patched.running(unet(), scheduler, CFG) as run:
            return sampled_by_diffusers(scheduler), run
    finally:
        patched.unpatch(unet())


def error(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_both_networks_are_the_same() -> None:
    assert error(sampled_by_diffusers(euler()), sampled_here(same_unet())) < 1e-5


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_the_same_on_both(name: str) -> None:
    out, run = patched_run(METHODS[name])
    assert error(out, sampled_here(attach(same_unet(), METHODS[name]))) < 1e-4
    assert error(out, sampled_by_diffusers(euler())) > 1e-3
    assert all(row["ran"] for row in fates(run))


def test_a_reference_is_a_latent_in_the_scale_of_the_pipeline() -> None:
    latent, scale = draw(6, 1, 4, 8, 8), same_unet().model.latent_format.scale_factor
    out, _ = patched_run(Reference(latent=latent))
    assert error(out, sampled_here(attach(same_unet(), Reference(latent=latent / scale)))) < 1e-4
    assert error(out, sampled_by_diffusers(euler())) > 1e-3


def test_together_they_give_the_same_and_the_same_report() -> None:
    several = [METHODS["word weight"], METHODS["perturbed guidance"], METHODS["temperature in a window"]]
    out, run = patched_run(*several, *parse_rules("output:1 -> basic; middle cross 0-50% -> sub_quad"))
    model = same_unet()
    for method in several:
        model = attach(model, method)  # type: ignore[assignment]
    model = attach_rules(model, parse_rules("output:1 -> basic; middle cross 0-50% -> sub_quad"))  # type: ignore[assignment]
    here = sampled_here(model)
    assert error(out, here) < 1e-4
    same = ARCHIVE.find(here / same_unet().model.latent_format.scale_factor, plan_of(model))
    facts = ("block", "attention", "heads", "calls", "steps", "patches")
    rows, expected = (sorted([row[fact] for fact in facts] for row in table(one)) for one in (run, same))
    assert rows == expected  # the names of functions order them in the table
    ran = {(row["block"], row["attention"]): row["function"] for row in table(run)}
    assert ran["output:1", "self"] == "basic" and ran["input:1", "self"] == "diffusers"


def test_captured_attention_is_the_same() -> None:
    capture = Capture(words=(Word("one", (1,)), Word("two", (2, 3))), length=WORDS)
    out, run = patched_run(capture)
    assert torch.equal(out, sampled_by_diffusers(euler()))  # listening changes nothing
    here = sampled_here(attach(same_unet(), capture))
    same = ARCHIVE.find(here / same_unet().model.latent_format.scale_factor, plan_of(attach(same_unet(), capture)))
    (one,), (other,) = gathered_in(run), gathered_in(same)
    assert one.blocks.keys() == other.blocks.keys() and len(one.blocks) == 7
    for block, sums in one.blocks.items():
        assert torch.allclose(sums.attention, other.blocks[block].attention, atol=1e-4)


def test_a_neutral_method_is_bit_equal() -> None:
    out, run = patched_run(NEUTRAL)
    assert torch.equal(out, sampled_by_diffusers(euler()))
    assert {row["function"] for row in table(run)} == {"diffusers"}


@torch.no_grad()
def test_steps_are_counted_from_the_first_that_is_made() -> None:
    """A pipeline that begins with a picture leaves out the first steps of its scheduler."""
    scheduler = euler()
    scheduler.set_begin_index(1)
    patched.patch(unet(), [NEUTRAL])
    with patched.running(unet(), scheduler) as run:
        for t in scheduler.timesteps[1:]:
            unet()(NOISE, t, encoder_hidden_states=draw(1, 1, WORDS, 16))
    patched.unpatch(unet())
    assert {row["steps"] for row in table(run)} == {"1-2"}


def test_one_prompt_is_one_chunk() -> None:
    method = METHODS["normalized guidance"]
    patched.patch(unet(), [method])
    scheduler = euler()
    t = scheduler.timesteps[0]
    with torch.no_grad(), patched.running(unet(), scheduler):
        out = unet()(NOISE, t, encoder_hidden_states=draw(1, 1, WORDS, 16), return_dict=False)[0]
    patched.unpatch(unet())
    model: Any = attach(same_unet(), method)
    sigma = scheduler.sigmas[:1]
    x = NOISE * (1 + sigma**2) ** 0.5
    options = {**run_options(model)["transformer_options"], "sigmas": sigma, "cond_or_uncond": [0]}
    here = model.model.apply_model(x, sigma, c_crossattn=draw(1, 1, WORDS, 16), transformer_options=options)
    assert error(x - out * sigma, here) < 1e-4


# On and off


def test_what_was_there_is_there_again() -> None:
    before, plain = dict(unet().attn_processors), sampled_by_diffusers(euler())
    patched_run(METHODS["word weight"])
    after = unet().attn_processors
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
    assert "forward" not in vars(unet()) and not hasattr(unet(), "_diffusers_hook")
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in unet().modules())
    assert torch.equal(sampled_by_diffusers(euler()), plain)


def test_it_is_off_after_an_error_in_a_run() -> None:
    plain = sampled_by_diffusers(euler())
    patched.patch(unet(), [NEUTRAL])
    with pytest.raises(ZeroDivisionError), patched.running(unet(), euler(), CFG):
        raise ZeroDivisionError
    patched.unpatch(unet())
    assert torch.equal(sampled_by_diffusers(euler()), plain)


def test_a_call_outside_of_a_run_is_refused() -> None:
    patched.patch(unet(), [NEUTRAL])
    try:
        with pytest.raises(RuntimeError, match="outside of a run"):
            sampled_by_diffusers(euler())
    finally:
        patched.unpatch(unet())
    patched.unpatch(unet())  # once more does nothing


def test_what_cannot_be_done_is_refused_in_words() -> None:
    with pytest.raises(AddressError, match="between the attentions of a block"):
        patched.patch(unet(), [AttentionPatch("middle", "scale", 0.5)])
    with pytest.raises(AddressError, match="no block 'output:9'"):
        patched.patch(unet(), [AttentionTemperature(temperature=0.5, where=Where.of("output:9", kind="self"))])
    with pytest.raises(TypeError, match="Linear cannot be patched"):
        patched.patch(torch.nn.Linear(1, 1), [NEUTRAL])
    with pytest.raises(ValueError, match="has no patches"), patched.running(unet(), euler()):
        pass
    assert not hasattr(unet(), "_diffusers_hook")


def test_an_unknown_processor_is_refused() -> None:
    from diffusers.models.attention_processor import AttnProcessor

    before = dict(unet().attn_processors)
    unet().set_attn_processor(AttnProcessor())
    try:
        with pytest.raises(TypeError, match="input:1 has the attention processor AttnProcessor, which"):
            patched.patch(unet(), [NEUTRAL])
    finally:
        unet().set_attn_processor(before)


def test_a_compiled_network_is_refused() -> None:
    net = copy.deepcopy(unet())
    net.mid_block._compiled_call_impl = net.mid_block.forward  # as its `compile()` leaves one
    with pytest.raises(TypeError, match="UNet2DConditionModel is compiled"):
        patched.patch(net, [NEUTRAL])


def test_a_run_needs_to_know_its_noise_levels_and_its_prompts() -> None:
    patched.patch(unet(), [NEUTRAL])
    try:
        with pytest.raises(TypeError, match="no scheduler"), patched.running(unet()):
            pass
        with pytest.raises(ValueError, match="the call has 1 rows"), patched.running(unet(), euler(), CFG):
            unet()(NOISE, 5, encoder_hidden_states=draw(1, 1, WORDS, 16))
        with pytest.raises(RuntimeError, match="under way"), patched.running(unet(), euler()):
            patched.unpatch(unet())
    finally:
        patched.unpatch(unet())


@torch.no_grad()
def test_half_precision_stays_half_precision() -> None:
    net = copy.deepcopy(unet()).to(torch.bfloat16)
    x, texts = draw(0, 2, 4, 8, 8).bfloat16(), draw(1, 2, WORDS, 16).bfloat16()
    plain = net(x, 500, texts).sample
    patched.patch(net, [METHODS["normalized guidance"], PerturbedGuidance(scale=2.0)])
    with patched.running(net, euler(), CFG) as run:
        out = net(x, 500, texts).sample
    patched.unpatch(net)
    assert out.dtype == torch.bfloat16 and all(row["ran"] for row in fates(run))
    assert error(out.float(), plain.float()) > 1e-2
    assert torch.equal(net(x, 500, texts).sample, plain)
