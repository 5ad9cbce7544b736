"""What a method says of itself, once: its widgets, texts and names; nodes, checks, presets and pages come from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from typing_extensions import dataclass_transform

from ..addressing.refused import Refused as Refused
from ..addressing.where import Where
from .value import value

T = TypeVar("T")
# In the metadata of a field: what a node asks for it, its name in presets, what stands for it in a check of widgets.
WIDGET, SAVED, BLANK = "widget", "saved", "blank"
NODE = "node"  # the name under which a method gets the id of its node
WIDGETS = ("FLOAT", "INT", "BOOLEAN", "STRING", "COMBO")  # types of inputs that a user sets on the page
STRENGTH = "How much of {}, 0 to 1; 0 changes nothing."
BLOCKS = {
    False: "Which transformer blocks: all, input:4, input:7-8, middle, output:3-5, output:3.1; short i4 m o3.1; join "
    "with commas, leave out with a leading ! (all, !middle).",
    True: "Which whole blocks, with or without attention: output, output:0-5, middle, input:1, on transformers also "
    "double:0-18, single, block:7; short i1 m o0-5; join with commas, leave out with a leading ! (output, !output:3).",
}
PERCENT = "Where in the sampling run it {}s, as a part of the noise schedule: {}."
CURVE = (
    "Strength inside the window: constant, linear (1 to 0), cosine (1 to 0), or points position:strength such as 0:0, "
    "0.5:1, 1:0."
)


@dataclass(frozen=True)
class Widget:
    """One input of a node.

    Args:
        type: FLOAT, INT, BOOLEAN, STRING, COMBO, or the type of a socket.
        settings: what the page needs of it, by the names of ComfyUI's inputs.
        read: turns what the node gets into the value of the field.
        bounded: the method takes no number beyond the widget's range either.
        unlimited: the method takes infinity, which the widget's highest number stands for.
        by_host: the host alone checks it, against the options of the page.
    """

    name: str
    type: str
    tip: str
    settings: tuple[tuple[str, Any], ...] = ()
    optional: bool = False
    read: Callable[[Any], Any] | None = None
    bounded: bool = False
    unlimited: bool = False
    by_host: bool = False


@dataclass(frozen=True)
class Placing:
    """How a node asks for a Where.

    Args:
        blocks: the default address; None: it takes every block.
        kind: what it acts on: `self`- or `cross`-attention, `all`, or whole `block`s.
        kinds: what a widget offers to choose from; none: there is no choice.
        narrowing: whether the choice narrows the address; the method's `made` gets it as `kind` otherwise.
        end: the default end of the window; None: it acts all the time.
        curve: whether there is a curve.
    """

    blocks: str = "all"
    kind: str = "all"
    kinds: tuple[str, ...] = ()
    narrowing: bool = True
    kind_default: str = "all"
    kind_tip: str = "Self-attention (attn1), cross-attention to the text (attn2), or both."
    end: float | None = 1.0
    curve: bool = True

    @property
    def whole(self) -> bool:
        """Return whether it asks for whole blocks only."""
        return self.kind == "block"

    def widgets(self) -> list[Widget]:
        """Return the widgets."""
        found = [Widget("blocks", "STRING", BLOCKS[self.whole], (("default", self.blocks),))]
        if self.kinds:
            settings = (("options", list(self.kinds)), ("default", self.kind_default))
            found.append(Widget("kind", "COMBO", self.kind_tip, settings))
        if self.end is not None:
            found += [_percent("start", 0.0), _percent("end", self.end)]
        if self.curve:
            found.append(Widget("curve", "STRING", CURVE, (("default", "constant"),)))
        return found

    def read(self, field: str, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the Where of a node's inputs as the value of a field, and the kind where the method asks for it."""
        names = [widget.name for widget in self.widgets()]
        given = {name: inputs[name] for name in names if name in inputs}
        kind = given.pop("kind", self.kind_default if self.kinds else "all")
        if self.kinds and kind not in self.kinds:
            raise Refused(f"unknown kind {kind!r}; choose one of {', '.join(self.kinds)}", "kind")
        defaults = {"blocks": self.blocks} | ({} if self.end is None else {"end_percent": self.end})
        where = Where.of(**defaults | given, kind=kind if self.narrowing else "all")
        return {field: where} | ({} if self.narrowing else {"kind": kind})


def _percent(end: str, default: float) -> Widget:
    tip = PERCENT.format(end, "0 is the first step" if end == "start" else "1 is the last step")
    settings = (("default", default), ("min", 0.0), ("max", 1.0), ("step", 0.01))
    return Widget(f"{end}_percent", "FLOAT", tip, settings)


@dataclass(frozen=True)
class Output:
    """One more output of a node, behind the model."""

    type: str
    name: str
    tip: str


@dataclass(frozen=True)
class Declaration:
    """What stands in `@method`.

    Args:
        node: id of the node; empty: no node is made.
        text: what the node does, in a sentence or two; the first line of the class's docstring where it is not given.
        verb: what happens to the model, for the tooltip of its input.
        gives: how the clone differs, for the tooltip of the output.
        asks: inputs that are no fields; the method's `made` turns them into some. Optional ones come last.
        outputs: outputs behind the model, from the method's `results`.
        shows: whether what it makes in a run is shown in its node, whose id `made` gets as `node`.
        saved_in: type and field of the text form of presets in which the value stands, and its own type there.
    """

    node: str = ""
    title: str = ""
    text: str = ""
    aliases: tuple[str, ...] = ()
    verb: str = "change"
    gives: str = "with this patch"
    asks: tuple[Widget, ...] = ()
    outputs: tuple[Output, ...] = ()
    shows: bool = False
    saved_in: tuple[str, str, str] | None = None


class Declared(Protocol):
    """What a class has by `@method`."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    declaration: ClassVar[Declaration]

    @classmethod
    def made(cls, asked: Mapping[str, Any], fields: dict[str, Any]) -> Any:
        """Return the method of a node's inputs."""

    @classmethod
    def check_asked(cls, asked: Mapping[str, Any]) -> None:
        """Raise Refused for wrong values of what is no field."""


# What stands for the value of a field


def _field(
    default: Any, widget: Widget | Placing | None, saved: str = "", blank: Any = None, compare: bool = True
) -> Any:
    metadata = {WIDGET: widget, SAVED: saved, BLANK: blank}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata, compare=compare)


def number(
    default: float,
    low: float,
    high: float,
    *,
    tip: str,
    step: float = 0.05,
    bounded: bool = False,
    unlimited: bool = False,
    saved: str = "",
    **settings: Any,
) -> Any:
    """Declare a number; see Widget for `bounded` and `unlimited`."""
    shown = {"default": high if unlimited else default, "min": low, "max": high, "step": step, **settings}
    read = (lambda given: math.inf if given >= high else given) if unlimited else None
    return _field(default, Widget("", "FLOAT", tip, tuple(shown.items()), False, read, bounded, unlimited), saved)


def amount(default: float = 1.0, effect: str = "the method is applied", tip: str = "") -> Any:
    """Declare how much of a method is applied, 0 to 1."""
    return number(default, 0.0, 1.0, step=0.01, bounded=True, tip=tip or STRENGTH.format(effect))


def whole(default: int, low: int, high: int, *, tip: str, **settings: Any) -> Any:
    """Declare a whole number."""
    return _field(
        default, Widget("", "INT", tip, (("default", default), ("min", low), ("max", high), *settings.items()))
    )


def choice(options: Sequence[Any], default: Any, *, tip: str, optional: bool = False, by_host: bool = False) -> Any:
    """Declare a choice; the page shows the options as text."""
    by_text = {str(option): option for option in options}
    settings = (("options", list(by_text)), ("default", str(default)))

    def read(given: Any) -> Any:
        return by_text.get(str(given), str(given))

    return _field(default, Widget("", "COMBO", tip, settings, optional, read, by_host=by_host))


def switch(default: bool, *, tip: str) -> Any:
    """Declare a yes or no."""
    return _field(default, Widget("", "BOOLEAN", tip, (("default", default),)))


def words(default: str, *, tip: str, optional: bool = False, **settings: Any) -> Any:
    """Declare a text."""
    return _field(default, Widget("", "STRING", tip, (("default", default), *settings.items()), optional))


def socket(
    type: str,
    *,
    tip: str,
    name: str = "",
    optional: bool = False,
    read: Callable[[Any], Any] | None = None,
    blank: Any = None,
) -> Any:
    """Declare what comes from another node; `blank` stands for it where only widgets are checked."""
    default = None if optional else dataclasses.MISSING
    return _field(default, Widget(name, type, tip, optional=optional, read=read), blank=blank)


def hidden(default: Any = dataclasses.MISSING, saved: str = "", blank: Any = None, compare: bool = True) -> Any:
    """Declare a field that no widget sets; `saved` is its name in presets, `blank` as for a socket.

    One that is not compared is no setting: values that differ in it alone are equal, and presets leave it out.
    """
    return _field(default, None, saved, blank, compare)


def acts(blocks: str = "all", kind: str = "all", **how: Any) -> Any:
    """Declare blocks, window and curve; see Placing."""
    placing = Placing(blocks, kind, **how)
    narrowing = placing.kind_default if placing.kinds and placing.narrowing else "all"
    return _field(Where.of(blocks, 0.0, 1.0 if placing.end is None else placing.end, kind=narrowing), placing)


# Reading a declaration


@dataclass_transform(
    frozen_default=True, field_specifiers=(number, amount, whole, choice, switch, words, socket, hidden, acts)
)
def method(**said: Any) -> Callable[[type[T]], type[T]]:
    """Make a class a method: a frozen value with a declaration; see Declaration for what can be said."""

    def decorate(cls: type[T]) -> type[T]:
        made = value(cls)
        summary = (cls.__doc__ or "").partition("\n")[0]
        made.declaration = Declaration(**{"text": summary, **said})  # type: ignore[attr-defined]
        return made

    return decorate


def widget_of(field: dataclasses.Field[Any]) -> Widget | Placing | None:
    """Return what a node asks for a field; None: nothing."""
    found: Widget | Placing | None = field.metadata.get(WIDGET)
    return found


def placing_of(cls: type[Declared]) -> Placing:
    """Return how a method asks for its blocks; the standard way where it does not say."""
    found = (widget_of(field) for field in dataclasses.fields(cls))
    return next((one for one in found if isinstance(one, Placing)), Placing())


# From the inputs of a node to a method


def inputs_of(cls: type[Declared]) -> list[Widget]:
    """Return every input of a method's node but the model, in order."""
    found = [widget for widget in cls.declaration.asks if not widget.optional]
    for field in dataclasses.fields(cls):
        asked = widget_of(field)
        if isinstance(asked, Placing):
            found += asked.widgets()
        elif asked is not None:
            found.append(dataclasses.replace(asked, name=asked.name or field.name))
    return found + [widget for widget in cls.declaration.asks if widget.optional]


def made(cls: type[Declared], inputs: dict[str, Any]) -> Any:
    """Return the method of a node's inputs; what is missing has its default.

    Raises ValueError, mostly Refused, for a wrong value.
    """
    names = [*(widget.name for widget in cls.declaration.asks), *([NODE] if cls.declaration.shows else [])]
    asked = {name: inputs[name] for name in names if name in inputs}
    return cls.made(asked, fields_of(cls, inputs))


def fields_of(cls: type[Declared], inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a method for what is given of a node's inputs."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        asked = widget_of(field)
        if isinstance(asked, Placing):
            fields |= asked.read(field.name, inputs)
        elif asked is not None and (asked.name or field.name) in inputs:
            given = inputs[asked.name or field.name]
            fields[field.name] = given if asked.read is None or given is None else asked.read(given)
    return fields


def check_inputs(cls: type[Declared], inputs: dict[str, Any]) -> Refused | None:
    """Return why the widgets of a method's node are wrong, None if they are not.

    An input that comes from another node is not known yet and has the value None; what is wrong only together with
    such a one is not told.
    """
    known = {name: value for name, value in inputs.items() if value is not None}
    blanks = {f.name: f.metadata[BLANK] for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING}
    sockets = {widget.name for widget in inputs_of(cls) if widget.type not in WIDGETS}
    try:
        cls.check_asked({widget.name: known.get(widget.name) for widget in cls.declaration.asks})
        fields = fields_of(cls, {name: value for name, value in known.items() if name not in sockets})
        cls.made({}, blanks | fields)
    except Refused as error:
        return error if all(name not in inputs or name in known for name in error.widgets) else None
    except ValueError as error:
        return Refused(str(error))
    return None
