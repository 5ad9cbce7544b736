"""Put patches and rules on a model: the one way in for nodes and scripts. The input model is never changed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from .compiled import APPLY_MODEL, call_model
from .contracts import MARKERS, adapt, refusal
from .families import AFTER, BOTH, UNET, family_of
from .gate import Gate
from .hook import Host, Method
from .inventory import placed, recorder_of
from .recorder import KEY, Entry, Recorder
from .router import SLOT, Route, Router, Rule
from .sentinel import Sentinel, Watch
from .targets import model_blocks, targets

# Names that ComfyUI gives these moments.
ON_PRE_RUN = "on_pre_run"
ON_CLONE = "on_clone"
ON_CLEANUP = "on_cleanup"


def attach(model: Any, method: Method, host: Host | None = None) -> Any:
    """Return a clone of a model patcher with a method on it.

    `host` is what the host computes where a method needs it. A neutral method is listed in the report and does nothing.
    Raises AddressError when the address does not fit the model, or the model's family has no place for the method.
    """
    address, family = method.address.narrowed(method.kind), family_of(model)
    possible = ("all", "block", *BOTH) if family.calls == UNET else ("all", *family.kinds)
    if not model_blocks(model) or method.kind not in possible:
        raise refusal(family, method.name)
    cells = targets(address, model)
    entry = Entry(method.name, method.slot, cells, method.schedule, neutral=method.neutral, value=method)
    clone, entry = _with_entry(model, entry)
    if not method.neutral:
        gate = Gate(entry, frozenset(block for block, _ in cells), whole=address.kind == "block")
        host = host or Host()
        for hook in method.hooks(gate, host):
            adapt(hook, family, method).put(clone, gate, host)
    return clone


def attach_rule(model: Any, rule: Rule) -> Any:
    """Return a clone of a model patcher with a backend rule in front of those it has.

    A foreign override stays behind them. Raises AddressError when the address does not fit the model.
    """
    entry = Entry(rule.name, SLOT, targets(rule.address, model), rule.schedule, value=rule)
    clone, entry = _with_entry(model, entry)
    options = clone.model_options["transformer_options"]
    router = options[SLOT]
    options[SLOT] = Router((Route.of(rule, entry), *router.routes), router.previous, router.watch)
    return clone


def attach_sentinel(model: Any, sentinel: Sentinel) -> Any:
    """Return a clone of a model patcher with a NaN sentinel in place of the one it had.

    Raises AddressError when the address does not fit the model.
    """
    cells, off = targets(sentinel.address, model), sentinel.mode == "off"
    clone, entry = _with_entry(model, Entry(sentinel.name, SLOT, cells, neutral=off, value=sentinel))
    options = clone.model_options["transformer_options"]
    router = options[SLOT]
    watch = None if off else Watch(sentinel.mode, entry, None if sentinel.address.everywhere else frozenset(cells))
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
    calls = family_of(clone).calls
    shapes = {info.id: (info.heads, info.dim_head) for info in model_blocks(clone)}
    to_sigma = clone.get_model_object("model_sampling").percent_to_sigma
    first = "self" if calls == AFTER else None
    _record(clone, Recorder((*earlier, entry), shapes, percent_to_sigma=to_sigma, first_kind=first))
    if not isinstance(options.get(SLOT), Router):
        options[SLOT] = Router(previous=options.get(SLOT))
    clone.remove_wrappers_with_key(APPLY_MODEL, KEY)
    clone.add_wrapper_with_key(APPLY_MODEL, KEY, call_model)
    if shapes and before is None:
        for slot, marker in MARKERS.get(calls, {}).items():
            clone.set_model_patch(marker, slot)
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
    recorder.settle()
    recorder.memories.clear()
