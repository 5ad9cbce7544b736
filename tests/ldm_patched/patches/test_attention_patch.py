from __future__ import annotations

import dataclasses
import functools
import math
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import BasicTransformerBlock
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, BlockId, parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.call import with_stacks
from attention_patchbay.ldm_patched.patches.engine.gate import Gate
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.engine.place import Listed
from attention_patchbay.ldm_patched.patches.engine.site import Site
from attention_patchbay.ldm_patched.patches.engine.stack import split
from attention_patchbay.ldm_patched.patches.methods.attention_patch import (
    ATTENTION_SLOTS,
    AttentionPatch,
    operations_for,
)
from attention_patchbay.ldm_patched.patches.record.plan import Entry
from attention_patchbay.ldm_patched.sampling.model_sampling import discrete_sampling
from torch import Tensor

from .models import draw, last_run, patcher, run

SIMPLE = ("scale", "temperature", "identity", "mean", "zero")
PAIRS = [(slot, operation) for slot in ATTENTION_SLOTS for operation in SIMPLE if operation in operations_for(slot)]
HEADS, DIM_HEAD = 4, 8


@functools.cache
def without_patch() -> tuple[Any, Tensor]:
    """Return a model, and its latents without a patch."""
    model = patcher()
    return model, run(model, 2)


@pytest.mark.parametrize(("slot", "operation"), PAIRS)
def test_neutral_settings_are_bit_equal(slot: str, operation: str) -> None:
    model, plain_run = without_patch()
    neutral = [AttentionPatch(slot, operation, value=3.0, strength=0.0)]
    neutral += [AttentionPatch(slot, operation, value=3.0, where=Where(schedule=Schedule(0.4, 0.4)))]
    neutral += [AttentionPatch(slot, operation, value=3.0, where=Where(schedule=Schedule(curve="0:0")))]
    if operation in ("scale", "temperature"):
        neutral.append(AttentionPatch(slot, operation, value=1.0))
    with_all = functools.reduce(attach, neutral, model)
    assert torch.equal(run(with_all, 2), plain_run)
    assert not torch.equal(run(attach(model, AttentionPatch(slot, operation, value=3.0)), 2), plain_run)


def one_block(block: BasicTransformerBlock) -> ModelPatcher:
    """Return a patcher around one transformer block in the place `middle`."""
    layer = SimpleNamespace(transformer_blocks=[block])
    unet: Any = torch.nn.Module()
    unet.input_blocks, unet.middle_block, unet.output_blocks = [], [layer], []
    model: Any = SimpleNamespace(diffusion_model=unet, model_sampling=discrete_sampling("eps", False))
    return ModelPatcher(model, "cpu", "cpu", size=1)


def attention(q: Tensor, k: Tensor, v: Tensor, identity: float) -> Tensor:
    """Attention head by head with the matrix blended towards the identity."""
    parts = []
    for head in range(HEADS):
        at = slice(head * DIM_HEAD, (head + 1) * DIM_HEAD)
        matrix = torch.softmax(q[..., at] @ k[..., at].transpose(1, 2) / math.sqrt(DIM_HEAD), dim=-1)
        if identity:
            matrix = (1 - identity) * matrix + identity * torch.eye(matrix.shape[1], dtype=matrix.dtype)
        parts.append(matrix @ v[..., at])
    return torch.cat(parts, dim=-1)


def change(x: Tensor, operation: str, value: float, strength: float) -> Tensor:
    if operation == "scale":
        return x * (1 - strength + strength * value)
    if operation == "temperature":
        return x / (1 - strength + strength * value)
    if operation == "mean":
        return (1 - strength) * x + strength * x.mean(dim=1, keepdim=True)
    return (1 - strength) * x


def expected(block: BasicTransformerBlock, x: Tensor, context: Tensor, patches: list[AttentionPatch]) -> Tensor:
    """The block by its formula, every patch applied in order where its slot is."""
    for name in ("attn1", "attn2"):
        attn = getattr(block, name)
        n = block.norm1(x) if name == "attn1" else block.norm2(x)
        source = n if name == "attn1" else context
        q, k, v = attn.to_q(n), attn.to_k(source), attn.to_v(source)
        mine = [patch for patch in patches if patch.attention == name]
        identity = 0.0
        for patch in mine:
            if patch.operation == "identity":
                identity = 1 - (1 - identity) * (1 - patch.strength)
            elif patch.part == "q":
                q = change(q, patch.operation, patch.value, patch.strength)
            elif patch.part == "k":
                k = change(k, patch.operation, patch.value, patch.strength)
            elif patch.part == "v":
                v = change(v, patch.operation, patch.value, patch.strength)
        out = attn.to_out(attention(q, k, v, identity))
        for patch in mine:
            if patch.part == "out" and patch.operation != "identity":
                out = change(out, patch.operation, patch.value, patch.strength)
        x = x + out
    return x + block.ff(block.norm3(x))


def double_block() -> BasicTransformerBlock:
    torch.manual_seed(3)
    width = HEADS * DIM_HEAD
    return BasicTransformerBlock(width, HEADS, DIM_HEAD, context_dim=16, dtype=torch.float64, operations=plain)


def check(patches: list[AttentionPatch]) -> None:
    block = double_block()
    x, context = draw(0, 2, 9, 32).double(), draw(1, 2, 7, 16).double()
    model = one_block(block)
    for patch in patches:
        model = attach(model, patch)
    options = {**with_stacks(model.model_options["transformer_options"]), "block": ("middle", 0), "block_index": 0}
    with torch.no_grad():
        out = block(x, context, options)
        wanted = expected(block, x, context, patches)
    assert (out - wanted).abs().max() < 1e-12


@pytest.mark.parametrize(("slot", "operation"), PAIRS)
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_an_operation_follows_its_formula(slot: str, operation: str, strength: float) -> None:
    check([AttentionPatch(slot, operation, value=2.5, strength=strength)])


PROBES = [
    AttentionPatch("attn1.q", "mean", strength=0.4),
    AttentionPatch("attn1.q", "temperature", 0.5),
    AttentionPatch("attn1.k", "scale", 1.7),
    AttentionPatch("attn1.v", "zero", strength=0.6),
    AttentionPatch("attn1.out", "identity", strength=0.5),
    AttentionPatch("attn1.out", "mean", strength=0.8),
    AttentionPatch("attn2.k", "mean", strength=0.3),
    AttentionPatch("attn2.out", "scale", 0.2),
]


@pytest.mark.parametrize("first", PROBES, ids=lambda patch: patch.name)
@pytest.mark.parametrize("second", PROBES, ids=lambda patch: patch.name)
def test_two_patches_compose_in_the_order_of_the_graph(first: AttentionPatch, second: AttentionPatch) -> None:
    check([first, second])


def test_all_probes_at_once() -> None:
    check(PROBES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("attn3.q", "scale"), "unknown slot 'attn3.q'; choose one of attn1.q"),
        (("attn2.out", "identity"), "'identity' does not work on slot attn2.out; choose one of scale, mean, zero"),
        (("attn1.v", "temperature"), "does not work on slot attn1.v"),
        (("attn1.q", "melt"), "choose one of scale, temperature, mean, zero"),
        (("attn1.q", "scale", math.nan), "value is nan"),
        (("attn1.q", "temperature", 0.0), "above 0"),
        (("attn1.q", "scale", 1.0, 1.5), "strength is 1.5"),
    ],
)
def test_an_impossible_patch_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionPatch(*arguments)


def test_a_slot_and_an_address_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="says cross, but this is for self-attention"):
        attach(patcher(), AttentionPatch("attn1.q", "zero", where=Where(parse("middle cross"))))


def test_a_block_the_model_lacks_is_refused() -> None:
    with pytest.raises(AddressError, match="it has input:1"):
        attach(patcher(), AttentionPatch("attn1.q", "zero", where=Where(parse("input:9"))))


@pytest.mark.parametrize(("slot", "operation"), PAIRS)
def test_a_patch_is_a_value(slot: str, operation: str) -> None:
    patch = AttentionPatch(slot, operation, 2.0, 0.5, Where(parse("middle, !output:3"), Schedule(0.1, 0.9, "cosine")))
    copy = pickle.loads(pickle.dumps(patch))
    assert copy == patch
    assert hash(copy) == hash(patch)
    assert copy != dataclasses.replace(patch, strength=0.6)


def test_a_model_of_an_unknown_family_is_refused() -> None:
    class Other:
        double_blocks = ()

    model: Any = SimpleNamespace(diffusion_model=Other(), model_sampling=None)
    with pytest.raises(
        AddressError,
        match="Other models do not say which attention they call",
    ):
        attach(ModelPatcher(model, "cpu", "cpu", size=1), AttentionPatch("attn1.q", "zero"))


def test_inputs_that_the_model_leaves_out_are_the_ones_it_would_use() -> None:
    n, block = draw(0, 1, 5, 32), BlockId("middle", 0)
    gate = Gate(Entry("any"), frozenset({block}))
    options = {"block": ("middle", 0), "block_index": 0}
    for part, wanted in (("q", (0 * n, n, n)), ("k", (n, 0 * n, n)), ("v", (n, n, 0 * n))):
        (place,) = AttentionPatch(f"attn2.{part}", "zero").places(gate, Host(), None)
        assert isinstance(place, Listed)
        out = place.patch(n, None, None, options)
        assert all(torch.equal(a, b) for a, b in zip(out, wanted, strict=True))


def test_an_identity_of_other_tokens_is_refused() -> None:
    q, v = split(draw(0, 4, 5, 32), HEADS), split(draw(1, 1, 20, 32), HEADS)
    patch = AttentionPatch("attn1.out", "identity", strength=0.5)
    with pytest.raises(ValueError, match=r"there are \(4, 5\) queries and \(1, 20\) values"):
        patch.attend_to_itself(Site({}), q, v, v, lambda q, k, v: q)


def test_the_window_limits_the_steps_that_are_changed() -> None:
    model = patcher()
    early = attach(model, AttentionPatch("attn1.out", "zero", where=Where(parse("middle"), Schedule(0.0, 0.5))))
    late = attach(model, AttentionPatch("attn1.out", "zero", where=Where(parse("middle"), Schedule(0.5, 1.0))))
    counts = []
    for patched in (early, late):
        run(patched, steps=6)
        counts.append(sum(last_run(patched).patched.values()))
    assert sum(counts) == 6
    assert min(counts) > 0
