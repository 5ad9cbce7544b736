"""Further prompts of transformers as columns behind the text, against attention by hand in float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.families import FAMILIES
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.further_prompts import Call, with_rows
from attention_patchbay.ldm_patched.patches.engine.rows import ROWS, WANTED, Columns, Rows
from attention_patchbay.ldm_patched.patches.engine.stack import CONTEXT
from attention_patchbay.ldm_patched.patches.engine.tokens import TOKENS, Tokens
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.record.plan import KEY, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from torch import Tensor

from .models import draw
from .test_views import DIM, GRID, HEADS, IMAGE_TOKENS, B, attended, close, patched, softmax, split

OWN, FIRST, SECOND = 5, 4, 7  # tokens of the call's prompt and of two further ones
WAN = "WanModel"
LEFT = torch.zeros(1, *GRID[1:])
LEFT[:, :, :3] = 1.0
INSIDE = torch.arange(IMAGE_TOKENS).view(GRID[1:])[:, :3].flatten()


def regions(blocks: str = "all") -> RegionalPrompt:
    some = (torch.zeros(1, FIRST, 3), LEFT), (torch.zeros(1, SECOND, 3), 1.0 - LEFT)
    return RegionalPrompt(tuple(Region(*one) for one in some), where=Where.of(blocks, kind="cross"))


def given() -> list[Tensor]:
    """Return q of the image and k, v of the text with the columns of two further prompts."""
    tokens = OWN + FIRST + SECOND
    return [draw(1, B, HEADS, IMAGE_TOKENS, DIM), *(draw(seed, B, HEADS, tokens, DIM) for seed in (2, 3))]


def called(model: Any, **kwargs: Any) -> Tensor:
    options = model.model_options["transformer_options"]
    options[ROWS] = Columns(OWN, ((1, FIRST), (1, SECOND)))
    return split(attended(model, given(), WAN, context=draw(9, B, OWN, 3), skip_reshape=True, **kwargs))


def test_each_region_attends_to_the_columns_of_its_prompt_and_the_negative_to_none() -> None:
    q, k, v = given()
    wanted = softmax(q, k[:, :, :OWN], v[:, :, :OWN])
    first, second = slice(OWN, OWN + FIRST), slice(OWN + FIRST, None)
    wanted[:1] = softmax(q[:1], k[:1, :, second], v[:1, :, second])
    wanted[:1, :, INSIDE] = softmax(q[:1, :, INSIDE], k[:1, :, first], v[:1, :, first])
    close(called(patched(regions(), WAN)), wanted)


def test_towards_another_prompt_changes_no_region_that_has_a_prompt_of_its_own() -> None:
    q, k, v = given()
    k, v = (x[:, :, : OWN + FIRST + OWN] for x in (k, v))
    whole = RegionalPrompt((Region(torch.zeros(1, FIRST, 3), torch.ones(1, *GRID[1:])),))
    towards = AttentionPatch("attn2.v", "towards", 1.0, 1.0, other=torch.zeros(1, OWN, 3))
    model = attach(patched(towards, WAN), whole)
    model.model_options["transformer_options"][ROWS] = Columns(OWN, ((1, OWN), (2, FIRST)))
    out = split(attended(model, [q, k, v], WAN, context=draw(9, B, OWN, 3), skip_reshape=True))
    wanted = softmax(q, k[:, :, :OWN], v[:, :, :OWN])
    wanted[:1] = softmax(q[:1], k[:1, :, 2 * OWN :], v[:1, :, 2 * OWN :])
    close(out, wanted)


@pytest.mark.parametrize("masked", [False, True])
def test_a_call_without_open_layers_sees_its_own_text_alone(masked: bool) -> None:
    """Also where each query has a mask of its own, with which no layer acts."""
    q, k, v = given()
    model = patched(regions(), WAN)
    mask = draw(4, B, 1, IMAGE_TOKENS, OWN + FIRST + SECOND) if masked else None
    if not masked:
        model.model_options["transformer_options"].pop("patchbay_layers")
    bias = 0.0 if mask is None else mask[..., :OWN].double()
    close(called(model, mask=mask), softmax(q, k[:, :, :OWN], v[:, :, :OWN], bias))


def test_self_attention_and_other_contexts_are_left_alone() -> None:
    model = patched(regions(), WAN)
    model.model_options["transformer_options"][ROWS] = Columns(OWN, ((1, FIRST), (1, SECOND)))
    for tokens in (IMAGE_TOKENS, OWN + FIRST):
        q, k, v = draw(1, B, HEADS, IMAGE_TOKENS, DIM), *(draw(seed, B, HEADS, tokens, DIM) for seed in (2, 3))
        close(split(attended(model, [q, k, v], WAN, context=draw(9, B, OWN, 3), skip_reshape=True)), softmax(q, k, v))


def asked(family: str, images: tuple[int, int, int] = GRID) -> Call:
    """Return a call of the model that two further prompts are asked for."""
    prompts = draw(7, 1, FIRST, 3), draw(8, 1, SECOND, 3)
    model = patched(NormalizedGuidance(prompts[0]), family)
    (patch,) = model.model_options["transformer_options"][WANTED]
    wanted = [SimpleNamespace(gate=patch.gate, prompts=prompts, alike=False)]
    run = Run(plan_of(model))
    options = {WANTED: wanted, "cond_or_uncond": [1, 0], KEY: run, TOKENS: Tokens(FAMILIES[family], images)}
    network = SimpleNamespace(extra_conds=lambda cross_attn, **_: {"c_crossattn": SimpleNamespace(cond=cross_attn)})
    call = Call(draw(1, 2, 3, 2, 2), torch.arange(2.0), None, draw(5, 2, OWN, 3), None, options, {})
    return with_rows(network, call)


def test_the_text_grows_and_the_batch_does_not() -> None:
    made = asked(WAN)
    assert made.c_crossattn is not None and len(made.x) == 2
    further = [draw(seed, 1, tokens, 3).expand(2, -1, -1) for seed, tokens in ((7, FIRST), (8, SECOND))]
    assert torch.equal(made.c_crossattn, torch.cat([draw(5, 2, OWN, 3), *further], 1))
    assert made.options[ROWS].tokens == OWN + FIRST + SECOND and CONTEXT not in made.options
    assert any("2 of 4, 7 tokens" in note and "without more rows" in note for note in made.options[KEY].notes)


def test_other_models_and_an_image_as_long_as_the_text_get_rows() -> None:
    for made in (asked("Flux"), asked(WAN, (1, 4, 4))):  # 16 tokens, as the text would have
        assert isinstance(made.options[ROWS], Rows) and len(made.x) == 4
        assert any("one more row of the batch" in note for note in made.options[KEY].notes)
