"""BasicTransformerBlock: its formula, its hooks, and recomputation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import BasicTransformerBlock
from torch import Tensor

from . import formulas
from .formulas import made, noise

X, CONTEXT = noise(2, 6, 16), noise(2, 5, 10, seed=1)
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no gate": {"gated_ff": False},
    "ff_in": {"ff_in": True},
    "inner_dim": {"inner_dim": 24},
    "no self-attention": {"disable_self_attn": True},
    "one attention": {"disable_temporal_crossattention": True},
    "two self-attentions": {"switch_temporal_ca_to_sa": True},
}


def block(**kwargs: Any) -> BasicTransformerBlock:
    return made(BasicTransformerBlock, 16, 2, 8, **{"context_dim": 10, **kwargs})


def log_input(calls: list[Any]) -> Any:
    def patch(n: Tensor, context: Tensor, value: Tensor, extra_options: dict) -> tuple[Tensor, Tensor, Tensor]:
        calls.append((n, context, value, extra_options))
        return n, context, value

    return patch


def log_output(calls: list[Any]) -> Any:
    def patch(n: Tensor, extra_options: dict) -> Tensor:
        calls.append((n, extra_options))
        return n

    return patch


@pytest.mark.parametrize("name", SHAPES)
def test_formula(name: str) -> None:
    made_block = block(**SHAPES[name])
    truth = formulas.transformer_block(made_block, X, CONTEXT, glu=SHAPES[name].get("gated_ff", True))
    torch.testing.assert_close(made_block(X, CONTEXT), truth)


def test_without_context_both_attend_to_the_tokens() -> None:
    made_block = block(context_dim=None)
    torch.testing.assert_close(made_block(X), formulas.transformer_block(made_block, X, None))


def test_two_ways_to_remove_cross_attention_contradict() -> None:
    with pytest.raises(ValueError, match="attn2"):
        block(disable_temporal_crossattention=True, switch_temporal_ca_to_sa=True)


def test_input_patches_get_normed_tokens_context_and_value() -> None:
    made_block = block()
    calls1: list[Any] = []
    calls2: list[Any] = []
    made_block(X, CONTEXT, {"patches": {"attn1_patch": [log_input(calls1)], "attn2_patch": [log_input(calls2)]}})
    n = formulas.layer_norm(X, made_block.norm1)
    for seen in calls1[0][:3]:
        torch.testing.assert_close(seen, n)
    after_self = X + formulas.cross_attention(made_block.attn1, n)
    torch.testing.assert_close(calls2[0][0], formulas.layer_norm(after_self, made_block.norm2))
    assert calls2[0][1] is CONTEXT and calls2[0][2] is CONTEXT


def test_input_patches_chain_and_take_effect() -> None:
    made_block = block()

    def patch(n: Tensor, context: Tensor, value: Tensor, extra_options: dict) -> tuple[Tensor, Tensor, Tensor]:
        return n * 2, context + 1, value - 1

    n = formulas.layer_norm(X, made_block.norm1)
    x = X + formulas.cross_attention(made_block.attn1, n * 4, n + 2, n - 2)
    n = formulas.layer_norm(x, made_block.norm2)
    x = x + formulas.cross_attention(made_block.attn2, n * 2, CONTEXT + 1, CONTEXT - 1)
    truth = x + formulas.feed_forward(formulas.layer_norm(x, made_block.norm3), made_block.ff)
    out = made_block(X, CONTEXT, {"patches": {"attn1_patch": [patch, patch], "attn2_patch": [patch]}})
    torch.testing.assert_close(out, truth)


def test_output_and_middle_patches_run_in_order() -> None:
    made_block = block()
    scale = {"attn1_output_patch": 0.5, "attn2_output_patch": 3.0, "middle_patch": -1.0}
    order: list[str] = []

    def patch(name: str) -> Any:
        def run(n: Tensor, extra_options: dict) -> Tensor:
            order.append(name)
            return n * scale[name]

        return run

    out = made_block(X, CONTEXT, {"patches": {name: [patch(name)] for name in scale}})
    x = X + 0.5 * formulas.cross_attention(made_block.attn1, formulas.layer_norm(X, made_block.norm1))
    x = -x
    x = x + 3 * formulas.cross_attention(made_block.attn2, formulas.layer_norm(x, made_block.norm2), CONTEXT)
    truth = x + formulas.feed_forward(formulas.layer_norm(x, made_block.norm3), made_block.ff)
    torch.testing.assert_close(out, truth)
    assert order == ["attn1_output_patch", "middle_patch", "attn2_output_patch"]


@pytest.mark.parametrize(
    ("address", "runs"),
    [
        (("input", 4), ["short"]),
        (("input", 4, 2), ["long"]),
        (("input", 4, 0), []),
        (("input", 5), []),
        (("output", 4), []),
    ],
)
@pytest.mark.parametrize("name", ["attn1", "attn2"])
@pytest.mark.parametrize("kind", [tuple, list])
def test_replacement_is_found_by_address(name: str, address: tuple, runs: list[str], kind: type) -> None:
    ran: list[str] = []

    def replace(q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        ran.append("long" if len(address) == 3 else "short")
        return q

    options = {"block": kind(("input", 4)), "block_index": 2, "patches_replace": {name: {address: replace}}}
    block()(X, CONTEXT, options)
    assert ran == runs


def test_longer_address_wins() -> None:
    ran: list[str] = []

    def replace(name: str) -> Any:
        return lambda q, k, v, extra_options: ran.append(name) or q

    slot = {("middle", 0): replace("short"), ("middle", 0, 1): replace("long")}
    made_block = block()
    for index in (1, 0):
        made_block(X, CONTEXT, {"block": ("middle", 0), "block_index": index, "patches_replace": {"attn2": slot}})
    assert ran == ["long", "short"]


def test_a_block_without_address_is_never_replaced() -> None:
    slot = {("middle", 0): None, None: None}
    made_block = block()
    assert torch.equal(made_block(X, CONTEXT, {"patches_replace": {"attn1": slot}}), made_block(X, CONTEXT))


@pytest.mark.parametrize("name", ["attn1", "attn2"])
@pytest.mark.parametrize("shape", ["plain", "no self-attention", "two self-attentions"])
@pytest.mark.parametrize("context", [CONTEXT, None])
def test_replacement_gets_what_attention_would(name: str, shape: str, context: Tensor | None) -> None:
    made_block = block(**SHAPES[shape], **({} if context is not None else {"context_dim": None}))
    calls: list[Any] = []

    def replace(q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        calls.append(extra_options)
        return formulas.heads_attention(q, k, v, extra_options["n_heads"])

    options = {"block": ("output", 3), "patches_replace": {name: {("output", 3): replace}}}
    torch.testing.assert_close(made_block(X, context, options), made_block(X, context))
    assert len(calls) == 1


def test_extra_options_are_the_callers_without_the_patches() -> None:
    calls: list[Any] = []
    shared = object()
    caller = {
        "block": ("input", 7),
        "block_index": 1,
        "sigmas": torch.ones(2),
        "cond_or_uncond": [0, 1],
        "anything": shared,
        "n_heads": "replaced",
        "patches": {"attn1_patch": [log_input(calls)], "attn2_output_patch": [log_output(calls)]},
        "patches_replace": {"attn1": {}},
    }
    block(attn_precision=torch.float32)(X, CONTEXT, caller)
    first, last = calls[0][-1], calls[1][-1]
    own = {"n_heads": 2, "dim_head": 8, "attn_precision": torch.float32}
    assert first is last  # what one patch leaves there the next one finds
    assert first == {**{k: v for k, v in caller.items() if not k.startswith("patches")}, **own}
    assert first["anything"] is shared and first["sigmas"] is caller["sigmas"]


def test_no_attn2_means_no_attn2_patches() -> None:
    made_block = block(disable_temporal_crossattention=True)
    calls: list[Any] = []
    patches = {"attn2_patch": [log_input(calls)], "attn2_output_patch": [log_output(calls)]}
    assert torch.equal(made_block(X, CONTEXT, {"patches": patches}), made_block(X, CONTEXT))
    assert not calls


def test_override_sees_both_attentions() -> None:
    calls: list[Any] = []

    def override(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        calls.append((k.shape[1], kwargs["transformer_options"]))
        return func(q, k, v, heads, *args, **kwargs)

    options = {"block": ("input", 1), "block_index": 0, "optimized_attention_override": override}
    made_block = block()
    assert torch.equal(made_block(X, CONTEXT, options), made_block(X, CONTEXT))
    assert [length for length, _ in calls] == [6, 5]
    assert all(seen["block"] == ("input", 1) for _, seen in calls)


def test_neutral_hooks_change_nothing_and_the_options_stay_as_they_were() -> None:
    calls: list[Any] = []
    patches = {f"{name}_patch": [log_input(calls)] * 2 for name in ("attn1", "attn2")}
    patches |= {name: [log_output(calls)] for name in ("attn1_output_patch", "attn2_output_patch", "middle_patch")}
    options = {"block": ("middle", 0), "patches": patches, "patches_replace": {"attn1": {("input", 1): None}}}
    before = copy.deepcopy(options)
    made_block = block()
    assert torch.equal(made_block(X, CONTEXT, options), made_block(X, CONTEXT))
    assert len(calls) == 7
    assert options == before


def run_with_gradients(checkpoint: bool, options: dict) -> tuple[Tensor, list[Tensor]]:
    made_block = block(checkpoint=checkpoint, dropout=0.3)
    x, context = X.clone().requires_grad_(), CONTEXT.clone().requires_grad_()
    torch.manual_seed(2)
    out = made_block(x, context, options)
    out.square().mean().backward()
    return out.detach(), [x.grad, context.grad, *(p.grad for p in made_block.parameters())]


def test_checkpoint_keeps_output_and_gradients() -> None:
    calls: list[Any] = []
    options = {"block": ("middle", 0), "patches": {"attn1_output_patch": [log_output(calls)]}}
    out, grads = run_with_gradients(False, options)
    assert len(calls) == 1
    out2, grads2 = run_with_gradients(True, options)
    assert len(calls) == 3  # forward, and again in the backward pass
    assert torch.equal(out, out2)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads2, strict=True))


def test_checkpoint_does_not_recompute_without_gradients() -> None:
    calls: list[Any] = []
    with torch.no_grad():
        block(checkpoint=True)(X, CONTEXT, {"patches": {"middle_patch": [log_output(calls)]}})
    assert len(calls) == 1
