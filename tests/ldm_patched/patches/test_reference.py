"""Reference attention: against keys and values recorded by plain hooks, both orders of the sides, cost, composition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine import declaration
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference
from attention_patchbay.ldm_patched.patches.methods.smoothed_guidance import SmoothedGuidance
from attention_patchbay.ldm_patched.patches.methods.style_aligned import StyleAligned
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.sampling.preparation import run_options

from .models import STEPS, draw, last_run, patcher, run, unchanged

MIDDLE = parse("middle")
LATENT = draw(9, 1, 4, 6, 8)
SIGMA = 2.0


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    q, k, v = (x.double().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2).float()


def call(model: Any, x: torch.Tensor, context: torch.Tensor, sides: list[int]) -> torch.Tensor:
    """Call a patched model once, as a sampler does."""
    t = torch.full((len(x),), SIGMA)
    options = {**run_options(model)["transformer_options"], "cond_or_uncond": sides, "sigmas": t}
    return model.model.apply_model(x, t, c_crossattn=context, transformer_options=options)


def by_hand(x: torch.Tensor, context: torch.Tensor, latents: list[torch.Tensor], strength: float) -> torch.Tensor:
    """Predict one row: record the middle's keys and values of each noisy reference, then append them."""
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def record(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        kept.append((k, v))
        return attend(q, k, v, options["n_heads"])

    def append(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        keys, values = (torch.cat([own, *more], 1) for own, more in zip((k, v), zip(*kept, strict=True), strict=True))
        alone = attend(q, k, v, options["n_heads"])
        return (1 - strength) * alone + strength * attend(q, keys, values, options["n_heads"])

    for noisy in latents:
        recording = patcher()
        recording.set_model_attn1_replace(record, "middle", 0)
        call(recording, noisy, context, [0])
    appending = patcher()
    appending.set_model_attn1_replace(append, "middle", 0)
    return call(appending, x, context, [0])


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_it_attends_to_the_tokens_of_the_noisy_reference(count: int, strength: float, negative: bool) -> None:
    reference = Reference(draw(9, count, 4, 6, 8), 5, negative, strength, Where(MIDDLE))
    base = patcher()
    scaled = base.model.process_latent_in(reference.latent)
    noise = torch.randn(count, 4, 6, 8, generator=torch.Generator().manual_seed(5))
    noisy = [scaled[i : i + 1] + SIGMA * noise[i : i + 1] for i in range(count)]
    x, contexts = draw(0, 4, 4, 8, 8), draw(1, 2, 7, 16).repeat_interleave(2, dim=0)
    out = call(attach(base, reference), x, contexts, [1, 0])
    strengths = [strength * negative] * 2 + [strength] * 2
    expected = torch.cat([by_hand(x[i : i + 1], contexts[i : i + 1], noisy, strengths[i]) for i in range(4)])
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()
    changed = (out - call(base, x, contexts, [1, 0])).abs().amax((1, 2, 3)) > 1e-3 * expected.abs().max()
    assert changed.tolist() == [negative, negative, True, True]
    apart = [call(attach(base, reference), x[i : i + 2], contexts[i : i + 2], [side]) for i, side in ((2, 0), (0, 1))]
    assert torch.allclose(torch.cat(apart[::-1]), out, atol=1e-5 * float(out.abs().max()))


def test_strength_0_is_bit_equal_and_the_input_model_is_left_alone() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        shared = attach(model, Reference(LATENT))
        changed = run(shared)
        assert torch.equal(run(attach(model, Reference(LATENT, strength=0.0))), base)
    assert torch.equal(run(model), base) and not torch.equal(changed, base)
    assert torch.equal(run(shared), changed) and torch.equal(run(shared.clone()), changed)
    assert not torch.equal(run(attach(model, Reference(LATENT, seed=1))), changed)
    assert last_run(shared).memories == {}


def calls(*methods: Any) -> list[int]:
    """Return the batch of every call of the network in one run."""
    batches: list[int] = []
    model = patcher()
    for method in methods:
        model = attach(model, method)

    def count(emb: torch.Tensor, channels: int, options: dict[str, Any]) -> torch.Tensor:
        batches.append(len(emb))
        return emb

    model.set_model_patch(count, "emb_patch")
    run(model)
    return batches


def test_it_costs_one_call_with_a_row_for_each_side_that_sees_it_and_none_outside_its_window() -> None:
    assert calls() == [2] * STEPS
    assert calls(Reference(LATENT, where=Where(MIDDLE))) == [1, 2] * STEPS
    assert calls(Reference(LATENT, negative=True)) == [2, 2] * STEPS
    assert calls(Reference(LATENT, where=Where(schedule=Schedule(0.0, 0.5)))) == [1, 2] * (STEPS // 2) + [2] * (
        STEPS // 2
    )
    assert calls(Reference(LATENT), Reference(LATENT, 1)) == [1, 1, 2] * STEPS


def test_window_and_curve() -> None:
    by_curve = run(attach(patcher(), Reference(LATENT, where=Where(schedule=Schedule(curve="0:0.5, 1:0.5")))))
    assert torch.allclose(by_curve, run(attach(patcher(), Reference(LATENT, strength=0.5))))
    never = attach(patcher(), Reference(LATENT, where=Where(schedule=Schedule(0.0, 0.0))))
    assert torch.equal(run(never), run(patcher()))
    assert "never ran, no step of the run lay in its window" in report.text(last_run(never))


def test_two_references_are_one_softmax_in_any_order() -> None:
    first, second = Reference(LATENT, where=Where(MIDDLE)), Reference(draw(8, 1, 4, 8, 8), where=Where(MIDDLE))
    x, context = draw(0, 1, 4, 8, 8), draw(1, 1, 7, 16)
    out = [call(attach(attach(patcher(), a), b), x, context, [0]) for a, b in ((first, second), (second, first))]
    scaled = [patcher().model.process_latent_in(one.latent) + SIGMA * one.noise() for one in (first, second)]
    expected = by_hand(x, context, scaled, 1.0)
    for one in out:
        assert (one - expected).abs().max() < 1e-4 * expected.abs().max()


def test_it_composes_with_guidance_a_patch_and_sharing() -> None:
    methods = [
        AttentionPatch("attn1.q", "scale", 0.8, where=Where(MIDDLE)),
        StyleAligned(where=Where(MIDDLE)),
        Reference(LATENT, negative=True, where=Where(MIDDLE)),
        SmoothedGuidance(scale=1.0, where=Where(MIDDLE)),
    ]
    for order in (methods, methods[::-1]):
        model = patcher()
        for method in order:
            model = attach(model, method)
        assert run(model).isfinite().all()
        text = report.text(last_run(model))
        assert f"reference attention on both sides on middle: ran {2 * STEPS} times in 1 of 1 blocks" in text


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="the reference is 4x8x8; give a latent of pictures"):
        Reference(LATENT.new_zeros(4, 8, 8))
    with pytest.raises(ValueError, match="strength is nan"):
        Reference(LATENT, strength=math.nan)
    with pytest.raises(ValueError, match="says cross, but this is for self-attention"):
        Reference(LATENT, where=Where(parse("middle cross")))
    with pytest.raises(ValueError, match="has 3 latent channels and the picture 4; encode it with the VAE"):
        attach(patcher(), Reference(LATENT[:, :3]))


def test_the_one_frame_that_a_vae_of_videos_makes_of_a_picture_is_that_picture() -> None:
    frame = declaration.made(Reference, {"reference": {"samples": LATENT[:, :, None]}})
    assert torch.equal(frame.latent, LATENT)
    with pytest.raises(ValueError, match="is 1x4x2x6x8; give a latent of pictures, of a video that of one frame"):
        declaration.made(Reference, {"reference": {"samples": LATENT[:, :, None].expand(1, 4, 2, 6, 8)}})
