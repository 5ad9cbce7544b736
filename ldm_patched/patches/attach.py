"""Put patches and rules on a model: the one way in for nodes and scripts. The input model is never changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ..ldm.modules.backends.dispatch import optimized_attention
from ..modules.cond_batch import calc_cond_batch
from .attention_patch import AttentionPatch, InputPatch, OutputPatch, ReplaceLayer
from .gate import Gate
from .guidance import Guidance, GuidancePass, Predict
from .recorder import KEY, Entry, Marker, Recorder
from .router import SLOT, Route, Router, Rule
from .stack import Attend, Stack, push, uncover_call
from .targets import AddressError, BlockId, BlockInfo, family, model_blocks, select

# Names that ComfyUI gives these moments.
ON_PRE_RUN = "on_pre_run"
ON_CLONE = "on_clone"
APPLY_MODEL = "apply_model"
POST_CFG = "sampler_post_cfg_function"


def attach_patch(model: Any, patch: AttentionPatch, attend: Attend = optimized_attention) -> Any:
    """Return a clone of a model patcher with an attention patch.

    `attend` is the host's attention function, used where the patch takes its place. A neutral patch is listed in the
    report and does nothing. Raises AddressError when the address does not fit the model, or the model is not a UNet.
    """
    if not model_blocks(model):
        raise AddressError(f"attention patches need a UNet with transformer blocks; {family(model)} is none")
    address = patch.address if patch.address.kind != "all" else replace(patch.address, kind=patch.kind)
    if address.kind != patch.kind:
        raise ValueError(f"slot {patch.slot} belongs to {patch.kind}-attention, but the address says {address.kind}")
    chosen = select(address, model)
    slot = patch_slot(patch)
    targets = tuple((info.id, patch.kind) for info in chosen)
    clone, entry = _with_entry(model, Entry(patch.name, slot, targets, patch.schedule, neutral=patch.neutral))
    if patch.neutral:
        return clone
    gate = Gate(entry, frozenset(info.id for info in chosen))
    if patch.operation == "identity":
        _replace(clone, slot, chosen, ReplaceLayer(patch, gate), attend)
    else:
        clone.set_model_patch(OutputPatch(patch, gate) if patch.part == "out" else InputPatch(patch, gate), slot)
    return clone


def patch_slot(patch: AttentionPatch) -> str:
    """Return the key of `patches`, or of `patches_replace`, that a patch belongs to."""
    if patch.operation == "identity":
        return patch.attention
    return f"{patch.attention}_output_patch" if patch.part == "out" else f"{patch.attention}_patch"


def attach_rule(model: Any, rule: Rule) -> Any:
    """Return a clone of a model patcher with a backend rule in front of those it has.

    A foreign override stays behind them. Raises AddressError when the address does not fit the model.
    """
    kinds = ("self", "cross") if rule.address.kind == "all" else (rule.address.kind,)
    targets = tuple((info.id, kind) for info in select(rule.address, model) for kind in kinds)
    clone, entry = _with_entry(model, Entry(rule.name, SLOT, targets, rule.schedule))
    options = clone.model_options["transformer_options"]
    router = options[SLOT]
    options[SLOT] = Router((Route.of(rule, entry), *router.routes), router.previous)
    return clone


def attach_guidance(
    model: Any, guidance: Guidance, attend: Attend = optimized_attention, predict: Predict = calc_cond_batch
) -> Any:
    """Return a clone of a model patcher that is guided away from a weakened self-attention.

    `attend` and `predict` are the host's attention and its function for the predictions of some conditionings. A
    guidance of scale 0 is listed in the report and does nothing. Raises AddressError when the address does not fit the
    model, or the model is not a UNet.
    """
    if not model_blocks(model):
        raise AddressError(f"this guidance needs a UNet with transformer blocks; {family(model)} is none")
    chosen = select(guidance.address.narrowed("self"), model)
    targets = tuple((info.id, "self") for info in chosen)
    entry = Entry(guidance.name, POST_CFG, targets, guidance.schedule, neutral=guidance.neutral)
    clone, entry = _with_entry(model, entry)
    if not guidance.neutral:
        gate = Gate(entry, frozenset(info.id for info in chosen))
        clone.set_model_sampler_post_cfg_function(GuidancePass(guidance, gate, attend, predict))
    return clone


def recorder_of(model: Any) -> Recorder | None:
    """Return what the last sampling run of a model recorded; None if no patch or rule of this library is on it."""
    return model.model_options.get("transformer_options", {}).get(KEY)


def _replace(clone: Any, name: str, chosen: Iterable[BlockInfo], layer: ReplaceLayer, attend: Attend) -> None:
    for info in chosen:
        existing = clone.model_options["transformer_options"].get("patches_replace", {}).get(name, {})
        clone.set_model_patch_replace(push(existing, info.id, layer, attend), name, *info.id)
    clone.remove_wrappers_with_key(APPLY_MODEL, KEY)
    clone.add_wrapper_with_key(APPLY_MODEL, KEY, uncover_call)


def _with_entry(model: Any, entry: Entry) -> tuple[Any, Entry]:
    """Clone a model and give the clone a recorder, a router, and once the marks of self- and cross-attention.

    Returns the clone and the entry with its number.
    """
    clone = model.clone()
    options = clone.model_options.setdefault("transformer_options", {})
    before: Recorder | None = options.get(KEY)
    earlier = before.entries if before else ()
    entry = replace(entry, number=len(earlier) + 1)
    blocks = model_blocks(clone)
    shapes = {info.id: (info.heads, info.dim_head) for info in blocks}
    to_sigma = clone.get_model_object("model_sampling").percent_to_sigma
    _record(clone, Recorder((*earlier, entry), shapes, percent_to_sigma=to_sigma))
    if not isinstance(options.get(SLOT), Router):
        options[SLOT] = Router(previous=options.get(SLOT))
    if blocks and before is None:
        clone.set_model_attn1_patch(Marker("self"))
        clone.set_model_attn2_patch(Marker("cross"))
    return clone, entry


def _record(clone: Any, recorder: Recorder) -> None:
    """Let a recorder belong to a clone: it starts again with every run, and clones of the clone get their own."""
    clone.model_options["transformer_options"][KEY] = recorder
    for moment, callback in ((ON_PRE_RUN, partial(_start, recorder)), (ON_CLONE, _fork)):
        clone.remove_callbacks_with_key(moment, KEY)
        clone.add_callback_with_key(moment, KEY, callback)


def _fork(model: Any, clone: Any) -> None:
    recorder = recorder_of(clone)
    if recorder is not None:
        _record(clone, recorder.fork())


def _start(recorder: Recorder, patcher: Any) -> None:
    placed = frozenset(_placed(patcher.model_options))
    recorder.start(patcher.get_model_object("model_sampling").percent_to_sigma, placed)


def _placed(model_options: Mapping[str, Any]) -> Iterator[tuple[int, BlockId | None]]:
    """Yield which entries still have their slot, and in which block (None: all of them)."""
    passes = map(_gate, model_options.get(POST_CFG, []))
    yield from ((gate.entry.number, None) for gate in passes if gate is not None)
    options = model_options.get("transformer_options", {})
    router = options.get(SLOT)
    if isinstance(router, Router):
        yield from ((route.entry.number, None) for route in router.routes)
    for patches in options.get("patches", {}).values():
        yield from ((gate.entry.number, None) for gate in map(_gate, patches) if gate is not None)
    for slots in options.get("patches_replace", {}).values():
        for address, stack in slots.items():
            gates = map(_gate, stack.layers) if isinstance(stack, Stack) else ()
            yield from ((gate.entry.number, BlockId(*address)) for gate in gates if gate is not None)


def _gate(patch: Any) -> Gate | None:
    gate = getattr(patch, "gate", None)
    return gate if isinstance(gate, Gate) else None
