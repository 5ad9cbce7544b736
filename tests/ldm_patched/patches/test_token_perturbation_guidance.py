"""Guidance away from shuffled tokens: the formula, the draws, and what stays where it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError
from attention_patchbay.ldm_patched.patches.addressing.families import FAMILIES
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.site import Site
from attention_patchbay.ldm_patched.patches.engine.stack import merged, split
from attention_patchbay.ldm_patched.patches.methods.token_perturbation_guidance import TokenPerturbationGuidance
from attention_patchbay.ldm_patched.sampling.cond_batch import calc_cond_batch

from .models import draw, patcher, run, unchanged
from .test_guidance import attend
from .test_views import IMAGE_TOKENS, TOKENS_OF_TEXT, attended, close, joint, net, softmax
from .test_views import split as by_head

ORDER = torch.randperm(12, generator=torch.Generator().manual_seed(0))
MIDDLE = Where.of("middle")


def test_shuffled_tokens_attend_as_their_results_in_another_order() -> None:
    q, k, v = draw(0, 2, 12, 8), draw(1, 2, 12, 8), draw(2, 2, 12, 8)

    def inner(*x: torch.Tensor) -> torch.Tensor:
        return split(attend(*(merged(one) for one in x), 2), 2)

    method = TokenPerturbationGuidance()
    out = merged(method.weak_attend(Site({}, tokens=12), split(q, 2), split(k, 2), split(v, 2), inner))
    shuffled = attend(*(x[:, ORDER] for x in (q, k, v)), 2)
    assert (out - shuffled).abs().max() < 1e-6 and (out - attend(q, k, v, 2)).abs().max() > 0.1


def test_the_guided_prediction_is_the_formula() -> None:
    """One step from the sampler's side, against the weak model built with plain hooks."""
    seen: list[dict[str, Any]] = []
    model, guidance = patcher(), TokenPerturbationGuidance(2.5, MIDDLE)
    model.set_model_sampler_post_cfg_function(lambda args: seen.append(args) or args["denoised"])
    run(attach(model, guidance), steps=1)
    args = seen[0]

    def weak_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        order = torch.randperm(q.shape[1], generator=torch.Generator().manual_seed(0))
        return attend(*(x[:, order] for x in (q, k, v)), options["n_heads"]).to(v.dtype)

    plain = patcher()
    plain.set_model_attn1_replace(weak_attention, "middle", 0)
    options = {"transformer_options": plain.model_options["transformer_options"]}
    (weak,) = calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
    out = attach(patcher(), guidance).model_options["sampler_post_cfg_function"][0](args)
    expected = args["denoised"] + 2.5 * (args["cond_denoised"] - weak)
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max() and not torch.equal(weak, args["cond_denoised"])


def test_runs_are_alike_and_scale_0_is_bit_equal() -> None:
    model = patcher()
    base = run(model)
    with unchanged(model):
        guided = attach(model, TokenPerturbationGuidance(2.0, MIDDLE))
        assert torch.equal(run(guided), run(guided)) and not torch.equal(run(guided), base)
        assert torch.equal(run(attach(model, TokenPerturbationGuidance(0.0, MIDDLE))), base)
        assert torch.equal(run(attach(model, TokenPerturbationGuidance(2.0, Where.of("middle", 0.5, 0.5)))), base)


@pytest.mark.parametrize(("family", "text_first"), [("Flux", True), ("JoyImageTransformer3DModel", False)])
def test_in_a_joint_sequence_the_text_stays_in_its_places(family: str, text_first: bool) -> None:
    sampling = SimpleNamespace(percent_to_sigma=lambda percent: 1.0 - percent)
    whole: Any = SimpleNamespace(diffusion_model=net(family, FAMILIES[family].blocks), model_sampling=sampling)
    model = attach(ModelPatcher(whole, "cpu", "cpu", size=1), TokenPerturbationGuidance(2.0, Where.of("all")))
    guide = model.model_options["sampler_post_cfg_function"].pop()
    model.model_options["transformer_options"] = guide.act.weakened(model.model_options["transformer_options"])
    q, k, v = joint()
    out = by_head(attended(model, [q, k, v], family, skip_reshape=True))
    wanted = softmax(q, k, v)
    image = slice(TOKENS_OF_TEXT, None) if text_first else slice(IMAGE_TOKENS)
    order = torch.randperm(IMAGE_TOKENS, generator=torch.Generator().manual_seed(0))
    wanted[:, :, image] = wanted[:, :, image][:, :, order]
    close(out, wanted)


def test_cross_attention_is_refused() -> None:
    with pytest.raises(AddressError, match="says cross, but this is for self-attention"):
        attach(patcher(), TokenPerturbationGuidance(where=Where.of("middle cross")))
