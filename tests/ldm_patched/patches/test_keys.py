"""Self-attention whose keys are not one for each token of the image: what a node further in makes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.method import Method
from attention_patchbay.ldm_patched.patches.engine.site import RECORDING
from attention_patchbay.ldm_patched.patches.methods.key_value_downsampling import KeyValueDownsampling, mean, nearest
from attention_patchbay.ldm_patched.patches.methods.map_injection import MapInjection
from attention_patchbay.ldm_patched.patches.methods.prompt_to_prompt import PromptToPrompt
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference
from attention_patchbay.ldm_patched.patches.methods.self_attention_guidance import SelfAttentionGuidance
from attention_patchbay.ldm_patched.patches.methods.style_aligned import StyleAligned
from attention_patchbay.ldm_patched.patches.methods.tiled_attention import TiledAttention
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.sampling import samplers
from torch import Tensor

from .layers import HEADS, HERE, layers, near, options, plain, tokens
from .models import conditioning, draw, last_run, patcher
from .test_self_attention_guidance import shares_by_hand

MIDDLE = Where(parse("middle"))
GUIDANCE = SelfAttentionGuidance(where=MIDDLE)
REFERENCE = Reference(draw(9, 1, 4, 8, 8), where=MIDDLE)
TWO_REFERENCES = Reference(draw(9, 2, 4, 8, 8), where=MIDDLE)
PAIRS = PromptToPrompt(tuple(range(7)), (0, 1, 5, 3, 4, 5, 6), where=Where(parse("middle")))


def run(*methods: Method) -> tuple[Tensor, str]:
    """Sample two images with methods attached in this order; return the latent and what the report says."""
    model = patcher()
    for method in methods:
        model = attach(model, method)
    noise = draw(0, 2, 4, 8, 8)
    out = samplers.sample(model, noise, conditioning(1), conditioning(2), 4.0, 2, "euler", "normal", 1.0, seed=0)
    return out, report.text(last_run(model))


@pytest.mark.parametrize("further", ["style", "nearest", "mean"])
def test_the_guidance_looks_at_the_keys_of_the_image(further: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of a key, among all keys: those of the first picture stand behind; fewer keys are a smaller picture."""
    q, k, v = tokens(6, 4, 2)
    outer = StyleAligned(adain=False) if further == "style" else KeyValueDownsampling(2, further)
    memory: dict[str, dict[object, Tensor]] = {}
    monkeypatch.setattr("attention_patchbay.ldm_patched.patches.engine.gate.Gate.memory", lambda *_: memory)
    layers(GUIDANCE, outer)(q, k, v, options(6, 4, cond_or_uncond=[0]))
    (noted,) = memory["maps 0"].values()  # (b, 1, h, w)
    if further == "style":
        expected = shares_by_hand(q, torch.cat([k, k[:1].expand_as(k)], 1), HEADS)[:, :24]
    else:
        smaller = {"nearest": nearest, "mean": mean}[further](k, (6, 4), 2)
        expected = shares_by_hand(q, smaller, HEADS)
    expected = expected * (2 if further == "style" else 1)  # an even share is one of all keys
    assert noted.shape[2:] == ((6, 4) if further == "style" else (3, 2))
    assert (noted.flatten(1) - expected / expected.mean() * noted.mean()).abs().max() < 1e-4


@pytest.mark.parametrize("other", [StyleAligned(), REFERENCE, KeyValueDownsampling(2)], ids=lambda one: one.label)
@pytest.mark.parametrize("guidance_first", [True, False])
def test_guidance_and_further_or_fewer_keys_work_in_both_orders(other: Method, guidance_first: bool) -> None:
    both = (GUIDANCE, other) if guidance_first else (other, GUIDANCE)
    out, told = run(*both)
    assert "never ran" not in told
    assert all((out - run(one)[0]).abs().max() > 1e-3 for one in both)


@pytest.mark.parametrize("pairs_first", [True, False])
@pytest.mark.parametrize("reference", [REFERENCE, TWO_REFERENCES], ids=["one", "two"])
def test_pairs_are_of_images_and_not_of_references(pairs_first: bool, reference: Method) -> None:
    out, told = run(*((PAIRS, reference) if pairs_first else (reference, PAIRS)))
    assert "never ran" not in told
    assert all((out - run(one)[0]).abs().max() > 1e-3 for one in (PAIRS, reference))


@pytest.mark.parametrize("method", [StyleAligned(), MapInjection(where=Where(parse("all"))), PAIRS])
def test_references_share_nothing_with_each_other(method: Method) -> None:
    q, k, v = tokens(6, 4, 2)
    of_reference = options(6, 4, cond_or_uncond=[0], **{RECORDING: object()})
    assert near(layers(method)(q, k, v, of_reference), plain(q, k, v))
    assert not near(layers(replace(method, where=Where()))(q, k, v, options(6, 4, cond_or_uncond=[0])), plain(q, k, v))


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        (KeyValueDownsampling(2), StyleAligned()),
        (TiledAttention(8), TokenMerging(0.5)),
        (TokenMerging(0.5), TokenMerging(0.25)),
    ],
    ids=lambda one: one.label,
)
def test_tokens_that_are_no_picture_are_refused_by_node_and_block(inner: Method, outer: Method) -> None:
    q, k, v = tokens(6, 4, 2)
    wrong = rf"^{inner.name} in {HERE}: \d+ tokens are no 6x4 picture, {outer.name} merged, cut or added some"
    with pytest.raises(ValueError, match=wrong):
        layers(inner, outer)(q, k, v, options(6, 4, cond_or_uncond=[0]))
