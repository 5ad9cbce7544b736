"""Presets: the patches of a model as JSON text, to be kept in a workflow and put on another model.

`{"patchbay": 1, "patches": [{"type": "AttentionPatch", "slot": "attn1.out", ...}]}`, in the order of the graph. A field
is a number, a text, true or false, a list, or an object with a `type`; blocks are the text of an `address`, a
`schedule` the values of its widgets. A field that is missing has its default, an address that is missing is `all`. What
text cannot hold stands under `left_out` with the reason.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
import math
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..addressing.address import Address, parse
from ..addressing.schedule import Schedule
from ..addressing.where import Where
from ..engine.declaration import SAVED, Placing, placing_of, widget_of
from ..engine.host import Host
from ..engine.inventory import placed
from ..engine.method import Method
from ..methods.capture import Word
from ..methods.live_mask import LiveMask
from ..patcher import Patcher
from ..record.plan import entries
from ..routing.rule import Rule
from .declared import declared
from .manage import put

T = TypeVar("T")
VERSION = 1
ENTRIES = ("patchbay", "patches", "left_out")
PARTS: tuple[type, ...] = (Word, LiveMask)  # values inside methods
log = logging.getLogger(__name__)
SHARED = ("scale", "address", "schedule")  # fields that stay outside of an inner object
SCALARS: dict[Any, str] = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}


class Unsaveable(ValueError):
    """A value that text cannot hold."""


@dataclass(frozen=True)
class Preset:
    """Patches in the order of the graph, and name and reason of each that text cannot hold."""

    patches: tuple[Method, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()


def preset_of(model: Patcher) -> Preset:
    """Return the patches of a model; those of other packs are left out."""
    foreign = dict.fromkeys(str(part) for part in placed(model) if part.number is None)
    left_out = tuple((name, "a patch of another pack") for name in foreign)
    return Preset(tuple(entry.value for entry in entries(model)), left_out)


def put_preset(model: Patcher, preset: Preset, host: Host | None = None) -> Patcher:
    """Return a clone of a model with the patches of a preset, in order; what it left out is logged.

    Raises AddressError naming the patch whose address does not fit the model.
    """
    for name, reason in preset.left_out:
        log.warning("Attention Patchbay: the preset does not hold %s: %s.", name, reason)
    model = model.clone()
    first = len(entries(model)) + 1
    for number, patch in zip(_listed(preset.patches, first), preset.patches, strict=True):
        model = put(model, patch, host, number)
    return model


def _listed(patches: Sequence[Method], first: int) -> list[int]:
    """Return the numbers of patches from a first one on; rules in a row are listed as they are asked, last to first."""
    numbers: list[int] = []
    for rules, group in itertools.groupby(patches, lambda patch: isinstance(patch, Rule)):
        start, count = first + len(numbers), len(list(group))
        numbers += reversed(range(start, start + count)) if rules else range(start, start + count)
    return numbers


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


def _saved(value: object, where: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, tuple):
        return [_saved(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if type(value) in (*savable(), *PARTS):
        return _saved_fields(value, where)
    name = type(value).__name__
    raise Unsaveable(f"presets do not know {name}" if where == name else f"{where} is a {name}, which text cannot hold")


def _saved_fields(value: Any, where: str) -> dict[str, Any]:
    """Return the fields of a value, those of a guidance's weakening in an object of their own."""
    fields: dict[str, Any] = {}
    for name, field in _fields(type(value)).items():
        if not field.compare:
            continue
        given = getattr(value, field.name)
        if isinstance(given, Where):
            fields["address"] = str(given.address)
            if placing_of(type(value)).end is not None:
                fields["schedule"] = dataclasses.asdict(given.schedule)
        else:
            fields[name] = _saved(given, f"{where}.{field.name}")
    form = _form(type(value))
    if form is None:
        return {"type": type(value).__name__, **fields}
    outer, part, inner = form
    shared = {name: fields.pop(name) for name in SHARED if name in fields}
    return {"type": outer, part: {"type": inner, **fields}, **shared}


@functools.cache
def savable() -> tuple[type[Method], ...]:
    """Return the methods that a preset can hold: all whose fields can be text, but for those that may be left out."""
    return tuple(cls for cls in declared() if not any(_needs_tensor(cls, field) for field in _fields(cls).values()))


def _needs_tensor(cls: type, field: dataclasses.Field[Any]) -> bool:
    if field.default is not dataclasses.MISSING:
        return False
    hint = typing.get_type_hints(cls)[field.name]
    inside = [arg for arg in typing.get_args(hint) if arg is not Ellipsis] or [hint]
    return not all(one in SCALARS or one in PARTS or typing.get_origin(one) is tuple for one in inside)


def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of a value by their names in presets."""
    return {field.metadata.get(SAVED) or field.name: field for field in dataclasses.fields(cls)}


def _form(cls: type) -> tuple[str, str, str] | None:
    """Return the type and field in which a method stands in presets, and its type there; None: it stands by itself."""
    declaration = getattr(cls, "declaration", None)
    return None if declaration is None else declaration.saved_in


# From text


def from_json(text: str = "") -> Preset:
    """Read a preset; an empty text is one without patches.

    Raises ValueError naming what is wrong and where.
    """
    if not text.strip():
        return Preset()
    document = _document(text)
    patches = [_method(item, f"patch {number}") for number, item in enumerate(document["patches"], 1)]
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


def _left_out(item: object) -> tuple[str, str]:
    if not isinstance(item, dict) or item.keys() != {"name", "reason"}:
        raise _wrong("left_out", "write objects with name and reason")
    return str(item["name"]), str(item["reason"])


def _method(item: Any, where: str) -> Method:
    """Return the method of an object with a `type`."""
    by_name = {_form(cls)[0] if _form(cls) else cls.__name__: cls for cls in savable()}  # type: ignore[index]
    given = _typed(item, by_name, where)
    cls, where = by_name[item["type"]], f"{where} {item['type']}"
    form = _form(cls)
    if form is None:
        return _made(where, cls, **_values(given, cls, where, ()))
    _check_names(where, given, (form[1], *SHARED))
    if form[1] not in given:
        raise _wrong(where, f"the field {form[1]!r} is missing")
    forms = {one[2]: cls for cls in savable() if (one := _form(cls)) is not None and one[:2] == form[:2]}
    part = given.pop(form[1])
    inner = _typed(part, forms, f"{where}.{form[1]}")
    cls, inside = forms[part["type"]], f"{where}.{form[1]} {part['type']}"
    values = _values(given, cls, where, [name for name in _names(cls) if name not in SHARED])
    return _made(where, cls, **{**_values(inner, cls, inside, SHARED), **values})


def _names(cls: type) -> list[str]:
    """Return the names that the fields of a value have in presets."""
    names: list[str] = []
    for name, field in _fields(cls).items():
        placing = widget_of(field)
        if isinstance(placing, Placing):
            names += ["address"] if placing.end is None else ["address", "schedule"]
        else:
            names.append(name)
    return names


def _values(given: dict[str, Any], cls: type, where: str, elsewhere: Sequence[str]) -> dict[str, Any]:
    """Return the values of fields by their names in the class, but for those that stand `elsewhere`."""
    hints = _hints(cls)
    _check_names(where, given, [name for name in _names(cls) if name not in elsewhere])
    values: dict[str, Any] = {}
    for name, field in _fields(cls).items():
        placing = widget_of(field)
        if isinstance(placing, Placing):
            if "address" not in elsewhere:
                values[field.name] = _placed(given, field.default, placing, where)
        elif name in given:
            values[field.name] = _value(given[name], hints[field.name], f"{where}.{name}")
        elif name not in elsewhere and field.default is dataclasses.MISSING:
            raise _wrong(where, f"the field {name!r} is missing")
    return values


def _placed(given: dict[str, Any], default: Any, placing: Placing, where: str) -> Where:
    """Return blocks and time; an address that is missing is `all`, where whole blocks are not meant."""
    address, schedule = default.address if placing.whole else Address(), default.schedule
    if "address" in given:
        address = _made(f"{where}.address", parse, _scalar(given["address"], str, f"{where}.address"))
    if "schedule" in given:
        schedule = _schedule(given["schedule"], f"{where}.schedule")
    return Where(address, schedule)


def _value(value: Any, hint: Any, where: str) -> Any:
    """Return the value of a field whose type is `hint`."""
    if hint in SCALARS:
        return _scalar(value, hint, where)
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _value(value, next(arg for arg in inside if arg is not type(None)), where)
    if origin is tuple:
        return _items(value, inside, where)
    by_name = {part.__name__: part for part in PARTS}
    given = _typed(value, by_name, where)
    part = by_name[value["type"]]
    where = f"{where} {value['type']}"
    return _made(where, part, **_values(given, part, where, ()))


def _typed(item: object, known: Iterable[str], where: str) -> dict[str, Any]:
    """Return the fields of an object whose `type` is known."""
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        raise _wrong(where, f'write an object such as {{"type": "{next(iter(known))}", ...}}')
    if item["type"] not in known:
        raise _wrong(where, f"unknown type {item['type']!r}; choose one of {', '.join(known)}")
    return {name: value for name, value in item.items() if name != "type"}


def _schedule(value: object, where: str) -> Schedule:
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


def _items(value: object, inside: Sequence[Any], where: str) -> tuple[Any, ...]:
    fixed = inside[-1] is not Ellipsis
    if not isinstance(value, list) or (fixed and len(value) != len(inside)):
        raise _wrong(where, f"{json.dumps(value)} is not a list" + (f" of {len(inside)}" if fixed else ""))
    hints = inside if fixed else [inside[0]] * len(value)
    return tuple(_value(item, hint, f"{where}[{i}]") for i, (item, hint) in enumerate(zip(value, hints, strict=True)))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the types of the fields of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _check_names(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise _wrong(where, f"unknown field {name!r}; there are {', '.join(known)}")


def _made(where: str, make: Callable[..., T], /, *args: object, **fields: object) -> T:
    try:
        return make(*args, **fields)
    except (ValueError, OverflowError) as error:
        raise _wrong(where, str(error)) from None


def _wrong(where: str, reason: str) -> ValueError:
    return ValueError(f"preset, {where}: {reason}")
