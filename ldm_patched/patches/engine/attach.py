"""Put methods and rules on a model: the one way in for nodes and scripts. The input model is never changed."""

from __future__ import annotations

from dataclasses import replace

from ..addressing.address import AddressError
from ..addressing.blocks import model_blocks
from ..addressing.families import UNET, Family, family_of
from ..patcher import Patch, Patcher
from ..record.plan import KEY, Entry, Plan, entries, plan_of
from .adapters import UNTOLD, adapt, no_skips, refusal
from .block_forward import name_blocks
from .call import APPLY_MODEL, call_model
from .gate import Gate
from .host import Host
from .listed import LISTED, with_listed
from .marks import MARKS
from .method import Method
from .positions import TELL, TELLING
from .preferred import tell_layers
from .recording import OUTER_SAMPLE, record_run
from .router import SLOT, Router
from .sides import CALC_COND_BATCH, name_prompts

WRAPPERS: dict[str, Patch] = {APPLY_MODEL: call_model, OUTER_SAMPLE: record_run, CALC_COND_BATCH: name_prompts}


def attach(model: Patcher, method: Method, host: Host | None = None, number: int | None = None) -> Patcher:
    """Return a clone of a model patcher with a method on it.

    `host` is what the host computes where a method needs it, `number` the place among the others where it is not the
    next. What the method `needs` is put on before it. A neutral method is listed in the report and does nothing.
    Raises AddressError when the address does not fit the model, or the model's family has no place for the method, and
    RuntimeError when the host has none for any.
    """
    host = host or Host()
    if number is None and not method.neutral:  # a list that is put on again has what its methods need
        for needed in method.needs:
            if needed not in [entry.value for entry in entries(model)]:
                model = attach(model, needed, host)
    lacking = host.able().refusal(rule=method.slot == SLOT)
    if lacking is not None:
        raise RuntimeError(lacking)
    address, family = method.address.narrowed(method.kind), family_of(model)
    if not method.in_layers and (method.slot != SLOT or family.deaf):
        _check_family(model, method, family)
    whole = address.kind == "block"
    if family.order and method.slot != SLOT and not whole:
        address = replace(address, kind="all")
    attentions = method.targets(address, model)
    if number is None:
        method.check_on(model)
    entry = Entry(method.name, method.slot, attentions, method.schedule, neutral=method.neutral, value=method)
    entry = replace(entry, unused=method.unused(model))
    clone, entry = _with_entry(model, entry, host, number)
    if not method.neutral:
        blocks = frozenset(block for block, _ in attentions)
        gate = Gate(entry, blocks, whole, getattr(method, "strength", 1.0), host.pause)
        if whole:
            name_blocks(clone, family, blocks)
        if method.before_positions and family.calls in TELLING:
            _tell_positions(clone)
        for place in method.places(gate, host, clone):
            (place if method.slot == SLOT else adapt(place, family, method)).put(clone, host)
    return clone


def _check_family(model: Patcher, method: Method, family: Family) -> None:
    if family.hands and method.needs_skips:  # a UNet has none of these
        raise no_skips(family, method.name)
    known = family.calls == UNET or (bool(family.hands) if method.kind == "block" else family.enterable)
    if not known or not model_blocks(model):
        raise refusal(family, method.name, UNTOLD if method.kind == "block" else "")
    if family.sound and method.reads_latent:
        raise AddressError(f"{method.name}: the latent of {family.name} models holds a video and its sound in one row")
    if family.flat and method.pictured:
        raise AddressError(f"{method.name}: it needs tokens that are a picture, and those of {family.name} are none")


def _tell_positions(clone: Patcher) -> None:
    options = clone.model_options["transformer_options"]
    if TELL not in options.get(LISTED, {}).get("attn1_patch", ()):
        clone.model_options["transformer_options"] = with_listed(options, "attn1_patch", TELL)


def _with_entry(model: Patcher, entry: Entry, host: Host, number: int | None) -> tuple[Patcher, Entry]:
    """Clone a model and give the clone a longer plan, a router, and once the marks of self- and cross-attention.

    Returns the clone and the entry with its number.
    """
    clone = model.clone()
    options = clone.model_options.setdefault("transformer_options", {})
    before = plan_of(clone)
    earlier = before.entries if before is not None else ()
    entry = replace(entry, number=number or len(earlier) + 1)
    family = family_of(clone)
    calls = family.calls
    shapes = {info.id: (info.heads, info.dim_head) for info in model_blocks(clone)}
    options[KEY] = Plan((*earlier, entry), shapes, () if calls in MARKS else family.kinds)
    if not isinstance(options.get(SLOT), Router):
        options[SLOT] = Router(previous=options.get(SLOT), attend=host.attend)
    # the clone of a patched model has them already, and a patcher adds a second one to the first
    for place, wrapper in WRAPPERS.items():
        clone.remove_wrappers_with_key(place, KEY)
        clone.add_wrapper_with_key(place, KEY, wrapper)
    if shapes and before is None:
        for slot, mark in MARKS.get(calls, {}).items():
            options = with_listed(options, slot, mark)
        clone.model_options["transformer_options"] = options
        tell_layers(clone)
    if shapes:
        name_blocks(clone, family)
    return clone, entry
