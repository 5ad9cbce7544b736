"""Further prompts of transformers as rows of the batch, against attention by hand in float64."""

from __future__ import annotations

import uuid
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.families import FAMILIES, TEXT
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.further_prompts import Call, with_rows
from attention_patchbay.ldm_patched.patches.engine.prompts import Prompt
from attention_patchbay.ldm_patched.patches.engine.rows import PREPARE_SAMPLING, ROWS, WANTED, Rows
from attention_patchbay.ldm_patched.patches.engine.tokens import TOKENS, Tokens
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance, normalized
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.methods.tiled_attention import TiledAttention
from attention_patchbay.ldm_patched.patches.record.plan import KEY, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from torch import Tensor

from .models import draw
from .test_views import (
    DIM,
    GRID,
    HEADS,
    IMAGE_TOKENS,
    TOKENS_OF_TEXT,
    B,
    attended,
    close,
    joint,
    patched,
    softmax,
    split,
)

OWN, OTHER = TOKENS_OF_TEXT, TOKENS_OF_TEXT - 2  # tokens of the call's prompt and of the further one


HIDREAM = "encoder_hidden_states_llama3"
MASK = "attention_mask"
MASKS = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0]]), torch.tensor([[1, 0, 1, 1, 1, 1, 1, 0]])
NAMES = [uuid.uuid4(), uuid.uuid4()]  # as hosts name prompts


def rows_of(length: int) -> Rows:
    """Return the rows of a call of a positive and a negative image with one further prompt."""
    return Rows(B, (0,), 1, ((1, length),), OWN, OWN, {"cond_or_uncond": [0, 1]})


def with_further() -> tuple[list[Tensor], Tensor, Tensor]:
    """Return q, k, v of a joint call with a row of a further prompt, and keys and values of that text."""
    own, further = joint(), [draw(seed, 1, HEADS, TOKENS_OF_TEXT, DIM) for seed in (4, 5, 6)]
    rows = [torch.cat([text, x[:1, :, TOKENS_OF_TEXT:]], dim=2) for text, x in zip(further, own, strict=True)]
    return [torch.cat([x, row]) for x, row in zip(own, rows, strict=True)], further[1], further[2]


def call(model: Any, given: list[Tensor], length: int, **kwargs: Any) -> Tensor:
    """Make the joint call with its further row."""
    model.model_options["transformer_options"][ROWS] = rows_of(length)
    return split(attended(model, given, skip_reshape=True, **kwargs))


@pytest.mark.parametrize("length", [OWN, OTHER])
def test_a_region_attends_to_its_own_prompt(length: int) -> None:
    given, text_k, text_v = with_further()
    q, k, v = (x[:B] for x in given)
    mask = torch.zeros(1, *GRID[1:])
    mask[:, :, 3:] = 1.0
    out = call(patched(RegionalPrompt(regions=(Region(torch.zeros(1, length, 3), mask),))), given, length)
    wanted, inside = softmax(q, k, v), torch.arange(IMAGE_TOKENS).view(GRID[1:])[:, 3:].flatten() + TOKENS_OF_TEXT
    other_k = torch.cat([text_k[:, :, :length], k[:1, :, TOKENS_OF_TEXT:]], dim=2)
    other_v = torch.cat([text_v[:, :, :length], v[:1, :, TOKENS_OF_TEXT:]], dim=2)
    wanted[0, :, inside] = softmax(q[:1, :, inside], other_k, other_v)[0]
    close(out[:B], wanted)
    close(out[B:, :, TOKENS_OF_TEXT:], wanted[:1, :, TOKENS_OF_TEXT:])  # the same image
    close(out[B:, :, :length], softmax(given[0][B:, :, :length], other_k, other_v))  # by its own text


@pytest.mark.parametrize("tiles_first", [True, False])
def test_tiles_of_a_region_see_its_prompt(tiles_first: bool) -> None:
    given, text_k, text_v = with_further()
    q, k, v = (x[:B] for x in given)
    mask = torch.zeros(1, *GRID[1:])
    mask[:, :, 3:] = 1.0
    region, tiles = RegionalPrompt(regions=(Region(torch.zeros(1, OTHER, 3), mask),)), TiledAttention(16, swap=1)
    model = attach(patched(tiles), region) if tiles_first else attach(patched(region), tiles)
    number = 2 if tiles_first else 1
    model.model_options["transformer_options"][ROWS] = rows_of(OTHER)._replace(prompts=((number, OTHER),))
    out = split(attended(model, given, skip_reshape=True))
    wanted, places = softmax(q, k, v), torch.arange(IMAGE_TOKENS).view(GRID[1:]) + OWN
    for rows in (slice(0, 2), slice(2, 4)):
        for start in (0, 2, 4):
            tile = places[rows, start : start + 2].flatten()
            seen = torch.cat([torch.arange(OWN), tile])
            wanted[:, :, tile] = softmax(q[:, :, tile], k[:, :, seen], v[:, :, seen])
            inside = tile[(tile - OWN) % 6 >= 3]
            other_k, other_v = (
                torch.cat([text[:, :, :OTHER], x[:1, :, tile]], dim=2) for text, x in ((text_k, k), (text_v, v))
            )
            wanted[0, :, inside] = softmax(q[:1, :, inside], other_k, other_v)[0]
    close(out[:B], wanted)


def test_the_negative_prompt_of_a_guidance_may_be_of_any_length() -> None:
    given, text_k, text_v = with_further()
    q, k, v = (x[:B] for x in given)
    out = call(patched(NormalizedGuidance(torch.zeros(1, OTHER, 3), strength=1.0)), given, OTHER)
    other_k = torch.cat([text_k[:, :, :OTHER], k[:1, :, TOKENS_OF_TEXT:]], dim=2)
    other_v = torch.cat([text_v[:, :, :OTHER], v[:1, :, TOKENS_OF_TEXT:]], dim=2)
    image = slice(TOKENS_OF_TEXT, None)
    wanted = softmax(q, k, v)
    parts = [x.transpose(1, 2).flatten(2) for x in (wanted[:1, :, image], softmax(q[:1, :, image], other_k, other_v))]
    wanted[:1, :, image] = split(normalized(*parts, 5.0, 2.5, 1.0))
    close(out[:B], wanted)


def test_a_call_of_the_negative_alone_is_the_models_own() -> None:
    q, k, v = joint()
    model = patched(NormalizedGuidance(torch.zeros(1, OTHER, 3)))
    close(split(attended(model, [q, k, v], skip_reshape=True)), softmax(q, k, v))


def test_outside_of_its_window_a_further_row_only_keeps_the_image() -> None:
    given, _, _ = with_further()
    model = patched(NormalizedGuidance(torch.zeros(1, OWN, 3)))
    model.model_options["transformer_options"].pop("patchbay_layers")
    out = call(model, given, OWN)
    wanted = softmax(*given)
    close(out[:B], wanted[:B])
    close(out[B:, :, TOKENS_OF_TEXT:], wanted[:1, :, TOKENS_OF_TEXT:])
    close(out[B:, :, :TOKENS_OF_TEXT], wanted[B:, :, :TOKENS_OF_TEXT])


def asked(prompts: tuple[Tensor, ...], conds: dict[str, Any] | None = None, **options: Any) -> Call:
    """Return a call of two images, a negative and a positive chunk of each, with rows for prompts."""
    model = patched(NormalizedGuidance(prompts[0]))
    (patch,) = model.model_options["transformer_options"][WANTED]
    wanted = [SimpleNamespace(gate=patch.gate, prompts=prompts, alike=False)]
    network = SimpleNamespace(extra_conds=lambda cross_attn, **_: {"c_crossattn": SimpleNamespace(cond=cross_attn)})
    given = {WANTED: wanted, "cond_or_uncond": [1, 0], "uuids": NAMES, **options}
    x = draw(1, 4, 3, 2, 2)
    conds = {"y": draw(2, 4, 5), "guidance": torch.ones(1), "ref_latents": [draw(3, 4, 3, 2, 2)], **(conds or {})}
    control = {"input": [draw(4, 4, 7), None]}
    return with_rows(network, Call(x, torch.arange(4.0), None, draw(5, 4, 6, 3), control, given, conds))


def test_rows_have_the_same_names_in_every_step() -> None:
    """A cache finds by them what it keeps from step to step."""
    prompts = draw(7, 1, 6, 3), draw(8, 1, 8, 3)
    assert asked(prompts).options["uuids"] == asked(prompts).options["uuids"]


def test_a_row_for_each_prompt_and_positive_image() -> None:
    prompts = draw(7, 1, 6, 3), draw(8, 1, 8, 3)
    made = asked(prompts)
    again = [0, 1, 2, 3, 2, 3, 2, 3]
    assert torch.equal(made.x, draw(1, 4, 3, 2, 2)[again]) and torch.equal(made.t, torch.arange(4.0)[again])
    assert torch.equal(made.conds["y"], draw(2, 4, 5)[again]) and len(made.conds["guidance"]) == 1
    assert torch.equal(made.conds["ref_latents"][0], draw(3, 4, 3, 2, 2)[again])
    assert torch.equal(made.control["input"][0], draw(4, 4, 7)[again]) and made.control["input"][1] is None
    assert made.c_crossattn is not None and made.c_crossattn.shape == (8, 8, 3)
    assert torch.equal(made.c_crossattn[:4, :6], draw(5, 4, 6, 3))
    means = made.c_crossattn[:6, :6].mean(1, keepdim=True).expand(-1, 2, -1)
    assert torch.equal(made.c_crossattn[:6, 6:], means)  # so that the mean of all tokens is that of the text
    assert torch.equal(made.c_crossattn[4:6, :6], prompts[0].expand(2, -1, -1))
    assert torch.equal(made.c_crossattn[6:], prompts[1].expand(2, -1, -1))
    assert made.options["cond_or_uncond"] == [1, 0, 2, 2] and len(set(made.options["uuids"])) == 4
    rows = made.options[ROWS]
    assert (rows.base, rows.positive, rows.chunk, rows.own, rows.tokens) == (4, (1,), 2, 6, 8)
    assert rows.given == {"cond_or_uncond": [1, 0], "uuids": NAMES}


def test_a_call_of_the_negative_alone_gets_no_rows() -> None:
    made = asked((draw(7, 1, 6, 3),), patchbay_chunks=[1, 1])
    assert len(made.x) == 4 and ROWS not in made.options


def test_another_text_that_a_model_has_rows_of_is_that_of_each_prompt() -> None:
    """HiDream's text is that of two encoders, of which the second stands beside the context."""
    own, others = draw(21, 4, 2, 6, 3), [draw(seed, 1, 2, 6, 3) for seed in (22, 23)]
    prompts = tuple(
        Prompt(draw(seed, 1, 6, 3), {"conditioning_llama3": x}) for seed, x in zip((7, 8), others, strict=True)
    )

    def extra_conds(cross_attn: Tensor, conditioning_llama3: Tensor, **_: Any) -> dict[str, Any]:
        return {"c_crossattn": SimpleNamespace(cond=cross_attn), HIDREAM: SimpleNamespace(cond=conditioning_llama3)}

    def made(given: Tensor) -> Tensor:
        model = patched(NormalizedGuidance(prompts[0]))
        (patch,) = model.model_options["transformer_options"][WANTED]
        wanted = [SimpleNamespace(gate=patch.gate, prompts=prompts, alike=False)]
        options = {WANTED: wanted, "cond_or_uncond": [1, 0], "uuids": NAMES}
        call = Call(draw(1, 4, 3, 2, 2), torch.arange(4.0), None, draw(5, 4, 6, 3), None, options, {HIDREAM: given})
        found: Tensor = with_rows(SimpleNamespace(extra_conds=extra_conds), call).conds[HIDREAM]
        return found

    wanted = torch.cat([own, *(x.expand(2, -1, -1, -1) for x in others)])
    assert torch.equal(made(own), wanted)
    with pytest.raises(ValueError, match="another length than the sampler's"):
        made(own[:, :, :5])


def test_the_model_is_asked_for_its_text_once_in_a_run() -> None:
    asked: list[Tensor] = []

    def extra_conds(cross_attn: Tensor, **_: Any) -> dict[str, Any]:
        asked.append(cross_attn)
        return {}

    model = patched(NormalizedGuidance(draw(7, 1, 6, 3)))
    options = {**model.model_options["transformer_options"], KEY: Run(plan_of(model)), "cond_or_uncond": [0]}
    call = Call(draw(1, 1, 3, 2, 2), torch.ones(1), None, draw(5, 1, 6, 3), None, options, {})
    first, second = (with_rows(SimpleNamespace(extra_conds=extra_conds), call) for _ in range(2))
    assert len(asked) == 1 and first.c_crossattn is not None and second.c_crossattn is not None
    assert torch.equal(first.c_crossattn, second.c_crossattn)


@pytest.mark.parametrize("part", ["k", "v"])
def test_keys_or_values_of_the_text_go_towards_those_of_another_prompt(part: str) -> None:
    given, text_k, text_v = with_further()
    q, k, v = (x[:B] for x in given)
    patch = AttentionPatch(f"attn2.{part}", "towards", strength=0.3, other=torch.zeros(1, OWN, 3))
    out = call(patched(patch), given, OWN)
    new = {"k": k.clone(), "v": v.clone()}
    other = {"k": text_k, "v": text_v}[part]
    new[part][:1, :, :OWN] = torch.lerp(new[part][:1, :, :OWN], other, 0.3)
    wanted, image = softmax(q, k, v), slice(OWN, None)
    wanted[:, :, image] = softmax(q, new["k"], new["v"])[:, :, image]
    close(out[:B], wanted)


def to_go_towards(tokens: int, mask: Tensor | None = None, own: Tensor | None = None, **family: Any) -> Rows:
    """Return the rows of a call of a prompt of 6 tokens that goes towards one of some, both with a mask or without."""
    prompt = draw(7, 1, tokens, 3)

    def extra_conds(cross_attn: Tensor, **_: Any) -> dict[str, Any]:
        known = {"c_crossattn": cross_attn, **({} if mask is None else {MASK: mask})}
        return {name: SimpleNamespace(cond=cond) for name, cond in known.items()}

    model = patched(AttentionPatch("attn2.k", "towards", other=prompt))
    made = Tokens(replace(FAMILIES["QwenImageTransformer2DModel"], **family), (1, 2, 2))
    options = {**model.model_options["transformer_options"], "cond_or_uncond": [0], TOKENS: made}
    conds = {} if own is None else {MASK: own}
    call = Call(draw(1, 1, 3, 2, 2), torch.ones(1), None, draw(5, 1, 2, 3).repeat(1, 3, 1), None, options, conds)
    rows: Rows = with_rows(SimpleNamespace(extra_conds=extra_conds), call).options[ROWS]
    return rows


def test_the_prompt_to_go_towards_has_to_be_as_long_where_it_is_looked_at() -> None:
    first, last = torch.tensor([[1, 1, 1, 1, 0, 0]]), torch.tensor([[0, 0, 1, 1, 1, 1]])
    assert to_go_towards(6).prompts[0][1] == 6 and to_go_towards(2).prompts[0][1] == 2  # which the host repeated
    assert to_go_towards(6, first, last).seen == ([2, 3, 4, 5],) and to_go_towards(6, first, last).prompts[0][1] == 4
    assert to_go_towards(6, first, last, whole_text=True).seen == ()
    assert to_go_towards(6, first, last, crops=True).own == 4
    with pytest.raises(ValueError, match="has 3 tokens, the sampler's 6; on this model both need the same number"):
        to_go_towards(3)
    with pytest.raises(ValueError, match="has 4 tokens, the sampler's 6; tokens that a mask hides are not counted"):
        to_go_towards(6, first)
    with pytest.raises(ValueError, match="has 2 tokens, the sampler's 4; tokens"):
        to_go_towards(2, torch.ones(1, 2), last)


def test_a_network_that_takes_the_mask_of_one_row_gets_none_and_refuses_what_only_a_mask_can_hide() -> None:
    first, last = torch.tensor([[1, 1, 1, 1, 0, 0]]), torch.tensor([[0, 0, 1, 1, 1, 1]])
    rows = to_go_towards(6, first, first, one_mask=True, whole_text=True)
    assert (rows.own, rows.prompts[0][1], rows.tokens) == (4, 4, 6)
    with pytest.raises(ValueError, match="masks hide nothing, or the same number of tokens at the end"):
        to_go_towards(6, first, last, one_mask=True, whole_text=True)


@pytest.mark.parametrize("part", ["k", "v"])
def test_towards_acts_on_what_the_mask_shows_of_both_prompts(part: str) -> None:
    """Here the own mask hides the first tokens, and the last ones of the other are cut off."""
    given, text_k, text_v = with_further()
    q, k, v = (x[:B] for x in given)
    hidden, length = 2, OWN - 2
    mask = torch.zeros(B, 1, 1, k.shape[2], dtype=k.dtype)
    mask[:1, :, :, :hidden] = float("-inf")
    model = patched(AttentionPatch(f"attn2.{part}", "towards", strength=0.3, other=torch.zeros(1, OWN, 3)))
    model.model_options["transformer_options"][ROWS] = rows_of(length)._replace(seen=(range(hidden, OWN),))
    whole = torch.cat([mask, mask[1:]])
    out = split(attended(model, given, skip_reshape=True, mask=whole))[:B]
    new = {"k": k.clone(), "v": v.clone()}
    other = {"k": text_k, "v": text_v}[part][:, :, :length]
    new[part][:1, :, hidden:OWN] = torch.lerp(new[part][:1, :, hidden:OWN], other, 0.3)
    image = slice(OWN, None)
    close(out[:1, :, image], softmax(q[:1, :, image], new["k"][:1, :, hidden:], new["v"][:1, :, hidden:]))
    close(out[1:, :, image], softmax(q[1:, :, image], k[1:], v[1:]))


@pytest.mark.parametrize(("prompts", "rows"), [(1, 3), (2, 4), (3, 5)])
def test_the_host_is_told_of_the_rows_when_it_estimates_memory(prompts: int, rows: int) -> None:
    """It counts two rows for each of the noise."""
    regions = tuple(Region(torch.zeros(1, 4, 3), torch.ones(1, 2, 2)) for _ in range(prompts))
    model = attach(patched(NormalizedGuidance(torch.zeros(1, 4, 3), strength=0.0)), RegionalPrompt(regions=regions))
    (wrapper,) = model.wrappers[PREPARE_SAMPLING][KEY]
    seen: list[Any] = []
    wrapper(
        lambda *args, **kwargs: seen.append((args, kwargs)), model, [2, 16, 8, 8], {}, model_options=model.model_options
    )
    (((_, shape, _), _),) = seen
    assert shape == [rows, 16, 8, 8]


def test_the_mask_of_a_text_hides_what_it_was_filled_up_with() -> None:
    own = torch.tensor([[1, 1, 1, 1, 1, 0]] * 4)
    prompts = tuple(Prompt(draw(seed, 1, 8, 3), {MASK: mask}) for seed, mask in ((7, MASKS[0]), (8, MASKS[1])))

    def extra_conds(cross_attn: Tensor, attention_mask: Tensor, **_: Any) -> dict[str, Any]:
        return {"c_crossattn": SimpleNamespace(cond=cross_attn), MASK: SimpleNamespace(cond=attention_mask)}

    model = patched(NormalizedGuidance(prompts[0]))
    (patch,) = model.model_options["transformer_options"][WANTED]
    options = {
        WANTED: [SimpleNamespace(gate=patch.gate, prompts=prompts, alike=False)],
        "cond_or_uncond": [1, 0],
        "uuids": NAMES,
    }
    call = Call(draw(1, 4, 3, 2, 2), torch.arange(4.0), None, draw(5, 4, 6, 3), None, options, {MASK: own})
    made = with_rows(SimpleNamespace(extra_conds=extra_conds), call)
    assert made.c_crossattn is not None and made.c_crossattn.shape == (
        8,
        7,
        3,
    )  # the last token of the second is hidden
    wanted = [[1, 1, 1, 1, 1, 0, 0]] * 4 + [[1, 1, 1, 0, 0, 0, 0]] * 2 + [[1, 0, 1, 1, 1, 1, 1]] * 2
    assert made.conds[MASK].tolist() == wanted


@pytest.mark.parametrize("family", ["Flux", "NextDiT"])
@pytest.mark.parametrize("length", [4, 8])
def test_a_text_attends_to_its_own_tokens_alone_in_front_of_the_blocks(family: str, length: int) -> None:
    """Texts of one family begin together, those of the other end together."""
    row = FAMILIES[family]
    made = asked((draw(8, 1, length, 3),), patchbay_tokens=Tokens(row, GRID, ends=row.ends))
    rows = made.options[ROWS]
    model = patched(NormalizedGuidance(torch.zeros(1, length, 3)))
    model.model_options["transformer_options"][ROWS] = rows
    q, k, v = (draw(seed, rows.total, HEADS, rows.tokens, DIM) for seed in (4, 5, 6))
    out = split(attended(model, [q, k, v], family, inside=False, skip_reshape=True))
    for some, own in ((slice(0, 4), 6), (slice(4, None), length)):
        seen = slice(rows.tokens - own, None) if row.ends else slice(0, own)
        close(out[some][:, :, seen], softmax(*(x[some][:, :, seen] for x in (q, k, v))))


def test_texts_that_end_together_are_filled_up_in_front() -> None:
    made = asked((draw(8, 1, 8, 3),), patchbay_tokens=Tokens(FAMILIES["NextDiT"], GRID, ends=True))
    assert made.c_crossattn is not None and torch.equal(made.c_crossattn[:4, 2:], draw(5, 4, 6, 3))
    assert made.options[ROWS].text({TEXT: slice(3, 11)}, 6) == {TEXT: slice(5, 11)}


def test_a_model_learns_to_how_many_tokens_its_text_was_filled_up() -> None:
    assert asked((draw(8, 1, 8, 3),), conds={"num_tokens": 6}).conds["num_tokens"] == 8


@pytest.mark.parametrize(("tokens", "left"), [(Tokens(FAMILIES["MMDiT"], GRID, references=2), 10), (None, 0)])
def test_the_report_says_which_tokens_stay_those_of_the_samplers_prompt(tokens: Tokens | None, left: int) -> None:
    model = patched(NormalizedGuidance(draw(7, 1, 6, 3)))
    made = asked((draw(7, 1, 6, 3),), patchbay_tokens=tokens, **{KEY: Run(plan_of(model))})
    text = f"Further prompts: {left} tokens that are neither text nor picture stay those of the sampler's prompt."
    assert (text in made.options[KEY].notes) is bool(left)
