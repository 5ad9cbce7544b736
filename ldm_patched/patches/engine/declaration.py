"""What a method says of itself, once: its widgets, texts and names; nodes, checks, presets and pages come from it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from typing_extensions import dataclass_transform

from ..addressing.where import Where
from .value import value

T = TypeVar("T")
WIDGET = "widget"  # in the metadata of a field
SAVED = "saved"
STRENGTH = "How much of {}, 0 to 1; 0 changes nothing."


class Refused(ValueError):
    """A wrong value: which widgets it is about, the one to show it at first, and what to do about it."""

    def __init__(self, text: str, *widgets: str) -> None:
        super().__init__(text)
        self.widgets = widgets


@dataclass(frozen=True)
class Widget:
    """One input of a node.

    Args:
        type: FLOAT, INT, BOOLEAN, STRING, COMBO, or the type of a socket.
        settings: what the page needs of it, by the names of ComfyUI's inputs.
        read: turns what the node gets into the value of the field.
        bounded: the method takes no number beyond the widget's range either.
        unlimited: the method takes infinity, which the widget's highest number stands for.
    """

    name: str
    type: str
    tip: str
    settings: tuple[tuple[str, Any], ...] = ()
    optional: bool = False
    read: Callable[[Any], Any] | None = None
    bounded: bool = False
    unlimited: bool = False


@dataclass(frozen=True)
class Placing:
    """How a node asks for a Where.

    Args:
        blocks: the default address; None: it takes every block.
        kind: what it acts on: `self`- or `cross`-attention, `all`, or whole `block`s.
        kinds: what a widget offers to choose from; none: there is no choice.
        end: the default end of the window; None: it acts all the time.
        curve: whether there is a curve.
    """

    blocks: str = "all"
    kind: str = "all"
    kinds: tuple[str, ...] = ()
    kind_default: str = "all"
    kind_tip: str = "Self-attention (attn1), cross-attention to the text (attn2), or both."
    end: float | None = 1.0
    curve: bool = True

    @property
    def whole(self) -> bool:
        """Return whether it asks for whole blocks only."""
        return self.kind == "block"


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
        text: what the node does, in a sentence or two.
        verb: what happens to the model, for the tooltip of its input.
        gives: how the clone differs, for the tooltip of the output.
        asks: inputs that are no fields; the method's `of` turns them into some.
        outputs: outputs behind the model, from the method's `results`.
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
    saved_in: tuple[str, str, str] | None = None


# What stands for the value of a field


def _field(default: Any, widget: Widget | Placing | None, saved: str = "") -> Any:
    metadata = {WIDGET: widget, SAVED: saved}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


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
    return _field(default, Widget("", "INT", tip, (("default", default), ("min", low), ("max", high), *settings.items())))


def choice(options: Sequence[Any], default: Any, *, tip: str, optional: bool = False) -> Any:
    """Declare a choice; the page shows the options as text."""
    by_text = {str(option): option for option in options}
    settings = (("options", list(by_text)), ("default", str(default)))
    return _field(default, Widget("", "COMBO", tip, settings, optional, read=lambda given: by_text.get(given, given)))


def switch(default: bool, *, tip: str) -> Any:
    """Declare a yes or no."""
    return _field(default, Widget("", "BOOLEAN", tip, (("default", default),)))


def words(default: str, *, tip: str, optional: bool = False, **settings: Any) -> Any:
    """Declare a text."""
    return _field(default, Widget("", "STRING", tip, (("default", default), *settings.items()), optional))


def socket(
    type: str, *, tip: str, name: str = "", optional: bool = False, read: Callable[[Any], Any] | None = None
) -> Any:
    """Declare what comes from another node."""
    default = None if optional else dataclasses.MISSING
    return _field(default, Widget(name, type, tip, optional=optional, read=read))


def hidden(default: Any = dataclasses.MISSING, saved: str = "") -> Any:
    """Declare a field that no widget sets; `saved` is its name in presets."""
    return _field(default, None, saved)


def where(blocks: str = "all", kind: str = "all", **how: Any) -> Any:
    """Declare blocks, window and curve; see Placing."""
    placing = Placing(blocks, kind, **how)
    narrowing = placing.kind_default if placing.kinds else "all"
    known = narrowing if narrowing in ("self", "cross") else "all"
    return _field(Where.of(blocks, 0.0, 1.0 if placing.end is None else placing.end, kind=known), placing)


# Reading a declaration


@dataclass_transform(
    frozen_default=True, field_specifiers=(number, amount, whole, choice, switch, words, socket, hidden, where)
)
def method(**said: Any) -> Callable[[type[T]], type[T]]:
    """Make a class a method: a frozen value with a declaration; see Declaration for what can be said."""

    def decorate(cls: type[T]) -> type[T]:
        made = value(cls)
        made.declaration = Declaration(**said)  # type: ignore[attr-defined]
        return made

    return decorate


def widget_of(field: dataclasses.Field[Any]) -> Widget | Placing | None:
    """Return what a node asks for a field; None: nothing."""
    found: Widget | Placing | None = field.metadata.get(WIDGET)
    return found


def placing_of(cls: Any) -> Placing:
    """Return how a method asks for its blocks; the standard way where it does not say."""
    found = (widget_of(field) for field in dataclasses.fields(cls))
    return next((one for one in found if isinstance(one, Placing)), Placing())
