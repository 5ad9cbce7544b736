"""Layers in the attention calls of transformers, through the override, against attention by hand in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends.pytorch import attention_pytorch
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, BlockId
from attention_patchbay.ldm_patched.patches.addressing.families import FAMILIES, IMAGE, TEXT, Family
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.call import call_model
from attention_patchbay.ldm_patched.patches.engine.gate import Gate
from attention_patchbay.ldm_patched.patches.engine.gathering import SHARES
from attention_patchbay.ldm_patched.patches.engine.method import Method
from attention_patchbay.ldm_patched.patches.engine.router import SLOT
from attention_patchbay.ldm_patched.patches.engine.stack import CONTEXT
from attention_patchbay.ldm_patched.patches.engine.tokens import TOKENS, Tokens, tokens_of
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.attention_temperature import AttentionTemperature
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word
from attention_patchbay.ldm_patched.patches.methods.key_value_downsampling import KeyValueDownsampling
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference, ReferencePass
from attention_patchbay.ldm_patched.patches.methods.sparse_attention import SparseAttention
from attention_patchbay.ldm_patched.patches.methods.tiled_attention import TiledAttention
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.record.plan import KEY, Entry, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from torch import Tensor

from .models import draw

B, HEADS, DIM, TOKENS_OF_TEXT, GRID = 2, 2, 8, 5, (1, 4, 6)
IMAGE_TOKENS = math.prod(GRID)


class Block(torch.nn.Module):
    num_heads, head_dim = HEADS, DIM


def net(name: str, blocks: tuple[tuple[str, str], ...]) -> torch.nn.Module:
    """Return a network of a family's class name with a block in each list."""
    made: torch.nn.Module = type(name, (torch.nn.Module,), {})()
    for _, attribute in blocks:
        setattr(made, attribute, torch.nn.ModuleList([Block()]))
    return made


def patched(method: Method, name: str = "Flux") -> Any:
    sampling = SimpleNamespace(percent_to_sigma=lambda percent: 1.0 - percent)
    whole: Any = SimpleNamespace(diffusion_model=net(name, FAMILIES[name].blocks), model_sampling=sampling)
    return attach(ModelPatcher(whole, "cpu", "cpu", size=1), method)


def attended(
    model: Any,
    given: list[Tensor],
    family: str = "Flux",
    references: int = 0,
    context: Tensor | None = None,
    inside: bool = True,
    run: Run | None = None,
    options: Mapping[str, Any] | None = None,
    function: Callable[..., Tensor] = attention_pytorch,
    **kwargs: Any,
) -> Tensor:
    """Make one attention call in the first block, or in front of it, through the override; q, k, v as arguments say."""
    run = run or Run(plan_of(model))
    run.enter_model()
    now = {
        **model.model_options["transformer_options"],
        KEY: run,
        TOKENS: Tokens(FAMILIES[family], GRID, references=references),
        "cond_or_uncond": [0, 1],
        **(options or {}),
    }
    if inside:
        now |= {"block_type": FAMILIES[family].blocks[0][0], "block_index": 0}
    if context is not None:
        now[CONTEXT] = context
    out: Tensor = now[SLOT](function, *given, HEADS, transformer_options=now, **kwargs)
    return out


def softmax(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Attend by hand: (b, h, n, d)."""
    q, k, v = (x.double() for x in (q, k, v))
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias).softmax(-1) @ v


def joint(references: int = 0) -> list[Tensor]:
    tokens = TOKENS_OF_TEXT + IMAGE_TOKENS + references
    return [draw(seed, B, HEADS, tokens, DIM) for seed in (1, 2, 3)]


def split(out: Tensor) -> Tensor:
    return out.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted.float(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("family", "text_first"), [("Flux", True), ("JoyImageTransformer3DModel", False)])
def test_a_change_of_the_images_values_leaves_the_text_as_it_was(family: str, text_first: bool) -> None:
    q, k, v = joint()
    image = slice(TOKENS_OF_TEXT, None) if text_first else slice(0, IMAGE_TOKENS)
    out = split(
        attended(patched(AttentionPatch("attn1.v", "scale", 3.0), family), [q, k, v], family, skip_reshape=True)
    )
    more = v.clone()
    more[:, :, image] *= 3.0
    wanted = softmax(q, k, v)
    wanted[:, :, image] = softmax(q[:, :, image], k, more)
    close(out, wanted)


def test_a_change_of_the_texts_keys_is_seen_by_the_image_alone() -> None:
    q, k, v = joint()
    out = split(attended(patched(AttentionPatch("attn2.k", "scale", 0.5)), [q, k, v], skip_reshape=True))
    less = k.clone()
    less[:, :, :TOKENS_OF_TEXT] *= 0.5
    wanted = softmax(q, k, v)
    wanted[:, :, TOKENS_OF_TEXT:] = softmax(q[:, :, TOKENS_OF_TEXT:], less, v)
    close(out, wanted)


def test_reference_images_are_left_alone() -> None:
    q, k, v = joint(references=6)
    image = slice(TOKENS_OF_TEXT, TOKENS_OF_TEXT + IMAGE_TOKENS)
    model = patched(AttentionPatch("attn1.out", "zero"))
    out = split(attended(model, [q, k, v], references=6, skip_reshape=True))
    wanted = softmax(q, k, v)
    wanted[:, :, image] = 0.0
    close(out, wanted)


@pytest.mark.parametrize("layout", ["by heads", "merged", "values by heads", "fewer heads"])
def test_all_layouts_give_the_same(layout: str) -> None:
    q, k, v = joint()
    if layout == "fewer heads":
        k, v = k[:, :1], v[:, :1]
    model, merge = patched(AttentionPatch("attn1.v", "scale", 3.0)), [x.transpose(1, 2).flatten(2) for x in (q, k, v)]
    if layout == "by heads":
        out = attended(model, [q, k, v], skip_reshape=True, skip_output_reshape=True)
    elif layout == "fewer heads":
        out = split(attended(model, merge, enable_gqa=True))
    else:
        merge[2] = v.transpose(1, 2) if layout == "values by heads" else merge[2]
        out = split(attended(model, merge))
    more = v.clone()
    more[:, :, TOKENS_OF_TEXT:] *= 3.0
    wanted = softmax(q, k, v)
    wanted[:, :, TOKENS_OF_TEXT:] = softmax(q[:, :, TOKENS_OF_TEXT:], k, more)
    close(out, wanted)


def test_a_mask_of_the_text_holds_for_the_image_too() -> None:
    q, k, v = joint()
    bias = torch.zeros(B, 1, 1, q.shape[2])
    bias[:, :, :, 2:TOKENS_OF_TEXT] = float("-inf")
    model = patched(KeyValueDownsampling(2, where=Where()))
    out = split(attended(model, [q, k, v], skip_reshape=True, mask=bias))
    kept = torch.arange(IMAGE_TOKENS).view(GRID[1:])[::2, ::2].flatten() + TOKENS_OF_TEXT
    columns = torch.cat([torch.arange(2), kept])
    wanted = softmax(q, k, v, bias.double())
    wanted[:, :, TOKENS_OF_TEXT:] = softmax(q[:, :, TOKENS_OF_TEXT:], k[:, :, columns], v[:, :, columns])
    close(out, wanted)


def test_a_mask_of_each_query_is_left_to_the_model() -> None:
    q, k, v = joint()
    mask = torch.rand(q.shape[2], q.shape[2]) > 0.3
    mask |= torch.eye(q.shape[2], dtype=torch.bool)
    model = patched(AttentionPatch("attn1.v", "scale", 3.0))
    out = split(attended(model, [q, k, v], skip_reshape=True, mask=mask))
    close(out, softmax(q, k, v, torch.zeros(mask.shape).masked_fill(~mask, float("-inf")).double()))


def test_tiles_of_the_image_all_see_the_text() -> None:
    q, k, v = joint()
    model = patched(TiledAttention(16, swap=1))
    out = split(attended(model, [q, k, v], skip_reshape=True))
    wanted, places = softmax(q, k, v), torch.arange(IMAGE_TOKENS).view(GRID[1:]) + TOKENS_OF_TEXT
    for rows in (slice(0, 2), slice(2, 4)):
        for start in (0, 2, 4):
            tile = places[rows, start : start + 2].flatten()
            columns = torch.cat([torch.arange(TOKENS_OF_TEXT), tile])
            wanted[:, :, tile] = softmax(q[:, :, tile], k[:, :, columns], v[:, :, columns])
    close(out, wanted)


def test_a_mask_of_each_picture_holds_in_its_tiles() -> None:
    """A token that attends to itself and the text does so in a tile too."""
    given, mask = joint(), torch.zeros(B, 1, 1, TOKENS_OF_TEXT + IMAGE_TOKENS)
    mask[0, ..., 3:5] = -10000.0
    plain = patched(AttentionPatch("attn1.out", "identity"))
    outs = [
        attended(model, given, mask=mask, skip_reshape=True)
        for model in (plain, attach(plain, TiledAttention(16, swap=1)))
    ]
    close(*outs)


@pytest.mark.parametrize("first", ["tiles", "mask"])
def test_a_word_is_left_out_of_each_tile_outside_its_mask(first: str) -> None:
    q, k, v = joint()
    mask = torch.zeros(1, 4, 6)
    mask[:, :, 3:] = 1.0
    methods = [TiledAttention(16, swap=1), WordMask(positions=(1,), length=TOKENS_OF_TEXT, mask=mask)]
    model = patched(methods[0 if first == "tiles" else 1])
    out = split(attended(attach(model, methods[1 if first == "tiles" else 0]), [q, k, v], skip_reshape=True))
    wanted, places = softmax(q, k, v), torch.arange(IMAGE_TOKENS).view(GRID[1:]) + TOKENS_OF_TEXT
    for rows in (slice(0, 2), slice(2, 4)):
        for start in (0, 2, 4):
            tile = places[rows, start : start + 2].flatten()
            for row in range(B):
                for token in tile.tolist():
                    hidden = row == 0 and (token - TOKENS_OF_TEXT) % 6 < 3
                    seen = [*(i for i in range(TOKENS_OF_TEXT) if not (hidden and i == 1)), *tile.tolist()]
                    here = (x[row : row + 1] for x in (q[:, :, token : token + 1], k[:, :, seen], v[:, :, seen]))
                    wanted[row, :, token] = softmax(*here)[0, :, 0]
    close(out, wanted)


@pytest.mark.parametrize("method", [TiledAttention(16, swap=1), TokenMerging(0.5, where=Where())])
def test_what_a_word_gets_is_heard_of_the_whole_picture(method: Method) -> None:
    capture = Capture((Word("word", (1,)),), TOKENS_OF_TEXT)
    heard = []
    for model in (patched(capture), attach(patched(capture), method), attach(patched(method), capture)):
        run = Run(plan_of(model))
        attended(model, list(joint()), run=run, skip_reshape=True)
        (gathered,) = run.gathered.values()
        # what a word brings is relative to the result, which the method changes
        found = [(place, sums.attention) for ((place, _), _), sums in gathered.items()]
        heard.append([attention[..., 0] if place == SHARES else attention for place, attention in found])
    assert heard[0] and all(torch.equal(a, b) for other in heard[1:] for a, b in zip(heard[0], other, strict=True))


def test_an_image_that_attends_to_itself_still_sees_the_text() -> None:
    q, k, v = joint()
    out = split(attended(patched(AttentionPatch("attn1.out", "identity")), [q, k, v], skip_reshape=True))
    wanted = softmax(q, k, v)
    for token in range(TOKENS_OF_TEXT, q.shape[2]):
        columns = [*range(TOKENS_OF_TEXT), token]
        wanted[:, :, token : token + 1] = softmax(q[:, :, [token]], k[:, :, columns], v[:, :, columns])
    close(out, wanted)


@pytest.mark.parametrize("kind", ["self", "cross", "all"])
def test_a_temperature_for_the_text_is_one_of_its_columns(kind: str) -> None:
    q, k, v = joint()
    model = patched(AttentionTemperature(2.0, where=Where.of("all" if kind == "all" else f"all {kind}")))
    out = split(attended(model, [q, k, v], skip_reshape=True))
    flatter = k.clone()
    flatter[:, :, slice(0, TOKENS_OF_TEXT) if kind == "cross" else slice(None)] /= 2.0
    wanted = softmax(q, k, v)
    wanted[:, :, TOKENS_OF_TEXT:] = softmax(q[:, :, TOKENS_OF_TEXT:], flatter, v)
    close(out, wanted)


def test_a_word_gets_its_weight_in_the_positive_rows() -> None:
    q, k, v = joint()
    model = patched(WordWeight(positions=(1,), weight=0.0, length=TOKENS_OF_TEXT))
    out = split(attended(model, [q, k, v], skip_reshape=True))
    without = v.clone()
    without[0, :, 1] = 0.0
    wanted = softmax(q, k, v)
    wanted[:, :, TOKENS_OF_TEXT:] = softmax(q[:, :, TOKENS_OF_TEXT:], k, without)
    close(out, wanted)


def test_a_word_of_a_prompt_that_is_filled_up_in_front_is_found() -> None:
    q, k, v = joint()
    context = draw(5, B, TOKENS_OF_TEXT, DIM)
    context[:, :2] = 0.0
    model = patched(WordWeight(positions=(1,), weight=0.0, length=TOKENS_OF_TEXT - 2))
    out = split(attended(model, [q, k, v], context=context, skip_reshape=True))
    without = v.clone()
    without[0, :, 3] = 0.0
    wanted = softmax(q, k, v)
    wanted[:, :, TOKENS_OF_TEXT:] = softmax(q[:, :, TOKENS_OF_TEXT:], k, without)
    close(out, wanted)


@pytest.mark.parametrize("keys", [TOKENS_OF_TEXT, 7])
def test_cross_attention_to_anything_but_the_text_is_left_alone(keys: int) -> None:
    q, k, v = (draw(seed, B, HEADS, n, DIM) for seed, n in ((1, IMAGE_TOKENS), (2, keys), (3, keys)))
    context = draw(5, B, TOKENS_OF_TEXT, DIM)
    model = patched(AttentionPatch("attn2.v", "scale", 2.0), "WanModel")
    out = split(attended(model, [q, k, v], "WanModel", context=context, skip_reshape=True))
    close(out, softmax(q, k, v * (2.0 if keys == TOKENS_OF_TEXT else 1.0)))


def test_a_word_is_left_out_of_the_softmax_outside_its_mask() -> None:
    q, k, v = joint()
    bias = torch.zeros(B, 1, 1, q.shape[2])
    bias[:, :, :, 0] = -2.0
    mask = torch.zeros(1, 4, 6)
    mask[:, :, 3:] = 1.0
    model = patched(WordMask(positions=(1,), length=TOKENS_OF_TEXT, mask=mask))
    out = split(attended(model, [q, k, v], skip_reshape=True, mask=bias))
    wanted, left = softmax(q, k, v, bias.double()), [i for i in range(q.shape[2]) if i != 1]
    outside = torch.arange(IMAGE_TOKENS).view(4, 6)[:, :3].flatten() + TOKENS_OF_TEXT
    fewer = softmax(q[:1, :, outside], k[:1, :, left], v[:1, :, left], bias[:1, :, :, left].double())
    wanted[0, :, outside] = fewer[0]
    close(out, wanted)


def test_a_sparse_text_keeps_its_share() -> None:
    q, k, v = joint()
    out = split(attended(patched(SparseAttention(1.0)), [q, k, v], skip_reshape=True))
    close(out[:, :, :TOKENS_OF_TEXT], softmax(q, k, v)[:, :, :TOKENS_OF_TEXT])
    image = q[:, :, TOKENS_OF_TEXT:].double()
    scores = image @ k.double().transpose(-1, -2) / math.sqrt(DIM)
    share = scores.softmax(-1)[..., :TOKENS_OF_TEXT].sum(-1, keepdim=True)
    rest = scores.softmax(-1)[..., TOKENS_OF_TEXT:] @ v[:, :, TOKENS_OF_TEXT:].double()
    texts = (out[:, :, TOKENS_OF_TEXT:].double() - rest) / share  # what the text gives, as a mean of its values
    low, high = v[:, :, :TOKENS_OF_TEXT].aminmax(dim=2, keepdim=True)
    assert bool((texts >= low - 1e-4).all() and (texts <= high + 1e-4).all())


def test_a_call_without_open_layers_is_the_models_own() -> None:
    q, k, v = joint()
    late = AttentionPatch("attn1.v", "scale", 3.0, where=Where.of("all", 1.0, 1.0))
    out = attended(patched(late), [q, k, v], skip_reshape=True)
    assert torch.equal(out, attention_pytorch(q, k, v, HEADS, skip_reshape=True))


@pytest.mark.parametrize("skip_reshape", [True, False])
def test_who_listens_alone_leaves_the_call_whole(skip_reshape: bool) -> None:
    """A call in two parts is rounded in another way on some machines."""
    capture, called = Capture((Word("word", (1,)),), TOKENS_OF_TEXT), []
    given = joint() if skip_reshape else [x.transpose(1, 2).flatten(2) for x in joint()]
    wanted = attention_pytorch(*given, HEADS, skip_reshape=skip_reshape)

    def counted(q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        called.append(q.shape[2])
        return attention_pytorch(q, *args, **kwargs)

    model = patched(capture)
    run = Run(plan_of(model))
    out = attended(model, given, run=run, function=counted, skip_reshape=skip_reshape)
    assert called == [TOKENS_OF_TEXT + IMAGE_TOKENS] and torch.equal(out, wanted) and run.gathered


# What is refused


@pytest.mark.parametrize("method", [AttentionPatch("attn1.v", "blur", 1.0), TiledAttention(16), KeyValueDownsampling()])
def test_what_needs_a_picture_is_refused_where_none_is_made(method: Method) -> None:
    with pytest.raises(AddressError, match="needs tokens that are a picture, and those of Hunyuan3D 2 are none"):
        patched(method, "Hunyuan3Dv2")
    assert patched(AttentionPatch("attn1.v", "scale", 2.0), "Hunyuan3Dv2") is not None


@pytest.mark.parametrize(("name", "why"), [("WanAnimate2Model", "several calls"), ("CausalWanModel", "piece by piece")])
def test_a_closed_family_says_why(name: str, why: str) -> None:
    with pytest.raises(AddressError, match=f"{why}.*; backend rules work on them"):
        patched(AttentionTemperature(2.0), name)
    ruled = patched(Rule("basic", Where.of("double:0")), name)
    assert plan_of(ruled).entries[0].targets == ((BlockId("double", 0), None),)


def test_a_prompt_that_is_put_in_is_refused_with_the_reason() -> None:
    method = NormalizedGuidance(torch.zeros(1, 5, 8))
    with pytest.raises(AddressError, match="MiniMax H3 models have no place for it: .* they take one video at a time"):
        patched(method, "MiniMaxH3Model")


# What tokens a call has


@pytest.mark.parametrize(
    ("order", "front", "wanted"),
    [
        (("text", "image"), 0, {TEXT: slice(0, 5), IMAGE: slice(5, 29)}),
        (("image", "text"), 0, {IMAGE: slice(0, 24), TEXT: slice(24, 29)}),
        (("text", "image"), 2, {"front": slice(0, 2), TEXT: slice(2, 5), IMAGE: slice(5, 29)}),
    ],
)
def test_parts_of_a_sequence(order: tuple[str, ...], front: int, wanted: dict[str, slice]) -> None:
    assert Tokens(Family("F", order=order, front=front), GRID).parts(29) == wanted


def test_a_sequence_of_the_image_alone_has_no_parts() -> None:
    assert Tokens(Family("F", order=("text", "image")), GRID).parts(24) is None
    assert Tokens(Family("F", order=("text", "image")), GRID, references=3).parts(32) is None  # nobody knows where


@pytest.mark.parametrize(
    ("size", "sides", "grid"),
    [((7, 6), {"patch_size": 2}, (1, 4, 3)), ((3, 8, 6), {"patch_size": (1, 2, 2)}, (3, 4, 3)), ((9,), {}, (1, 1, 9))],
)
def test_the_grid_is_that_of_the_latent(size: tuple[int, ...], sides: dict[str, Any], grid: tuple[int, ...]) -> None:
    found = tokens_of(SimpleNamespace(**sides), Family("F"), torch.zeros(1, 4, *size), {})
    assert found is not None and found.grid == grid and found.flat == (len(size) == 1)
    more = tokens_of(SimpleNamespace(**sides, pad_tokens_multiple=8), Family("F"), torch.zeros(1, 4, *size), {})
    assert more is not None and (more.image + more.padding) % 8 == 0


def test_a_network_inside_torch_compile_is_known() -> None:
    seen: list[dict[str, Any]] = []

    def executor(x: Tensor, t: Any, c: Any, context: Any, control: Any, options: dict[str, Any]) -> Tensor:
        seen.append(options)
        return x

    model = patched(AttentionPatch("attn1.v", "scale", 3.0))
    network = model.model.diffusion_model
    for found in (network, SimpleNamespace(_orig_mod=network)):
        executor.class_obj = SimpleNamespace(diffusion_model=found)  # type: ignore[attr-defined]
        options = model.model_options["transformer_options"]
        call_model(executor, torch.zeros(1, 16, 8, 12), torch.ones(1), None, None, None, options)  # type: ignore[arg-type]
    assert [options[TOKENS].family.name for options in seen] == ["Flux", "Flux"]


def test_the_row_of_a_family_goes_before_what_its_network_says() -> None:
    family = FAMILIES["Ideogram4Transformer2DModel"]  # its latent is in patches already
    found = tokens_of(SimpleNamespace(patch_size=2), family, torch.zeros(1, 4, 6, 8), {})
    assert found is not None and found.grid == (1, 6, 8)


@pytest.mark.parametrize(("method", "given", "tokens"), [(None, None, 0), (None, "index", 6), ("index", None, 6)])
def test_references_count_where_the_network_looks_at_them(method: str | None, given: str | None, tokens: int) -> None:
    net = SimpleNamespace(patch_size=2, default_ref_method=method)
    conds = {"ref_latents": [torch.zeros(1, 4, 4, 6)], "ref_latents_method": given}
    found = tokens_of(net, Family("F"), torch.zeros(1, 4, 8, 8), conds)
    assert found is not None and found.references == tokens


def test_a_reference_is_one_frame_with_tokens_of_its_own() -> None:
    calls: list[tuple[Tensor, Tensor, Any, Any]] = []

    def executor(x: Tensor, t: Tensor, concat: Tensor, text: None, control: None, options: Any, **more: Any) -> Tensor:
        calls.append((x, concat, options[TOKENS], more))
        return x

    scaling = SimpleNamespace(noise_scaling=lambda sigmas, noise, latent: latent)
    whole = {"diffusion_model": SimpleNamespace(patch_size=(1, 2, 2)), "process_latent_in": lambda latent: latent}
    executor.class_obj = SimpleNamespace(**whole, model_sampling=scaling)  # type: ignore[attr-defined]
    x, gate = torch.zeros(2, 4, 2, 8, 12), Gate(Entry("reference"), frozenset())
    options = {TOKENS: Tokens(FAMILIES["WanModel"], (2, 4, 6)), "cond_or_uncond": [0, 1]}
    control = torch.zeros(2, 1, 3, 2, 8, 12)
    act: Any = ReferencePass(Reference(torch.ones(1, 4, 4, 6)))
    act(gate, executor, x, torch.ones(2), x, None, None, options, vace_context=control)
    (aside, concat, tokens, more), (picture, _, own, _) = calls
    assert aside.shape == concat.shape == (1, 4, 1, 4, 6) and tokens.grid == (1, 2, 3)
    assert more["vace_context"].shape == (1, 1, 3, 1, 4, 6)
    assert picture is x and own.grid == (2, 4, 6)


def test_layers_run_once_where_an_override_of_others_hands_the_call_on_to_a_node_before_it() -> None:
    """Ours, another pack's override that keeps it, and ours again."""
    model = patched(AttentionPatch("attn1.v", "scale", 3.0))
    options = model.model_options["transformer_options"]
    first = options[SLOT]

    def hands_on(func: Any, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = first(func, *args, **kwargs)
        return out

    once = attended(model, joint(), skip_reshape=True)
    options[SLOT] = hands_on
    again = attach(model, Rule("basic", Where.of("single:0")))
    close(attended(again, joint(), skip_reshape=True), once)
