"""Patches on a compiled model: a graph of its own for what is patched where, and settings read anew in each call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.call import call_model, compiles, marker, structure, untraced
from torch.overrides import _get_current_function_mode_stack

from .models import HALF, patcher, run


def drop_guards(entries: Any) -> list[bool]:
    """Keep what ComfyUI's compile node keeps."""
    return ["transformer_options" not in entry.name for entry in entries]


def network(x: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
    for patch in transformer_options.get("patches", {}).get("attn1_output_patch", ()):
        x = patch(x)
    if "attn1" in transformer_options.get("patches_replace", {}):
        x = transformer_options["patches_replace"]["attn1"]["middle", 0](x)
    return x + 1.0


@pytest.fixture
def compiled() -> Iterator[Callable[..., torch.Tensor]]:
    torch._dynamo.reset()
    yield torch.compile(network, backend="eager", options={"guard_filter_fn": drop_guards})
    torch._dynamo.reset()


def call(compiled: Callable[..., torch.Tensor], x: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    """Call a compiled network as a model with a compile node does."""
    behind = {**options, "wrappers": {"apply_model": {"torch.compile": [print]}}}

    def executor(x: torch.Tensor, t: Any, concat: Any, context: Any, control: Any, options: Any) -> torch.Tensor:
        return compiled(x, options)

    unet = SimpleNamespace(input_blocks=(), output_blocks=())
    executor.class_obj = SimpleNamespace(diffusion_model=unet)  # type: ignore[attr-defined]
    return call_model(executor, x, x, None, None, None, behind)


def patched(factor: list[float]) -> dict[str, Any]:
    return {"patches": {"attn1_output_patch": [lambda x: x * factor[0]]}}


def test_a_graph_is_stale_without_the_marker_and_fresh_with_it(compiled: Callable[..., torch.Tensor]) -> None:
    x, factor = torch.ones(3), [2.0]
    assert torch.equal(compiled(x, {}), x + 1)
    assert torch.equal(compiled(x, patched(factor)), x + 1)  # what ComfyUI's guards let happen
    assert torch.equal(call(compiled, x, patched(factor)), x * 2 + 1)
    factor[0] = 5.0
    assert torch.equal(call(compiled, x, patched(factor)), x * 5 + 1)
    replaced = {"patches_replace": {"attn1": {("middle", 0): lambda x: -x}}}
    assert torch.equal(call(compiled, x, replaced), -x + 1)
    assert torch.equal(compiled(x, {}), x + 1)


def test_settings_share_a_graph_and_places_do_not(compiled: Callable[..., torch.Tensor]) -> None:
    assert structure(patched([1.0])) == structure(patched([2.0]))
    two = {"patches": {"attn1_output_patch": [print, print]}}
    other = {"patches": {"attn2_output_patch": [print]}}
    replaced = {"patches_replace": {"attn1": {("middle", 0): print}}}
    further = {"patches_replace": {"attn1": {("middle", 0): print, ("input", 1): print}}}
    override = {"optimized_attention_override": print}
    names = [structure(options) for options in ({}, patched([1.0]), two, other, replaced, further, override)]
    assert len(set(names)) == len(names)
    assert marker("a") is marker("a") and marker("a") is not marker("b")


def test_options_stay_as_they_are() -> None:
    options: dict[str, Any] = {
        **patched([2.0]),
        "patches_replace": {"attn1": {("middle", 0): abs}},
        "optimized_attention_override": max,
        "sigmas": 1,
    }
    before = {name: dict(value) if isinstance(value, dict) else value for name, value in options.items()}
    out = untraced(options)
    assert options == before and out["sigmas"] == 1
    assert out["optimized_attention_override"](1, 2) == 2
    assert out["patches_replace"]["attn1"]["middle", 0](-3) == 3
    assert torch.equal(out["patches"]["attn1_output_patch"][0](torch.ones(1)), torch.full((1,), 2.0))


def test_a_pair_of_a_class_and_a_function_stays_a_pair() -> None:
    out = untraced({"patches": {"forward_timestep_embed_patch": [(int, abs)]}})
    ((kind, call),) = out["patches"]["forward_timestep_embed_patch"]
    assert kind is int and call(-3) == 3


def test_a_model_runs_marked_only_behind_a_compile_node() -> None:
    seen: list[list[str]] = []

    def note(n: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        seen.append([type(mode).__name__ for mode in _get_current_function_mode_stack()])
        return n

    model = patcher()
    model.set_model_attn1_output_patch(note)
    base = run(attach(model, HALF), 1)
    assert seen and not any(seen)
    seen.clear()
    model.add_wrapper_with_key(
        "apply_model", "torch.compile", lambda executor, *args, **kwargs: executor(*args, **kwargs)
    )
    assert torch.equal(run(attach(model, HALF), 1), base)
    assert len({name for names in seen for name in names}) == 1 and seen[0][0].startswith("Marker_")


def test_only_the_key_of_the_compile_node_counts() -> None:
    for key, marked in (("x", False), ("torch.compile", True)):
        assert compiles({"wrappers": {"apply_model": {key: [print]}}}) is marked
    assert not compiles({})
