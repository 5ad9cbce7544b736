"""Sampling from parts: guiders and noise. The numbers of the nodes without a model are compared in tests/contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from torch import Tensor

NODES = catalog()
LATENT = {"samples": torch.zeros(1, 4, 16, 16)}


def node(name: str, **inputs: Any) -> Any:
    return NODES[name].execute(**inputs).args[0]


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    model, clip, _ = load_checkpoint(CHECKPOINT)
    prompts = ("a red circle", "a blue square", "")
    return {"model": model} | {text: clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in prompts}


def run(guider: Any, sampler: Any = None, seed: int | None = 3) -> Tensor:
    noise = node("DisableNoise") if seed is None else node("RandomNoise", noise_seed=seed)
    sigmas = node("KarrasScheduler", steps=2, sigma_max=14.6, sigma_min=0.03, rho=7.0)
    sampler = sampler or node("KSamplerSelect", sampler_name="euler")
    shared = {"sampler": sampler, "sigmas": sigmas, "latent_image": LATENT}
    return node("SamplerCustomAdvanced", noise=noise, guider=guider, **shared)["samples"]


def test_the_parts_give_what_the_whole_sampler_gives(parts: dict[str, Any]) -> None:
    model, red, empty = parts["model"], parts["a red circle"], parts[""]
    whole = node(
        "SamplerCustom",
        model=model,
        add_noise=True,
        noise_seed=3,
        cfg=4.0,
        positive=red,
        negative=empty,
        sampler=node("KSamplerSelect", sampler_name="euler"),
        sigmas=node("KarrasScheduler", steps=2, sigma_max=14.6, sigma_min=0.03, rho=7.0),
        latent_image=LATENT,
    )["samples"]
    given = run(node("CFGGuider", model=model, positive=red, negative=empty, cfg=4.0))
    assert torch.equal(given, whole)
    assert not torch.equal(run(node("CFGGuider", model=model, positive=red, negative=empty, cfg=4.0), seed=None), whole)


def test_one_prompt_is_guidance_1_and_an_override_is_what_it_says(parts: dict[str, Any]) -> None:
    model, red, empty = parts["model"], parts["a red circle"], parts[""]
    one = run(node("BasicGuider", model=model, conditioning=red))
    assert torch.equal(one, run(node("CFGGuider", model=model, positive=red, negative=empty, cfg=1.0)))
    changed = node("CFGOverride", model=model, cfg=1.0, start_percent=0.0, end_percent=1.0)
    guided = run(node("CFGGuider", model=changed, positive=red, negative=empty, cfg=9.0))
    torch.testing.assert_close(guided, one)


def test_guiders_of_three_follow_their_formulas(parts: dict[str, Any]) -> None:
    model, red, blue, empty = (parts[name] for name in ("model", "a red circle", "a blue square", ""))
    plain = run(node("CFGGuider", model=model, positive=red, negative=empty, cfg=4.0))
    dual = {"model": model, "negative": empty, "style": "regular"}
    same = run(node("DualCFGGuider", **dual, cond1=red, cond2=red, cfg_conds=1.0, cfg_cond2_negative=4.0))
    torch.testing.assert_close(same, plain, atol=1e-4, rtol=1e-4)
    other = run(node("DualCFGGuider", **dual, cond1=red, cond2=blue, cfg_conds=3.0, cfg_cond2_negative=4.0))
    assert not torch.allclose(other, plain, atol=0.1)
    perp = {"model": model, "positive": red, "empty_conditioning": empty, "cfg": 4.0}
    away = run(node("PerpNegGuider", **perp, negative=empty, neg_scale=1.0))
    torch.testing.assert_close(away, plain, atol=1e-4, rtol=1e-4)


def test_the_ancestral_sampler_without_new_noise_is_eulers(parts: dict[str, Any]) -> None:
    guider = node("BasicGuider", model=parts["model"], conditioning=parts["a red circle"])
    still = run(guider, node("SamplerEulerAncestral", eta=0.0, s_noise=1.0))
    torch.testing.assert_close(still, run(guider))
    assert not torch.allclose(still, run(guider, node("SamplerEulerAncestral", eta=1.0, s_noise=1.0)), atol=0.1)
