"""Presets: the patches of a model as JSON text, to be kept in a workflow and put on another model.

`{"patchbay": 1, "patches": [{"type": "AttentionPatch", "slot": "attn1.out", ...}]}`, in the order of the graph. A field
is a number, a text, true or false, a list, or an object with a `type`; an address is its text, a schedule the values of
its widgets. A field that is missing has its default. What text cannot hold stands under `left_out` with the reason.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .attention_patch import AttentionPatch
from .block_scaling import BlockScale, FreeU
from .block_skip import BlockSkip, Skipped
from .capture import Capture, Word
from .downsampling import KeyValueDownsampling
from .guidance import Guidance
from .hook import Host, Method
from .inventory import entries, placed
from .manage import put
from .map_injection import MapInjection
from .point_capture import PointCapture
from .prompt_to_prompt import PromptToPrompt
from .reweighting import WordWeight
from .router import Rule
from .schedule import Schedule
from .self_attention_guidance import SelfAttentionGuidance
from .sentinel import Sentinel
from .sliding_window import SlidingWindow
from .sparse_attention import SparseAttention
from .style_aligned import StyleAligned
from .targets import Address, parse
from .temperature import AttentionTemperature
from .tiling import TiledAttention
from .token_merging import TokenMerging
from .weak_attention import Perturbed, SmoothedEnergy
from .whole_block_skip import WholeBlockSkip

VERSION = 1
ENTRIES = ("patchbay", "patches", "left_out")
# What a preset can hold: methods and rules, and the values inside them.
PATCHES: tuple[type, ...] = (
    Rule,
    Sentinel,
    AttentionPatch,
    Guidance,
    SelfAttentionGuidance,
    SparseAttention,
    WordWeight,
    PromptToPrompt,
    MapInjection,
    Capture,
    PointCapture,
    TokenMerging,
    TiledAttention,
    KeyValueDownsampling,
    AttentionTemperature,
    FreeU,
    BlockScale,
    BlockSkip,
    WholeBlockSkip,
    StyleAligned,
)
PARTS: tuple[type, ...] = (
    Perturbed,
    SmoothedEnergy,
    SlidingWindow,
    Skipped,
    Word,
)
log = logging.getLogger(__name__)
SCALARS: dict[Any, str] = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}


class Unsaveable(ValueError):
    """A value that text cannot hold."""


@dataclass(frozen=True)
class Preset:
    """Patches in the order of the graph, and name and reason of each that text cannot hold."""

    patches: tuple[Method | Rule, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()


def preset_of(model: Any) -> Preset:
    """Return the patches of a model; those of other packs are left out."""
    foreign = dict.fromkeys(str(part) for part in placed(model) if part.number is None)
    left_out = tuple((name, "a patch of another pack") for name in foreign)
    return Preset(tuple(entry.value for entry in entries(model)), left_out)


def put_preset(model: Any, preset: Preset, host: Host | None = None) -> Any:
    """Return a clone of a model with the patches of a preset, in order; what it left out is logged.

    Raises AddressError naming the patch whose address does not fit the model.
    """
    for name, reason in preset.left_out:
        log.warning("Attention Patchbay: the preset does not hold %s: %s.", name, reason)
    model = model.clone()
    for patch in preset.patches:
        model = put(model, patch, host)
    return model


# To text


def to_json(preset: Preset) -> str:
    """Return a preset as text; a patch that text cannot hold is named under `left_out` with the reason."""
    saved, left_out = [], [{"name": name, "reason": reason} for name, reason in preset.left_out]
    for patch in preset.patches:
        try:
            saved.append(_saved(patch, type(patch).__name__))
        except Unsaveable as error:
            left_out.append({"name": patch.name, "reason": str(error)})
    document: dict[str, Any] = {"patchbay": VERSION, "patches": saved}
    if left_out:
        document["left_out"] = left_out
    return json.dumps(document, indent=2, allow_nan=False)


def _saved(value: Any, where: str) -> Any:
    if isinstance(value, Address):
        return str(value)
    if isinstance(value, Schedule):
        return dataclasses.asdict(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, tuple):
        return [_saved(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if type(value) in (*PATCHES, *PARTS):
        names = [field.name for field in dataclasses.fields(value)]
        fields = {name: _saved(getattr(value, name), f"{where}.{name}") for name in names}
        return {"type": type(value).__name__, **fields}
    name = type(value).__name__
    raise Unsaveable(f"presets do not know {name}" if where == name else f"{where} is a {name}, which text cannot hold")


# From text


def from_json(text: str = "") -> Preset:
    """Read a preset; an empty text is one without patches.

    Raises ValueError naming what is wrong and where.
    """
    if not text.strip():
        return Preset()
    document = _document(text)
    patches = [_object(item, PATCHES, f"patch {number}") for number, item in enumerate(document["patches"], 1)]
    return Preset(tuple(patches), tuple(map(_left_out, document.get("left_out", []))))


def _document(text: str) -> dict[str, Any]:
    """Return the JSON of a preset after checking its outer shape."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong("this is not JSON", str(error)) from None
    if not isinstance(document, dict) or not all(isinstance(document.get(key, []), list) for key in ENTRIES[1:]):
        raise _wrong("its shape", 'write {"patchbay": 1, "patches": [...]}')
    if document.get("patchbay") != VERSION:
        raise _wrong("its version", f"it is {document.get('patchbay')!r}; this pack reads {VERSION}")
    _check_names("its entries", document, ENTRIES)
    return {"patches": [], **document}


def _left_out(item: Any) -> tuple[str, str]:
    if not isinstance(item, dict) or item.keys() != {"name", "reason"}:
        raise _wrong("left_out", "write objects with name and reason")
    return str(item["name"]), str(item["reason"])


def _object(item: Any, classes: Sequence[type], where: str) -> Any:
    """Return the value of an object with a `type`."""
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        raise _wrong(where, f'write an object such as {{"type": "{classes[0].__name__}", ...}}')
    cls = next((cls for cls in classes if cls.__name__ == item["type"]), None)
    if cls is None:
        raise _wrong(where, f"unknown type {item['type']!r}; choose one of {', '.join(c.__name__ for c in classes)}")
    where = f"{where} {cls.__name__}"
    hints, given = _hints(cls), {name: value for name, value in item.items() if name != "type"}
    _check_names(where, given, hints)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name not in given and field.default is field.default_factory is dataclasses.MISSING:
            raise _wrong(where, f"the field {field.name!r} is missing")
    return _made(where, cls, **{name: _value(value, hints[name], f"{where}.{name}") for name, value in given.items()})


def _value(value: Any, hint: Any, where: str) -> Any:
    """Return the value of a field whose type is `hint`."""
    if hint is Address:
        return _made(where, parse, _scalar(value, str, where))
    if hint is Schedule:
        return _schedule(value, where)
    if hint in SCALARS:
        return _scalar(value, hint, where)
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _value(value, next(arg for arg in inside if arg is not type(None)), where)
    if origin is tuple:
        return _items(value, inside, where)
    return value if origin is typing.Literal else _object(value, PARTS, where)


def _schedule(value: Any, where: str) -> Schedule:
    hints = _hints(Schedule)
    if not isinstance(value, dict):
        raise _wrong(where, f"write an object with {', '.join(hints)}")
    _check_names(where, value, hints)
    given = {name: _scalar(item, hints[name], f"{where}.{name}") for name, item in value.items()}
    return _made(where, Schedule, **given)


def _scalar(value: Any, kind: type, where: str) -> Any:
    if kind is float and value in ("inf", "-inf"):
        return float(value)
    wanted = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or isinstance(value, bool) is not (kind is bool):
        raise _wrong(where, f"{json.dumps(value)} is not {SCALARS[kind]}")
    return _made(where, kind, value)


def _items(value: Any, inside: Sequence[Any], where: str) -> tuple[Any, ...]:
    fixed = inside[-1] is not Ellipsis
    if not isinstance(value, list) or (fixed and len(value) != len(inside)):
        raise _wrong(where, f"{json.dumps(value)} is not a list" + (f" of {len(inside)}" if fixed else ""))
    hints = inside if fixed else [inside[0]] * len(value)
    return tuple(_value(item, hint, f"{where}[{i}]") for i, (item, hint) in enumerate(zip(value, hints, strict=True)))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the types of the fields of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]


def _check_names(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise _wrong(where, f"unknown field {name!r}; there are {', '.join(known)}")


def _made(where: str, make: Callable[..., Any], *args: Any, **fields: Any) -> Any:
    try:
        return make(*args, **fields)
    except (ValueError, OverflowError) as error:
        raise _wrong(where, str(error)) from None


def _wrong(where: str, reason: str) -> ValueError:
    return ValueError(f"preset, {where}: {reason}")
