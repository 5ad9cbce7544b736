"""The override slot in front of every attention function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import dispatch, registry
from attention_patchbay.ldm_patched.ldm.modules.backends.wrapper import wrap_attn

Q = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0))
PLAIN = [name for name in registry.KNOWN if not registry.get(name).reasons(registry.AttentionCall.of(Q, Q, Q, 2))]


class Override:
    """Record the calls that arrive, and run them on the function that was chosen."""

    def __init__(self):
        self.calls = []

    def __call__(self, func, *args, **kwargs):
        self.calls.append((func, args, kwargs))
        return func(*args, **kwargs)


@pytest.mark.parametrize("name", PLAIN)
def test_an_override_gets_the_unwrapped_function_and_the_call(name):
    function = registry.get(name).function
    override = Override()
    options = {"optimized_attention_override": override, "block": ("input", 4)}
    mask = torch.zeros(5, 5)
    out = function(Q, Q, Q, 2, mask, skip_output_reshape=True, transformer_options=options)
    ((func, args, kwargs),) = override.calls
    assert func is function.__wrapped__
    assert args[3] == 2 and args[4] is mask
    assert kwargs == {"skip_output_reshape": True, "transformer_options": options, "_inside_attn_wrapper": True}
    assert torch.equal(out, function(Q, Q, Q, 2, mask, skip_output_reshape=True))


@pytest.mark.parametrize("name", PLAIN)
def test_no_override_without_transformer_options(name):
    function = registry.get(name).function
    expected = function(Q, Q, Q, 2)
    for options in (None, {}, {"optimized_attention_override": None}):
        assert torch.equal(function(Q, Q, Q, 2, transformer_options=options), expected)


def test_a_marked_call_skips_the_override():
    override = Override()
    options = {"optimized_attention_override": override}
    dispatch.optimized_attention(Q, Q, Q, 2, transformer_options=options, _inside_attn_wrapper=True)
    assert override.calls == []


def test_an_override_may_forward_to_any_wrapped_function():
    seen = []

    def override(func, *args, **kwargs):
        seen.append(func)
        return registry.get("basic").function(*args, **kwargs)

    out = dispatch.optimized_attention(Q, Q, Q, 2, transformer_options={"optimized_attention_override": override})
    assert len(seen) == 1
    assert torch.equal(out, registry.get("basic").function(Q, Q, Q, 2))


def test_the_callers_arguments_are_left_alone():
    kwargs = {"transformer_options": {"optimized_attention_override": Override()}}
    dispatch.optimized_attention(Q, Q, Q, 2, **kwargs)
    assert list(kwargs) == ["transformer_options"]
    assert list(kwargs["transformer_options"]) == ["optimized_attention_override"]


# A call's own choice, as newer hosts make it: `preferred_attention` holds the function of a layer


class Preferred:
    """Stand in for a layer's choice of a kernel."""

    def __init__(self, function):
        self.function = function


def own(*args, **kwargs):
    """Stand in for the kernel that a layer asks for: it knows the arguments of every attention function only."""
    assert set(kwargs) <= {"mask", "scale", "transformer_options", "_inside_attn_wrapper"}
    return args[0] * 2


@pytest.mark.parametrize("name", [*PLAIN, "optimized"])
def test_a_preferred_function_runs_where_there_is_no_override(name):
    function = dispatch.optimized_attention if name == "optimized" else registry.get(name).function
    for options in ({}, {"transformer_options": {"block": ("input", 4)}}):
        out = function(Q, Q, Q, 2, scale=0.5, preferred_attention=Preferred(own), **options)
        assert torch.equal(out, Q * 2)
        plain = function(Q, Q, Q, 2, preferred_attention=Preferred(None), **options)
        assert torch.equal(plain, function(Q, Q, Q, 2))


@pytest.mark.parametrize("name", [*PLAIN, "optimized"])
def test_the_override_comes_before_a_preferred_function(name):
    function = dispatch.optimized_attention if name == "optimized" else registry.get(name).function
    override = Override()
    options = {"optimized_attention_override": override}
    out = function(Q, Q, Q, 2, transformer_options=options, preferred_attention=Preferred(own))
    ((func, _, kwargs),) = override.calls
    assert kwargs == {"transformer_options": options, "_inside_attn_wrapper": True}
    assert func is own and torch.equal(out, Q * 2)  # an override that declines keeps the layer's choice
    inside = function(Q, Q, Q, 2, preferred_attention=Preferred(own), _inside_attn_wrapper=True)
    assert torch.equal(inside, function(Q, Q, Q, 2))


def test_a_preferred_function_may_be_a_wrapped_one():
    basic = registry.get("basic").function
    options = {"transformer_options": {"block": ("input", 4)}}
    out = dispatch.optimized_attention(Q, Q, Q, 2, preferred_attention=Preferred(basic), **options)
    assert torch.equal(out, basic(Q, Q, Q, 2))


def test_a_wrapped_function_keeps_its_name_and_has_no_container_function():
    @wrap_attn
    def attention_mine(q, k, v, heads, **kwargs):
        return q

    assert attention_mine.__name__ == "attention_mine"
    # ComfyUI calls an override's container_function wherever the attribute exists, even if it is None.
    assert not hasattr(attention_mine, "container_function")


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "cpu_tiled"), (torch.float32, "pytorch")])
def test_the_default_takes_tiles_where_they_are_faster(dtype: torch.dtype, name: str) -> None:
    seen = []

    def override(func: Any, q: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(func.__name__)
        return q

    q = torch.zeros(1, 512, 16, dtype=dtype)
    options = {"optimized_attention_override": override}
    dispatch.optimized_attention(q, q, q, 2, transformer_options=options)
    dispatch.optimized_attention(q, q, q, 2, None, torch.float32, transformer_options=options)
    dispatch.optimized_attention(q, q[:, :25], q[:, :25], 2, transformer_options=options)
    leaf = q.clone().requires_grad_()
    dispatch.optimized_attention(leaf, q, q, 2, transformer_options=options)
    assert seen == [f"attention_{name}", *["attention_pytorch"] * 3]
