"""Put patches and rules on a model: the one way in for nodes and scripts. The input model is never changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..ldm.modules.backends.dispatch import optimized_attention
from .attention_patch import AttentionPatch, InputPatch, OutputPatch, ReplaceLayer
from .gate import Gate
from .recorder import KEY, Entry, Marker, Recorder
from .router import SLOT, Router, Rule
from .stack import Attend, push
from .targets import BlockId, BlockInfo, model_blocks, select

ON_PRE_RUN = "on_pre_run"


def attach_patch(model: Any, patch: AttentionPatch, attend: Attend = optimized_attention) -> Any:
    """Return a clone of a model patcher with an attention patch.

    `attend` is the host's attention function, used where the patch takes its place. A neutral patch is listed in the
    report and does nothing. Raises AddressError when the address does not fit the model.
    """
    address = patch.address if patch.address.kind != "all" else replace(patch.address, kind=patch.kind)
    if address.kind != patch.kind:
        raise ValueError(f"slot {patch.slot} belongs to {patch.kind}-attention, but the address says {address.kind}")
    chosen = select(address, model)
    clone, entry = _with_entry(model, patch.name, tuple((info.id, patch.kind) for info in chosen))
    if patch.neutral:
        return clone
    gate = Gate(entry, frozenset(info.id for info in chosen), patch.schedule)
    if patch.operation == "identity":
        _replace(clone, chosen, ReplaceLayer(patch, gate), attend)
    elif patch.part == "out":
        clone.set_model_patch(OutputPatch(patch, gate), f"{patch.attention}_output_patch")
    else:
        clone.set_model_patch(InputPatch(patch, gate), f"{patch.attention}_patch")
    return clone


def attach_rule(model: Any, rule: Rule) -> Any:
    """Return a clone of a model patcher with a backend rule in front of those it has.

    A foreign override stays behind them. Raises AddressError when the address does not fit the model.
    """
    chosen = select(rule.address, model)
    kinds = ("self", "cross") if rule.address.kind == "all" else (rule.address.kind,)
    clone, entry = _with_entry(model, rule.name, tuple((info.id, kind) for info in chosen for kind in kinds))
    options = clone.model_options["transformer_options"]
    router = options[SLOT]
    options[SLOT] = Router(((rule, entry), *router.rules), router.previous)
    return clone


def recorder_of(model: Any) -> Recorder | None:
    """Return what the last sampling run of a model recorded; None if no patch or rule of this library is on it."""
    return model.model_options.get("transformer_options", {}).get(KEY)


def _replace(clone: Any, chosen: list[BlockInfo], layer: ReplaceLayer, attend: Attend) -> None:
    for info in chosen:
        address = (info.id.room, info.id.number, info.id.index)
        existing = clone.model_options["transformer_options"].get("patches_replace", {}).get("attn1", {})
        clone.set_model_attn1_replace(push(existing, address, layer, attend), *address)


def _with_entry(model: Any, name: str, targets: tuple[tuple[BlockId, str], ...]) -> tuple[Any, Entry]:
    """Clone a model and give the clone its own recorder and router, and once the marks of self- and cross-attention.

    Returns the clone and the new entry of its recorder.
    """
    clone = model.clone()
    options = clone.model_options.setdefault("transformer_options", {})
    before: Recorder | None = options.get(KEY)
    blocks = model_blocks(clone)
    earlier = before.entries if before else ()
    entry = Entry(name, targets, len(earlier) + 1)
    recorder = Recorder(
        entries=(*earlier, entry),
        blocks={info.id: (info.heads, info.dim_head) for info in blocks},
    )
    options[KEY] = recorder
    clone.remove_callbacks_with_key(ON_PRE_RUN, KEY)
    clone.add_callback_with_key(ON_PRE_RUN, KEY, recorder.start)
    if not isinstance(options.get(SLOT), Router):
        options[SLOT] = Router(previous=options.get(SLOT))
    if blocks and before is None:
        clone.set_model_attn1_patch(Marker("self"))
        clone.set_model_attn2_patch(Marker("cross"))
    return clone, entry
