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


def test_a_wrapped_function_keeps_its_name_and_has_no_container_function():
    @wrap_attn
    def attention_mine(q, k, v, heads, **kwargs):
        return q

    assert attention_mine.__name__ == "attention_mine"
    # ComfyUI calls an override's container_function wherever the attribute exists, even if it is None.
    assert not hasattr(attention_mine, "container_function")


def test_the_function_for_a_device():
    for_device = dispatch.optimized_attention_for_device
    assert for_device(torch.device("cpu")) is registry.get("sub_quad").function
    assert for_device("cpu", mask=True) is registry.get("sub_quad").function
    assert for_device("cpu", small_input=True) is registry.get("pytorch").function
    assert for_device(torch.device("cuda", 0)) is dispatch.optimized_attention
    assert for_device("cuda", mask=True) is dispatch.optimized_attention_masked


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
