"""Patches on a network of diffusers: put there, run, and taken off again, whatever pipeline calls it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook, StateManager
from torch import Tensor

from ..ldm.modules.backends import registry
from ..modules.model_patcher import ModelPatcher
from ..patches.addressing.address import AddressError
from ..patches.addressing.families import is_unet
from ..patches.engine.attach import attach
from ..patches.engine.block_forward import CALLED
from ..patches.engine.capabilities import Capabilities
from ..patches.engine.gathering import keep
from ..patches.engine.hold import holds_of
from ..patches.engine.host import Host
from ..patches.engine.listed import LISTED
from ..patches.engine.method import Method
from ..patches.patcher import Patcher
from ..patches.record.run import Run
from ..patches.routing.observe import Observer, observed
from ..patches.routing.rule import Rule
from ..patches.routing.rules import attach_rules
from . import unet_blocks
from .levels import levels
from .networks import UNet, network
from .processors import attend, processor
from .running import Denoiser, Guidance, Running, predict

NAME = "attention_patchbay"  # of the hook
DENOISERS = ("unet", "transformer", "transformer_2")  # their names in pipelines
SLOTS = {"attn1_patch", "attn2_patch", "attn1_output_patch", "attn2_output_patch", *unet_blocks.SLOTS}
OUTSIDE = (
    "this model is patched, and was called outside of a run: call it, or its pipeline, inside `with ap.run(...):`, or "
    "take the patches off by ap.unpatch"
)
NO_PLACE = (
    "{}: {}, where nothing of this library stands on models of diffusers; what works there: methods of attention, of a "
    "UNet's blocks, guidance, captures and backend rules"
)
WHOLE, BETWEEN = "it acts on whole blocks of a transformer", "it acts between the attentions of a block"
OTHERWISE = "it acts on weights, on the forward of modules or on patches of others"


def able() -> Capabilities:
    """Return what patches can do on models of diffusers."""
    return Capabilities(host="diffusers", functions=registry.usable())


HOST = Host(attend=attend, predict=predict, able=able)


class Side(StateManager):
    """Which prompt the pipeline says it predicts now."""

    def __init__(self) -> None:
        self.name: str | None = None

    def set_context(self, context: Any) -> None:
        """Note what the pipeline says."""
        self.name = getattr(context, "name", context)

    def reset(self, *args: object, **kwargs: object) -> None:
        """Forget it."""
        self.name = None


class Hook(ModelHook):
    """What stands around the forward of a patched network: its patches, and the run that is under way."""

    _is_stateful = True

    def __init__(self, theirs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fn_ref: Any
        self.patcher: Patcher = ModelPatcher(Denoiser(network(theirs)), "cpu", "cpu")
        self.side = Side()
        self.running: Running | None = None
        self.own: dict[str, Any] = {}  # the processors that stood there, by their paths
        self.handles: list[Any] = []

    def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the network with its patches."""
        if self.running is None:
            raise RuntimeError(OUTSIDE)
        return self.running.call(self.fn_ref.original_forward, args, kwargs, self.side.name == "uncond")

    def reset_state(self, module: Any) -> Any:
        """Forget which prompt it was."""
        self.side.reset()
        return module


def denoiser_of(model: Any) -> Any:
    """Return the network that a pipeline denoises with, or the model itself.

    Raises TypeError for what is neither, and for a pipeline of two.
    """
    if isinstance(model, torch.nn.Module):
        return model
    found = [one for one in (getattr(model, name, None) for name in DENOISERS) if one is not None]
    if not found:
        what = "give what ap.load gives, a pipeline of diffusers, or its network"
        raise TypeError(f"{type(model).__name__} is no model: {what}")
    if len(found) > 1:
        raise TypeError(
            f"{type(model).__name__} has {len(found)} networks that denoise; give one of {', '.join(DENOISERS)}, and "
            "ap.run the scheduler too"
        )
    return found[0]


def hook_of(theirs: Any) -> Hook | None:
    """Return the hook of a patched network; None for one without patches."""
    hooks = getattr(theirs, "_diffusers_hook", None)
    found: Hook | None = None if hooks is None else hooks.get_hook(NAME)
    return found


def handle(model: Any) -> Patcher:
    """Return the handle on a network of diffusers, or on that of a pipeline, with its patches."""
    theirs = denoiser_of(model)
    hook = hook_of(theirs)
    return Hook(theirs).patcher if hook is None else hook.patcher


def patch(model: Any, methods: Sequence[Method]) -> None:
    """Put methods, or rules in the order of their text, on a network of diffusers or on that of a pipeline.

    Raises TypeError for a network or processor that cannot be patched, AddressError for a method that has no place.
    """
    theirs = denoiser_of(model)
    hook = hook_of(theirs)
    new = Hook(theirs) if hook is None else hook
    if new.running is not None:
        raise RuntimeError("a run is under way; patch the model before or after it")
    new.patcher = _attached(new.patcher, methods)
    if hook is None:
        _install(theirs, new)


def _attached(patcher: Patcher, methods: Sequence[Method]) -> Patcher:
    for are_rules, some in groupby(methods, lambda method: isinstance(method, Rule)):
        if are_rules:
            patcher = attach_rules(patcher, [rule for rule in some if isinstance(rule, Rule)], HOST)
        else:
            for method in some:
                patcher = _with(patcher, method)
    return patcher


def _with(patcher: Patcher, method: Method) -> Patcher:
    """Return a handle with a method on it; raises AddressError for one that acts where nothing of ours stands."""
    if method.kind == "block" and not is_unet(patcher):
        raise AddressError(NO_PLACE.format(method.name, WHOLE))
    if method.in_layers:
        raise AddressError(NO_PLACE.format(method.name, OTHERWISE))
    patcher = attach(patcher, method, HOST)
    options = patcher.model_options["transformer_options"]
    if set(options.get(LISTED, {})) - SLOTS:
        raise AddressError(NO_PLACE.format(method.name, BETWEEN))
    if patcher.object_patches or holds_of(options):
        raise AddressError(NO_PLACE.format(method.name, OTHERWISE))
    return patcher


def _install(theirs: Any, hook: Hook) -> None:
    if any(module._compiled_call_impl is not None for module in theirs.modules()):
        raise TypeError(f"{type(theirs).__name__} is compiled, with the attention it had then; patch one that is not")
    own = theirs.attn_processors
    found = network(theirs)
    ours = {}
    for path, block, kind in found.attentions():
        place = f"{path}.processor"
        ours[place] = processor(theirs.get_submodule(path), own[place], block, kind)
    theirs.set_attn_processor({**own, **ours})
    hook.own = {place: own[place] for place in ours}
    if isinstance(found, UNet):
        layers = (theirs.get_submodule(layer.path) for _, _, layer in found.layers())
        shapes = [layer.register_forward_pre_hook(_note_shape) for layer in layers]
        hook.handles = [*shapes, *unet_blocks.hooked(theirs)]
    HookRegistry.check_if_exists_or_initialize(theirs).register_hook(hook, NAME)


def _note_shape(module: object, args: tuple[Any, ...]) -> None:
    """Note the feature map (b, c, h, w) whose pixels are the tokens of the transformer that begins."""
    called = CALLED.get()
    if called is not None and args and isinstance(args[0], Tensor):
        called["activations_shape"] = list(args[0].shape)
        called["transformer_index"] += 1


def unpatch(model: Any) -> None:
    """Take all patches off a network of diffusers: its processors and its forward are those that were there before."""
    theirs = denoiser_of(model)
    hook = hook_of(theirs)
    if hook is None:
        return
    if hook.running is not None:
        raise RuntimeError("a run is under way; take the patches off after it")
    theirs.set_attn_processor({**theirs.attn_processors, **hook.own})
    for handle in hook.handles:
        handle.remove()
    hooks = theirs._diffusers_hook
    hooks.remove_hook(NAME, recurse=False)
    if not hooks.hooks and getattr(theirs.forward, "__func__", None) is type(theirs).forward:
        del theirs.forward  # what the registry leaves: the class's own once more
        del theirs._diffusers_hook


@contextmanager
def running(model: Any, scheduler: Any = None, guidance: float | None = None) -> Iterator[Run]:
    """Let the calls of a patched network be a run, and yield its record.

    Args:
        model: a pipeline, or a network with the `scheduler` that its caller uses.
        guidance: the scale by which the caller combines both prompts, where a call of a UNet has both, the negative
            one first; None: as the pipeline says, and one prompt for a network alone.
    """
    theirs = denoiser_of(model)
    hook = hook_of(theirs)
    if hook is None:
        raise ValueError(f"{type(theirs).__name__} has no patches; put some on it by ap.patch")
    if hook.running is not None:
        raise RuntimeError("a run of this model is under way already")
    scheduler = getattr(model, "scheduler", None) if scheduler is None else scheduler
    if scheduler is None:
        raise TypeError("no scheduler is known that tells the noise levels; give ap.run the one that steps")
    found = network(theirs)
    told = (lambda: guidance) if guidance is not None else _told_by(model)
    hook.running = Running.begin(hook.patcher, levels(scheduler, found.unit), told)
    record = hook.running.record
    try:
        yield record
    finally:
        hook.running = None
        record.settle()
    keep(record)


def _told_by(model: Any) -> Guidance:
    """Return what tells the guidance scale of a pipeline, call by call."""
    if isinstance(model, torch.nn.Module):
        return lambda: None
    return lambda: model.guidance_scale if getattr(model, "do_classifier_free_guidance", False) else None


@contextmanager
def observing(model: Any) -> Iterator[Observer]:
    """Let a network of diffusers note its attention calls for a while."""
    theirs = denoiser_of(model)
    known = hook_of(theirs)
    hook = Hook(theirs) if known is None else known
    before, observer = hook.patcher, Observer()
    hook.patcher = observed(before, observer)
    if known is None:
        _install(theirs, hook)
    try:
        yield observer
    finally:
        hook.patcher = before
        if known is None:
            unpatch(model)
