"""Patches by the contracts of other model families, as hosts call them: each call is made by hand here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends.pytorch import attention_pytorch
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, BlockId, parse
from attention_patchbay.ldm_patched.patches.addressing.blocks import model_blocks, select
from attention_patchbay.ldm_patched.patches.addressing.families import family_of
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.inventory import placed
from attention_patchbay.ldm_patched.patches.engine.listed import lists
from attention_patchbay.ldm_patched.patches.engine.router import SLOT
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.record.plan import KEY, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.patches.routing.nan_guard import Sentinel
from attention_patchbay.ldm_patched.patches.routing.rule import Rule

from .models import draw

HEADS, DIM = 2, 5


class Block(torch.nn.Module):
    num_heads, head_dim = HEADS, DIM


class Flux(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.double_blocks = torch.nn.ModuleList([Block(), Block()])
        self.single_blocks = torch.nn.ModuleList([Block()])


class Stacked(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(), Block()])


class WanModel(Stacked):
    pass


class VaceWanModel(WanModel):
    pass


class MiniTrainDIT(Stacked):
    pass


class Silent(torch.nn.Module):
    """A family that nobody knows."""


def model(net: Any) -> ModelPatcher:
    sampling = SimpleNamespace(percent_to_sigma=lambda percent: 1.0 - percent)
    whole: Any = SimpleNamespace(diffusion_model=net, model_sampling=sampling)
    return ModelPatcher(whole, "cpu", "cpu", size=1)


def options(patched: Any, **block: Any) -> dict[str, Any]:
    """Return the options of a call, as they reach a block."""
    return {**patched.model_options["transformer_options"], **block}


def test_cosmos_patches_change_hidden_states_and_context_before_they_are_normalised() -> None:
    patched = attach(model(MiniTrainDIT()), AttentionPatch("attn2.k", "noise", 3.0, where=Where(parse("block:1"))))
    x, context = draw(1, 1, 16, 8), draw(2, 1, 7, 6)
    given: dict[str, Any] = {"pe": None, "attn_mask": None, "extra_options": options(patched, block_index=1)}
    mark, patch = lists(patched.model_options["transformer_options"])["attn2_patch"]
    assert mark(x, context, context, **given) == {}
    (name, value), *rest = patch(x, context, context, **given).items()
    assert name == "k" and not rest and not torch.equal(value, context)
    assert patch(x, context, context, **{**given, "extra_options": options(patched, block_index=0)}) == {}


def attention(patched: Any, run: Run, keys: int, **block: Any) -> None:
    """Make an attention call of 4 queries in a block."""
    q, k = draw(1, 1, 4, HEADS * DIM), draw(2, 1, keys, HEADS * DIM)
    now = {KEY: run, **block}
    patched.model_options["transformer_options"][SLOT](attention_pytorch, q, k, k, HEADS, transformer_options=now)


def test_wan_needs_no_mark_to_tell_self_from_cross() -> None:
    """Its blocks call self-attention, then cross-attention with the text, and with a picture's tokens."""
    ruled = attach(model(WanModel()), Rule("basic", Where(parse("all cross"))))
    assert not lists(ruled.model_options["transformer_options"])
    run = Run(plan_of(ruled))
    for _ in range(2):
        run.enter_model()
        for number in (0, 1):
            for keys in (4, 7, 4):
                attention(ruled, run, keys, block_type="double", block_index=number)
    blocks = [BlockId("double", number) for number in (0, 1)]
    assert {(call.block, call.kind): (call.backend, count) for call, count in run.calls.items()} == {
        (block, kind): found
        for block in blocks
        for kind, found in {"self": ("pytorch", 2), "cross": ("basic", 4)}.items()
    }
    assert run.seen == {(block, kind): 2 for block in blocks for kind in ("self", "cross")}


def test_a_self_attention_that_another_node_took_is_not_taken_for_the_cross_attention() -> None:
    ruled = attach(model(WanModel()), Rule("basic", Where(parse("all self"))))
    run = Run(plan_of(ruled))
    run.enter_model()
    attention(ruled, run, 7, block_type="double", block_index=0)
    assert [(call.kind, call.backend) for call in run.calls] == [("cross", "pytorch")]


@pytest.mark.parametrize("net", [Flux, WanModel, Silent])
def test_a_rule_leaves_no_patch_where_none_has_to_tell_the_kind(net: type) -> None:
    assert not lists(attach(model(net()), Rule("basic")).model_options["transformer_options"])


def test_a_refusal_names_the_family_and_what_works() -> None:
    says = "Wan models have no place for it: they have no skip connections .* Attention Patch on attn1.q, attn1.k"
    with pytest.raises(AddressError, match=says):
        attach(model(WanModel()), AttentionPatch("middle", "zero"))
    with pytest.raises(AddressError, match="Wan models have no skip connections .* Block Scale with skip 1 scales"):
        attach(model(WanModel()), AttentionPatch("block.middle", "zero", where=Where(parse("middle"))))
    for slot in ("attn2.q", "attn2.out"):
        with pytest.raises(AddressError, match="Flux models .* one attention for text and image"):
            attach(model(Flux()), AttentionPatch(slot, "zero"))


def test_addresses_are_those_of_the_family() -> None:
    flux = model(Flux())
    assert [str(info.id) for info in model_blocks(flux)] == ["double:0", "double:1", "single:0"]
    assert {(info.heads, info.dim_head) for info in model_blocks(flux)} == {(HEADS, DIM)}
    assert [info.id for info in select(parse("!double:0"), flux)] == [BlockId("double", 1), BlockId("single", 0)]
    with pytest.raises(AddressError, match="no block 'input:4' with attention; it has double:0, double:1, single:0"):
        select(parse("input:4"), flux)
    for text in ("all cross", "double:0 cross"):
        with pytest.raises(AddressError, match="Flux models have one attention of text and picture"):
            attach(flux, Rule("basic", Where(parse(text))))
    attach(flux, Rule("basic", Where(parse("double self"))))
    assert family_of(model(VaceWanModel())).name == "Wan"


def test_the_marks_of_a_family_are_no_patches() -> None:
    for net in (Flux(), WanModel(), MiniTrainDIT()):
        ruled = attach(model(net), Rule("basic"))
        assert [part.slot for part in placed(ruled)] == ["override"]


def test_calls_outside_the_blocks_have_no_kind() -> None:
    """A refiner before the first block runs after the last block of the step before."""
    ruled = attach(attach(model(Flux()), Rule("basic", Where(parse("all self")))), Sentinel())
    recorder = Run(plan_of(ruled))
    x = draw(1, 1, 4, HEADS * DIM)
    recorder.enter("self", BlockId("single", 0))
    ran: list[str] = []

    def host(q: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        ran.append("host")
        return q

    now = {KEY: recorder}
    ruled.model_options["transformer_options"][SLOT](host, x, x, x, HEADS, transformer_options=now)
    assert ran == ["host"]
    assert [(call.block, call.kind) for call in recorder.calls] == [(None, None)]
