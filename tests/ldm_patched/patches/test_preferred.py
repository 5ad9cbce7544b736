"""Layers that prefer a function of their own, and calls in containers, as ComfyUI from 0.40 on makes them.

`Layer` and `call` follow the conventions of its `ComfyAttention` and `wrap_attn`; the real ones are tried in
`tests/contract/test_preferred_comfyui.py`.
"""

from __future__ import annotations

import copy
import weakref
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends.pytorch import attention_pytorch
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.call import begin, call_model
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.engine.preferred import preferences
from attention_patchbay.ldm_patched.patches.engine.router import SLOT, Route, Router
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.record.plan import KEY, Entry, plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.patches.routing.nan_guard import REPAIR, Sentinel
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from torch import Tensor, nn

from .models import draw, network, patcher

MIDDLE, INPUT = BlockId("middle", 0), BlockId("input", 3)


class Container:
    """Holds a tensor until somebody takes it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor

    def peek(self) -> Tensor:
        assert self.tensor is not None, "taken twice"
        return self.tensor

    def take(self) -> Tensor:
        tensor, self.tensor = self.peek(), None
        return tensor


class Layer(nn.Module):
    """What a layer keeps its function in."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function


class Kernel:
    """A function that takes tensors or containers, and notes which, and how many tensors somebody else still holds."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.held = 0

    def __call__(self, q: Any, k: Any, v: Any, heads: int, **kwargs: Any) -> Tensor:
        kwargs.pop("transformer_options")
        if isinstance(q, Tensor):
            self.seen.append("tensors")
            return attention_pytorch(q, k, v, heads, **kwargs) * 0.5
        self.seen.append("containers")
        out = attention_pytorch(q.peek(), k.peek(), v.peek(), heads, **kwargs) * 0.5
        taken = [weakref.ref(x.take()) for x in (q, k, v)]
        self.held = sum(one() is not None for one in taken)
        return out


def host(q: Any, k: Any, v: Any, heads: int, **kwargs: Any) -> Tensor:
    """Compute attention as the host's own function, which takes either."""
    assert kwargs["_inside_attn_wrapper"]
    tensors = (x if isinstance(x, Tensor) else x.take() for x in (q, k, v))
    return attention_pytorch(*tensors, heads, **kwargs)


def call(options: dict[str, Any]) -> Tensor:
    """Make an attention call in containers, whose tensors nobody else holds, as the host does where an override is."""
    override = options[SLOT]
    assert hasattr(override, "container_function")
    inputs = (Container(draw(place, 1, 6, 16)) for place in range(3))
    out: Tensor = override.container_function(*inputs, 2, transformer_options=options, _inside_attn_wrapper=True)
    return out


def own() -> Tensor:
    """Return what the host's own function gives."""
    return attention_pytorch(*(draw(place, 1, 6, 16) for place in range(3)), 2)


def here(router: Any, run: Run, block: BlockId = MIDDLE) -> dict[str, Any]:
    return {SLOT: router, KEY: run, "block": block[:2], "block_index": block.inner}


def preferring(kernel: Any) -> Run:
    """Return the run of a model whose layer in the middle prefers a kernel for self-attention."""
    run = Run()
    run.preferred = {(MIDDLE, "self"): kernel}
    run.enter("self", MIDDLE)
    return run


def test_the_functions_of_a_network_are_found_by_block_and_kind() -> None:
    net, kernel, other = copy.deepcopy(network().diffusion_model), Kernel(), Kernel()
    block = net.middle_block[1].transformer_blocks[0]
    block.attn1.comfy_attention, block.attn2.comfy_attention = Layer(kernel), Layer(None)
    net.input_blocks[3][1].transformer_blocks[1].attn2.comfy_attention = Layer(other)
    assert preferences(net) == {(MIDDLE, "self"): kernel, (BlockId("input", 3, 1), "cross"): other}


def test_a_call_that_no_rule_takes_runs_what_the_layer_prefers_in_its_containers() -> None:
    kernel = Kernel()
    run = preferring(kernel)
    out = call(here(Router(attend=host), run))
    assert torch.equal(out, 0.5 * own()) and kernel.seen == ["containers"] and kernel.held == 0
    assert [(made.backend, made.preferred) for made in run.calls] == [("Kernel", True)]
    assert torch.equal(call(here(Router(attend=host), run, INPUT)), own()) and len(kernel.seen) == 1  # another layer's


def test_a_preference_with_settings_is_named_by_its_function() -> None:
    run = preferring(partial(attention_pytorch, scale=0.5))
    options = here(Router(attend=host), run)
    q = draw(0, 1, 6, 16)
    Router()(attention_pytorch, q, q, q, 2, transformer_options=options)
    assert [(made.backend, made.preferred) for made in run.calls] == [("pytorch", True)]


def test_a_rule_is_asked_before_the_preference_and_takes_the_tensors_out() -> None:
    kernel = Kernel()
    run = preferring(kernel)
    router = Router(attend=host, routes=(Route("basic", Entry("rule"), frozenset({(MIDDLE, "self")})),))
    assert torch.allclose(call(here(router, run)), own(), atol=1e-5) and kernel.seen == []
    assert [(made.backend, made.preferred) for made in run.calls] == [("basic", False)]


def test_the_override_that_was_there_before_comes_before_the_preference() -> None:
    kernel, before = Kernel(), Kernel()

    def override(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, **kwargs: Any) -> Tensor:
        out: Tensor = func(q, k, v, heads, **kwargs) * 2
        return out

    assert torch.equal(call(here(Router(previous=override, attend=host), preferring(kernel))), 2 * own())
    override.container_function = before  # type: ignore[attr-defined]
    call(here(Router(previous=override, attend=host), preferring(kernel)))
    assert before.seen == ["containers"] and before.held == 0 and kernel.seen == []


def test_a_guard_keeps_the_tensors_of_what_it_watches_and_no_others() -> None:
    def broken(q: Tensor, k: Tensor, v: Tensor, heads: int, **kwargs: Any) -> Tensor:
        assert isinstance(q, Tensor)
        return torch.full_like(q, torch.nan)

    guard = attach(patcher(), Sentinel("repair", Where.of("middle"))).model_options["transformer_options"][SLOT]
    run = preferring(broken)
    assert torch.allclose(call(here(guard, run)), own(), atol=1e-5)
    assert [fault.outcome for fault in run.faults] == [f"{REPAIR} from there on"]
    kernel = Kernel()
    run.preferred = {(INPUT, "self"): kernel}
    call(here(guard, run, INPUT))
    assert kernel.seen == ["containers"] and kernel.held == 0


@pytest.mark.parametrize("seen", ["self", None])
def test_an_attention_of_unknown_kind_has_the_preference_of_its_block(seen: str | None) -> None:
    alone, beside = Kernel(), Kernel()
    for kernel, more in ((alone, {}), (beside, {(MIDDLE, "cross"): Kernel()})):
        run = Run()
        run.preferred = {(MIDDLE, "self"): kernel, **more}
        if seen:
            run.enter(seen, MIDDLE)
        call(here(Router(attend=host), run))
    assert len(alone.seen) == 1
    assert len(beside.seen) == (1 if seen else 0)


def test_the_report_says_who_chose_and_whose_override_took_the_calls() -> None:
    model = attach(patcher(), AttentionPatch("attn1.out", "scale", 1.0, where=Where.of("middle")))
    plan = plan_of(model)
    assert plan is not None
    run = Run(plan)
    run.preferred = {(MIDDLE, "self"): Kernel()}
    run.enter("self", MIDDLE)
    call(here(Router(attend=host), run))
    assert [row["note"] for row in report.table(run)] == ["preferred by the model"]
    taken = Run(plan)
    begin(taken, model.model, {SLOT: in_front})
    taken.enter("self", MIDDLE)
    assert f"0 of 1 attention calls took the override: {__name__} took them." in report.text(taken)


def in_front(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Take every call."""
    return func(*args, **kwargs)


def test_neutral_nodes_and_rules_elsewhere_leave_the_preferences_alone() -> None:
    """As in a run: 10 blocks of two attentions, of which a rule takes those of the middle."""
    for value, expected in (
        (AttentionPatch("attn1.out", "scale", 1.0, where=Where.of("middle")), 20),
        (Sentinel("off"), 20),
        (Rule("basic", Where.of("middle")), 18),
    ):
        kernel = Kernel()
        model = attach(patcher(), value)
        options = model.model_options["transformer_options"]
        plan = plan_of(model)
        assert plan is not None
        run = Run(plan)
        run.preferred = {(block, kind): kernel for block in plan.blocks for kind in ("self", "cross")}
        for block in plan.blocks:
            for kind in ("self", "cross"):
                run.enter(kind, block)
                call({**options, **here(options[SLOT], run, block)})
        assert len(kernel.seen) == expected and set(kernel.seen) == {"containers"}


class Told(nn.Module):
    """A layer that gets the options of a call."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.comfy_attention = Layer(function)

    def forward(self, transformer_options: dict[str, Any]) -> Tensor:
        return call(transformer_options)


class Untold(Told):
    """A layer that gets no options, so that nobody can tell it."""

    def forward(self) -> None:  # type: ignore[override]
        """Do nothing."""


class Refined(nn.Module):
    """A network whose refiner stands outside of its blocks."""

    def __init__(self, function: Any, refiner: nn.Module | None = None) -> None:
        super().__init__()
        self.layers, self.refiner = nn.ModuleList([nn.Module()]), refiner or Untold(None)
        self.layers[0].comfy_attention = Layer(function)


NextDiT = type("NextDiT", (Refined,), {})  # as ComfyUI calls Lumina's


def refined(function: Any, refiner: nn.Module | None, value: Any) -> tuple[ModelPatcher, list[dict[str, Any]]]:
    """Make one call of a network with a refiner and a method; return the model, and the options of the network."""
    seen: list[dict[str, Any]] = []

    def executor(x: Tensor, t: Any, c: Any, context: Any, control: Any, options: dict[str, Any]) -> Tensor:
        seen.append(options)
        return x

    sampling = SimpleNamespace(percent_to_sigma=lambda percent: 1.0 - percent)
    whole: Any = SimpleNamespace(diffusion_model=NextDiT(function, refiner), model_sampling=sampling)
    model = attach(ModelPatcher(whole, "cpu", "cpu", size=1), value, Host(attend=host))
    executor.class_obj = whole  # type: ignore[attr-defined]
    options = model.model_options["transformer_options"]
    call_model(executor, torch.zeros(1, 4, 4, 4), torch.ones(1), None, None, None, options)  # type: ignore[arg-type]
    return model, seen


@pytest.mark.parametrize(("other", "stays"), [(None, True), (attention_pytorch, False)])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_node_that_does_nothing_leaves_the_slot_to_layers_that_nobody_can_tell(
    other: Any, stays: bool, scale: float
) -> None:
    model, seen = refined(attention_pytorch, Untold(other), AttentionPatch("attn1.v", "scale", scale))
    assert (SLOT in seen[0]) == (stays or scale != 1.0) and SLOT in model.model_options["transformer_options"]


def test_a_layer_outside_of_the_blocks_tells_its_calls_what_it_prefers() -> None:
    kernel = Kernel()
    model, seen = refined(None, Told(kernel), AttentionPatch("attn1.v", "scale", 2.0))
    assert SLOT in seen[0]
    forward = model.get_model_object("diffusion_model.refiner.forward")
    assert torch.equal(forward(transformer_options=seen[0]), 0.5 * own()) and kernel.seen == ["containers"]
    assert [(made.block, made.backend, made.preferred) for made in seen[0][KEY].calls] == [(None, "Kernel", True)]
    twice = attach(model, AttentionPatch("attn1.v", "scale", 3.0))
    assert twice.get_model_object("diffusion_model.refiner.forward") == forward


@pytest.mark.parametrize("before", [True, False])
def test_an_override_of_others_hides_the_preferences_as_it_does_without_a_node(before: bool) -> None:
    """Where it stands behind or in front of a node, and hands its calls on."""
    kernel, run = Kernel(), preferring(Kernel())
    run.preferred = {(MIDDLE, "self"): kernel}
    router = Router(attend=host)
    setattr(run, "behind" if before else "in_front", "another pack")
    assert torch.equal(call(here(router, run)), own()) and kernel.seen == []


def test_a_call_that_another_router_gets_behind_an_override_is_counted_once() -> None:
    first = Router(routes=(Route("basic", Entry("rule"), frozenset({(MIDDLE, "self")})),))

    def hands_on(func: Any, *args: Any, **kwargs: Any) -> Any:
        return first(func, *args, **kwargs)

    run = preferring(None)
    q = draw(0, 1, 6, 16)
    Router(previous=hands_on)(attention_pytorch, q, q, q, 2, transformer_options=here(None, run))
    assert [(made.backend, made.rule) for made in run.calls.elements()] == [("basic", 1)]

    def takes(func: Any, *args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    run = preferring(None)
    Router(previous=takes)(attention_pytorch, q, q, q, 2, transformer_options=here(None, run))
    assert [made.backend for made in run.calls.elements()] == [__name__]


def test_an_attention_with_two_preferences_has_none() -> None:
    network: Any = NextDiT(attention_pytorch)
    network.layers[0].second = nn.Module()
    network.layers[0].second.comfy_attention = Layer(attention_pytorch)
    assert list(preferences(network).values()) == [attention_pytorch]
    network.layers[0].second.comfy_attention = Layer(Kernel())
    assert not preferences(network)
