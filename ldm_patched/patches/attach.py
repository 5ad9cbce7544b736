"""Put patches and rules on a model: the one way in for nodes and scripts. The input model is never changed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from .compiled import APPLY_MODEL, call_model
from .gate import Gate
from .hook import Host, Method
from .inventory import placed, recorder_of
from .recorder import KEY, Entry, Marker, Recorder
from .router import SLOT, Route, Router, Rule
from .sentinel import Sentinel, Watch
from .targets import AddressError, family, model_blocks, select

# Names that ComfyUI gives these moments.
ON_PRE_RUN = "on_pre_run"
ON_CLONE = "on_clone"
ON_CLEANUP = "on_cleanup"


def attach(model: Any, method: Method, host: Host | None = None) -> Any:
    """Return a clone of a model patcher with a method on it.

    `host` is what the host computes where a method needs it. A neutral method is listed in the report and does nothing.
    Raises AddressError when the address does not fit the model, or the model is not a UNet.
    """
    if not model_blocks(model):
        raise AddressError(f"{method.name}: this needs a UNet with transformer blocks; {family(model)} is none")
    address = method.address.narrowed(method.kind)
    chosen = [info.id for info in select(address, model)]
    kinds = ("self", "cross") if address.kind == "all" else (address.kind,)
    targets = tuple((block, kind) for block in chosen for kind in kinds)
    entry = Entry(method.name, method.slot, targets, method.schedule, neutral=method.neutral, value=method)
    clone, entry = _with_entry(model, entry)
    if not method.neutral:
        gate = Gate(entry, frozenset(chosen), whole=address.kind == "block")
        host = host or Host()
        for hook in method.hooks(gate, host):
            hook.put(clone, gate, host)
    return clone


def attach_rule(model: Any, rule: Rule) -> Any:
    """Return a clone of a model patcher with a backend rule in front of those it has.

    A foreign override stays behind them. Raises AddressError when the address does not fit the model.
    """
    kinds = ("self", "cross") if rule.address.kind == "all" else (rule.address.kind,)
    targets = tuple((info.id, kind) for info in select(rule.address, model) for kind in kinds)
    clone, entry = _with_entry(model, Entry(rule.name, SLOT, targets, rule.schedule, value=rule))
    options = clone.model_options["transformer_options"]
    router = options[SLOT]
    options[SLOT] = Router((Route.of(rule, entry), *router.routes), router.previous, router.watch)
    return clone


def attach_sentinel(model: Any, sentinel: Sentinel) -> Any:
    """Return a clone of a model patcher with a NaN sentinel in place of the one it had.

    Raises AddressError when the address does not fit the model.
    """
    kinds = ("self", "cross") if sentinel.address.kind == "all" else (sentinel.address.kind,)
    targets = tuple((info.id, kind) for info in select(sentinel.address, model) for kind in kinds)
    off = sentinel.mode == "off"
    clone, entry = _with_entry(model, Entry(sentinel.name, SLOT, targets, neutral=off, value=sentinel))
    options = clone.model_options["transformer_options"]
    router = options[SLOT]
    watch = None if off else Watch(sentinel.mode, entry, None if sentinel.address.everywhere else frozenset(targets))
    options[SLOT] = Router(router.routes, router.previous, watch)
    return clone


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
    clone.remove_wrappers_with_key(APPLY_MODEL, KEY)
    clone.add_wrapper_with_key(APPLY_MODEL, KEY, call_model)
    if blocks and before is None:
        clone.set_model_attn1_patch(Marker("self"))
        clone.set_model_attn2_patch(Marker("cross"))
    return clone, entry


def _record(clone: Any, recorder: Recorder) -> None:
    """Let a recorder belong to a clone: it starts again with every run, and clones of the clone get their own."""
    clone.model_options["transformer_options"][KEY] = recorder
    moments = {ON_PRE_RUN: partial(_start, recorder), ON_CLONE: _fork, ON_CLEANUP: partial(_forget, recorder)}
    for moment, callback in moments.items():
        clone.remove_callbacks_with_key(moment, KEY)
        clone.add_callback_with_key(moment, KEY, callback)


def _fork(model: Any, clone: Any) -> None:
    recorder = recorder_of(clone)
    if recorder is not None:
        _record(clone, recorder.fork())


def _start(recorder: Recorder, patcher: Any) -> None:
    still = frozenset((part.number, part.block) for part in placed(patcher) if part.number is not None)
    recorder.start(patcher.get_model_object("model_sampling").percent_to_sigma, still)


def _forget(recorder: Recorder, patcher: Any) -> None:
    recorder.memories.clear()
