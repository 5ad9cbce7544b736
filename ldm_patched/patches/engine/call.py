"""Each call of the model: its stacks, its run, and no graph that outlives the patches it was traced with.

A host's compile node drops every guard on `transformer_options`, or torch would trace anew in each step. Then a graph
does not notice that patches came, went or changed. So each set of patches runs under a torch function mode of its own
type, which torch does guard in every frame, and what patches do is kept out of the graph.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..addressing.families import UNET, family_of_net
from ..patcher import Executor, Patch, TransformerOptions
from ..record.plan import KEY, Plan
from ..record.run import Run
from .block_forward import BLOCK, CALLED
from .coordinates import taken
from .foreign import counted
from .further_prompts import Call, with_rows
from .holding import with_held
from .listed import LISTED, lists, others_in
from .owner import owner
from .positions import POSITIONS
from .preferred import hidden_by_an_override, preferences
from .router import SLOT, Router
from .stack import ATTEND, CONTEXT, LAYERS, stacked
from .tokens import LATENT, TOKENS, tokens_of

APPLY_MODEL = "apply_model"  # ComfyUI's name of the place
COMPILE = "torch.compile"  # the key of its wrapper there


def call_model(
    executor: Executor,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None,
    c_crossattn: Tensor | None,
    control: object,
    transformer_options: TransformerOptions,
    **kwargs: Any,
) -> Tensor:
    """Call the model with its stacks around foreign entries, its context in the options, and no stale graph.

    A wrapper for APPLY_MODEL.
    """
    plan = transformer_options.get(KEY)
    run = Run(plan) if isinstance(plan, Plan) else plan  # outside of a sampler a call is a run of its own
    if isinstance(run, Run):
        begin(run, executor.class_obj, transformer_options)
    net = network(executor.class_obj)
    there = with_held(_out_of_the_way(transformer_options, run), family_of_net(net).calls)
    given, kwargs = taken(_entered(there, executor.class_obj, x, kwargs), kwargs, x)
    options = counted({**given, KEY: run, LATENT: list(x.shape)})
    if c_crossattn is not None:
        options[CONTEXT] = c_crossattn
    call = with_rows(executor.class_obj, Call(x, t, c_concat, c_crossattn, control, options, kwargs))
    before = CALLED.set(call.options)
    try:
        out = _executed(executor, call)
    finally:
        CALLED.reset(before)
    return out if call.x is x else out[: len(x)]


def _executed(executor: Executor, call: Call) -> Tensor:
    *given, options, conds = call
    if not compiles(options):
        return executor(*given, options, **conds)
    with marker(structure(options))():
        return executor(*given, untraced(options), **conds)


def _out_of_the_way(options: TransformerOptions, run: Run | None) -> TransformerOptions:
    """Return the options without our override where no entry needs it and it would hide what layers prefer."""
    router = options.get(SLOT)
    if run is None or not run.hidden or not isinstance(router, Router):
        return options
    if not all(entry.neutral for entry in run.entries):
        return options
    rest = {name: given for name, given in options.items() if name != SLOT}
    return rest if router.previous is None else {**rest, SLOT: router.previous}


def _entered(options: TransformerOptions, model: Any, x: Tensor, conds: dict[str, Any]) -> TransformerOptions:
    """Return the options of a call with the way for layers into it: the slots of a UNet, or the override."""
    net = network(model)
    family = family_of_net(net)
    if family.calls == UNET:
        return with_stacks(options)
    found = {**options, "patches": lists(options)}
    if not (options.get(LAYERS) or options.get(LISTED)):
        return found
    ratio = getattr(getattr(model, "latent_format", None), "temporal_downscale_ratio", 1)
    return {**found, TOKENS: tokens_of(net, family, x, conds, ratio), POSITIONS: {}}


def with_stacks(options: TransformerOptions) -> TransformerOptions:
    """Return the options of a call with what a model keeps beside its slots and lists in them."""
    slots = dict(options.get("patches_replace", {}))
    for name, layers in options.get(LAYERS, {}).items():
        slots[name] = stacked(name, slots.get(name, {}), layers, options[ATTEND])
    return {**options, "patches": lists(options), "patches_replace": slots}


def network(model: Any) -> Any:
    """Return the network of a model; torch.compile puts a module of its own around it."""
    return getattr(model.diffusion_model, "_orig_mod", model.diffusion_model)


def begin(run: Run, model: Any, options: TransformerOptions) -> None:
    """Note what a call of the model finds on it: the preferences of its layers, and what of others comes first."""
    run.enter_model()
    net = network(model)
    forward = vars(net).get("forward")
    if forward is not None:
        run.forward = owner(forward)
    if run.preferred is None:
        run.preferred = preferences(net)
        run.hidden = hidden_by_an_override(net, run.preferred)
    override = options.get(SLOT)
    if override is not None and not isinstance(override, Router):
        run.in_front = owner(override)
    run.others = {slot: others_in(options, slot) for slot in ("attn1_patch", "attn2_patch")}


def compiles(options: TransformerOptions) -> bool:
    """Return whether a compile node is on the model of these options."""
    return bool(options.get("wrappers", {}).get(APPLY_MODEL, {}).get(COMPILE))


class CompileMarker(TorchFunctionMode):
    """A mode that changes no function; torch keeps apart what was traced under another type of it, or under none."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


@functools.cache
def marker(name: str) -> type[CompileMarker]:
    """Return the one type of marker for a structure."""
    return type(f"Marker_{name}", (CompileMarker,), {})


def structure(options: TransformerOptions) -> str:
    """Return a short name of what is patched where; the settings of patches do not matter."""
    lists = {name: len(patches) for name, patches in options.get("patches", {}).items()}
    replaced = {name: sorted(map(str, slots)) for name, slots in options.get("patches_replace", {}).items()}
    whole = sorted(map(str, options.get(LAYERS, {}).get(BLOCK, {})))
    text = repr((sorted(lists.items()), sorted(replaced.items()), whole, SLOT in options))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def untraced(options: TransformerOptions) -> TransformerOptions:
    """Return options whose patches and override are called from outside the graph."""
    out = dict(options)
    if "patches" in options:
        out["patches"] = {name: [_outside(patch) for patch in some] for name, some in options["patches"].items()}
    if "patches_replace" in options:
        replaced = options["patches_replace"]
        out["patches_replace"] = {
            name: {address: _outside(patch) for address, patch in slots.items()} for name, slots in replaced.items()
        }
    if SLOT in options:
        out[SLOT] = _outside(options[SLOT])
    return out


def _outside(patch: Any) -> Any:
    """Return a function that calls a patch from outside the graph; the patch itself stays as it is."""
    if isinstance(patch, tuple):  # a class of layers and the function that runs them
        return (*patch[:-1], _outside(patch[-1]))

    def call(*args: Any, **kwargs: Any) -> Any:
        return patch(*args, **kwargs)

    outside: Patch = torch.compiler.disable(call)
    contained = getattr(patch, "container_function", None)
    if contained is not None:
        outside.container_function = torch.compiler.disable(contained)  # type: ignore[attr-defined]
    return outside
