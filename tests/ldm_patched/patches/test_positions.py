"""What acts before the positions of queries and keys, against attention by hand: change, rotate, attend in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.families import FAMILIES
from attention_patchbay.ldm_patched.patches.addressing.grid import blurred
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.guidance import WeakPass
from attention_patchbay.ldm_patched.patches.engine.listed import lists
from attention_patchbay.ldm_patched.patches.engine.positions import POSITIONS, TURNS, Positions
from attention_patchbay.ldm_patched.patches.engine.router import SLOT
from attention_patchbay.ldm_patched.patches.engine.site import Site
from attention_patchbay.ldm_patched.patches.engine.tokens import TOKENS, Tokens
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.key_value_downsampling import KeyValueDownsampling, mean
from attention_patchbay.ldm_patched.patches.methods.smoothed_guidance import SmoothedGuidance
from attention_patchbay.ldm_patched.patches.methods.style_aligned import StyleAligned, normalised
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging, draw_cells, leaders, match, merge
from attention_patchbay.ldm_patched.patches.record.plan import KEY, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from torch import Tensor

from .models import draw
from .test_views import DIM, HEADS, B, close, patched, softmax, split

TEXT, FRAMES, GRID, REFERENCE = 5, 2, (4, 6), 7
PICTURE = slice(TEXT, TEXT + FRAMES * math.prod(GRID))
TOTAL = PICTURE.stop + REFERENCE
TURNED = draw(9, TOTAL, DIM // 2)  # an angle for each token and pair
FAMILY, FRONT = "Flux", {"img_slice": [TEXT, TOTAL]}


def turns(angles: Tensor = TURNED) -> Tensor:
    """Return rotations as models hand them on: (1, 1, n, d / 2, 2, 2)."""
    sin, cos = angles.sin(), angles.cos()
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))[None, None]


def turned(x: Tensor, angles: Tensor = TURNED) -> Tensor:
    """Give tokens (b, h, n, d) their positions, as complex numbers."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles.double()), angles.double())).flatten(-2)


def sequence() -> list[Tensor]:
    """Return q, k, v of text, picture and reference before their positions."""
    return [draw(seed, B, HEADS, TOTAL, DIM) for seed in (1, 2, 3)]


def attended(model: Any, told: bool = True, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Run]:
    """Make the attention call of a block, which tells its positions before; return its result and the run."""
    q, k, v = sequence()
    run = Run(plan_of(model))
    run.enter_model()
    tokens = Tokens(FAMILIES[FAMILY], (FRAMES, *GRID), references=REFERENCE)
    now = {**model.model_options["transformer_options"], KEY: run, TOKENS: tokens, POSITIONS: {}}
    now |= {"block_type": "double", "block_index": 0, "cond_or_uncond": [0]}
    for patch in lists(now).get("attn1_patch", ()) if told else ():
        assert patch(q, k, v, pe=turns(), attn_mask=None, extra_options={**now, **FRONT}) == {}
    given = (x.to(dtype) for x in (turned(q), turned(k), v))
    out = now[SLOT](attend_by_hand, *given, HEADS, skip_reshape=True, transformer_options=now)
    return split(out), run


def attend_by_hand(q: Tensor, k: Tensor, v: Tensor, heads: int, **kwargs: Any) -> Tensor:
    assert q.dtype == k.dtype == v.dtype
    out = softmax(q, k, v)
    return out.float() if kwargs.get("skip_output_reshape") else out.transpose(1, 2).flatten(2).float()


def expected(change_q: Callable[[Tensor], Tensor], change_k: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the result with the picture's queries and keys changed before the positions, for the picture alone."""
    q, k, v = (x.double() for x in sequence())
    new_q, new_k = q.clone(), k.clone()
    new_q[:, :, PICTURE], new_k[:, :, PICTURE] = change_q(q[:, :, PICTURE]), change_k(k[:, :, PICTURE])
    wanted = softmax(turned(q), turned(k), v)
    wanted[:, :, PICTURE] = softmax(turned(new_q), turned(new_k), v)[:, :, PICTURE]
    return wanted


def same(x: Tensor) -> Tensor:
    return x


def to_mean(x: Tensor) -> Tensor:
    return x.mean(dim=2, keepdim=True).expand_as(x)


def by_frame(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change the tokens (b, n, c) of each frame of (b, h, frames * n, d)."""
    flat = x.transpose(1, 2).flatten(2)
    frames = [change(frame) for frame in flat.chunk(FRAMES, dim=1)]
    return torch.cat(frames, dim=1).unflatten(2, (HEADS, -1)).transpose(1, 2)


def smooth(x: Tensor) -> Tensor:
    return by_frame(x, lambda frame: blurred(frame, GRID, 1.0))


@pytest.mark.parametrize("halves", [False, True])
def test_positions_come_off_and_on(halves: bool) -> None:
    x, positions = draw(4, B, HEADS, TOTAL, DIM), Positions(turns()[0, 0], halves)
    order = [0, 4, 1, 5, 2, 6, 3, 7] if halves else list(range(DIM))  # neighbours become halves apart
    inverse = [order.index(place) for place in range(DIM)]
    close(positions.on(x), turned(x[..., order])[..., inverse])
    close(positions.off(positions.on(x)), x.double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_changes_nothing_before_positions_changes_nothing_in_half_precision(dtype: torch.dtype) -> None:
    x = draw(4, B, HEADS, TOTAL, DIM).to(dtype)
    site = Site({}, "self", B, TOTAL).but(positioned=True, positions=Positions(turns()[0, 0]))
    assert torch.equal(site.before_positions(x, same), x)


@pytest.mark.parametrize(
    "method",
    [
        AttentionPatch("attn1.q", "blur", 1.0),
        AttentionPatch("attn1.k", "noise", 0.1),
        KeyValueDownsampling(2, "mean", where=Where()),
        TokenMerging(0.5, where=Where()),
        StyleAligned(),
    ],
)
def test_kernels_get_the_models_own_precision(method: Any) -> None:
    """They take queries, keys and values of one dtype only."""
    out, _ = attended(patched(method), dtype=torch.bfloat16)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("operation", "change"), [("mean", to_mean), ("blur", smooth), ("clamp", lambda x: x.clamp(-1.0, 1.0))]
)
def test_a_patch_changes_the_pictures_queries_before_their_positions_and_nothing_else(
    operation: str, change: Callable[[Tensor], Tensor]
) -> None:
    for slot, changes in (("attn1.q", (change, same)), ("attn1.k", (same, change))):
        out, run = attended(patched(AttentionPatch(slot, operation, 1.0)))
        close(out, expected(*changes))
        assert not run.notes and not run.skips


def test_channels_run_through_the_heads() -> None:
    factor = torch.ones(HEADS, 1, DIM)
    factor[1] = 3.0
    out, _ = attended(patched(AttentionPatch("attn1.q", "gain", channels=f"{DIM}-:3")))
    close(out, expected(lambda x: x * factor, same))


def test_keys_and_values_are_pooled_before_positions_and_stand_at_the_first_of_their_cell() -> None:
    out, run = attended(patched(KeyValueDownsampling(2, "mean", where=Where())))
    q, k, v = (x.double() for x in sequence())
    first = torch.arange(PICTURE.start, PICTURE.stop).view(FRAMES, *GRID)[:, ::2, ::2].flatten()
    pooled_k, pooled_v = (by_frame(x[:, :, PICTURE], lambda frame: mean(frame, GRID, 2)) for x in (k, v))
    placed = turned(k)
    all_k = torch.cat([placed[:, :, :TEXT], turned(pooled_k, TURNED[first]), placed[:, :, PICTURE.stop :]], dim=2)
    all_v = torch.cat([v[:, :, :TEXT], pooled_v, v[:, :, PICTURE.stop :]], dim=2)
    wanted = softmax(turned(q), placed, v)
    wanted[:, :, PICTURE] = softmax(turned(q)[:, :, PICTURE], all_k, all_v)
    close(out, wanted)
    assert not run.notes


def test_merged_tokens_stand_where_their_destination_does() -> None:
    out, run = attended(patched(TokenMerging(0.5, "top-left", where=Where())))
    q, k, v = (x.double() for x in sequence())
    flat = [x[:, :, PICTURE].transpose(1, 2).flatten(2) for x in (q, k, v)]
    destinations, sources = draw_cells((FRAMES * GRID[0], GRID[1]), None)
    left = flat[0].shape[1] // 2
    place = match(flat[0].float(), destinations, sources, left)
    few = [split(merge(x, place, left).double()) for x in flat]
    stands = leaders(place, sources, destinations, left)
    for row in range(B):
        for token in range(left):
            members = (place[row] == token).nonzero().flatten().tolist()
            assert stands[row, token] in members and (len(members) == 1 or stands[row, token] in destinations)
    at = TURNED[PICTURE][stands]  # (b, left, d / 2)
    few_q, few_k = (torch.cat([turned(x[i : i + 1], at[i]) for i in range(B)]) for x in few[:2])
    placed = turned(k)
    all_k = torch.cat([placed[:, :, :TEXT], few_k, placed[:, :, PICTURE.stop :]], dim=2)
    all_v = torch.cat([v[:, :, :TEXT], few[2], v[:, :, PICTURE.stop :]], dim=2)
    found = softmax(few_q, all_k, all_v)
    wanted = softmax(turned(q), placed, v)
    wanted[:, :, PICTURE] = torch.stack([found[i][:, place[i]] for i in range(B)])
    close(out, wanted)
    assert not run.notes


def test_a_style_is_aligned_before_positions() -> None:
    out, run = attended(patched(StyleAligned()))
    q, k, v = (x.double() for x in sequence())
    wanted = softmax(turned(q), turned(k), v)
    new_q, new_k = q.clone(), k.clone()
    for x, new in ((q, new_q), (k, new_k)):
        some = x[:, :, PICTURE]
        new[:, :, PICTURE] = normalised(some, some[:1].expand_as(some))
    all_k = torch.cat([turned(new_k), turned(k)[:1, :, PICTURE].expand(B, -1, -1, -1)], dim=2)
    all_v = torch.cat([v, v[:1, :, PICTURE].expand(B, -1, -1, -1)], dim=2)
    wanted[:, :, PICTURE] = softmax(turned(new_q)[:, :, PICTURE], all_k, all_v)
    close(out, wanted)
    assert not run.notes


@pytest.mark.parametrize(("blur", "change"), [(math.inf, to_mean), (1.0, smooth)])
def test_queries_are_smoothed_before_positions(blur: float, change: Callable[[Tensor], Tensor]) -> None:
    model = patched(SmoothedGuidance(3.0, blur))
    (after,) = model.model_options["sampler_post_cfg_function"]
    weak: WeakPass = after.act
    model.model_options["transformer_options"] = weak.weakened(model.model_options["transformer_options"])
    out, run = attended(model)
    close(out, expected(change, same))
    assert not run.notes


def test_where_nobody_tells_positions_the_report_says_so() -> None:
    out, run = attended(patched(AttentionPatch("attn1.q", "mean")), told=False)
    (doubt,) = run.notes
    assert doubt.startswith("mean attn1.q") and "held their positions already" in doubt
    q, k, v = sequence()
    q, k = turned(q), turned(k)
    wanted = softmax(q, k, v)
    wanted[:, :, PICTURE] = softmax(to_mean(q[:, :, PICTURE]), k, v)
    close(out, wanted)


def test_blocks_are_asked_for_positions_once_and_only_by_what_needs_them() -> None:
    asked = patched(AttentionPatch("attn1.q", "mean"))
    again = attach(asked, AttentionPatch("attn1.k", "mean"))
    for model, number in ((asked, 1), (again, 1), (patched(AttentionPatch("attn1.q", "scale", 2.0)), 0)):
        assert len(lists(model.model_options["transformer_options"]).get("attn1_patch", ())) == number


def test_a_model_without_rotations_needs_none() -> None:
    model = patched(AttentionPatch("attn1.q", "mean"), "OpenAISignatureMMDITWrapper")
    assert "attn1_patch" not in lists(model.model_options["transformer_options"])
    assert TURNS not in model.model_options["transformer_options"]
