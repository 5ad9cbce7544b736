"""What every method has: blocks and time, a name for the report, and the places where it acts on a model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

from ..addressing.address import KINDS, Address
from ..addressing.blocks import Targets, targets
from ..addressing.schedule import Schedule
from ..addressing.where import Where
from ..patcher import Patcher
from .declaration import Declaration, Refused, Widget, placing_of, widget_of
from .gate import Gate
from .guidance import Weakening, weak_pass
from .host import Host
from .place import Place, Wrap


class Method:
    """Base of all that can be put on a model: frozen, picklable, with pure functions of tensors.

    A subclass says what it is by `@method`, and acts by one of these, or by `places` of its own:

    - `attend(site, q, k, v, inner)`: around the attention of its blocks.
    - `weak_attend(site, q, k, v, inner)`: in one more prediction, from which the image is guided away by `scale`.

    They are called only in the blocks and the window, with the strength of the curve as `site.weight`.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]
    declaration: ClassVar[Declaration] = Declaration()
    where: Where = Where()

    def __post_init__(self) -> None:
        self.check()
        for field in dataclasses.fields(self):
            widget = widget_of(field)
            if isinstance(widget, Widget):
                _check(field.name, getattr(self, field.name), widget)
        if self.address.kind == "block" and self.kind != "block":
            raise Refused(f"unknown kind 'block'; choose one of {', '.join(KINDS)}", "kind")
        self.address.narrowed(self.kind)

    def check(self) -> None:
        """Raise Refused for values that make no sense, naming the value and the fix."""

    def check_on(self, model: Patcher) -> None:
        """Raise Refused for what is of no use on a model; asked where it is new there, not where blocks were taken."""

    def unused(self, model: Patcher) -> str:
        """Return which of its settings can never act on a model, and why, for the report; empty where none is known."""
        return ""

    @property
    def address(self) -> Address:
        """Return which blocks it acts in."""
        return self.where.address

    @property
    def schedule(self) -> Schedule:
        """Return when it acts."""
        return self.where.schedule

    @property
    def kind(self) -> str:
        """Return what it works on: `self`- or `cross`-attention, `all` of them, or whole `block`s."""
        return placing_of(type(self)).kind

    @property
    def slot(self) -> str:
        """Name its main place, for the report."""
        return "sampler_post_cfg_function" if hasattr(self, "weak_attend") else SLOTS.get(self.kind, "attn1")

    @property
    def neutral(self) -> bool:
        """Return whether its settings can never change anything; it is then listed in the report and put nowhere."""
        return getattr(self, "strength", 1.0) == 0.0 or getattr(self, "scale", 1.0) == 0.0

    @property
    def scales_scores(self) -> bool:
        """Return whether all it does is to multiply queries or keys, which some models normalise afterwards."""
        return False

    @property
    def before_positions(self) -> bool:
        """Return whether what it does to queries or keys depends on whether they hold their positions."""
        return False

    @property
    def needs_skips(self) -> bool:
        """Return whether it acts on skip connections between blocks, which transformers have none of."""
        return False

    @property
    def reads_latent(self) -> bool:
        """Return whether it makes something of the latent itself, beside what it does to tokens."""
        return False

    @property
    def needs(self) -> tuple[Method, ...]:
        """Return the methods that have to be on the model before it, as they gather what it uses."""
        return ()

    @property
    def pictured(self) -> bool:
        """Return whether it needs tokens that are laid out as a picture."""
        return False

    @property
    def piecemeal(self) -> bool:
        """Return whether it attends with parts of the picture, such as tiles, which are no picture to others."""
        return False

    @property
    def in_layers(self) -> bool:
        """Return whether it acts in the layers of the network, however that calls its attention."""
        return False

    @property
    def label(self) -> str:
        """Describe its settings, for the report."""
        widgets = ((field.name, widget_of(field)) for field in dataclasses.fields(self))
        shown = [name for name, widget in widgets if isinstance(widget, Widget) and widget.type in SHOWN]
        values = (f"{name} {_plain(getattr(self, name))}" for name in shown)
        return " ".join([self.declaration.title.lower() or type(self).__name__, *values])

    @property
    def name(self) -> str:
        """Describe it in one line."""
        return f"{self.label} on {self.where}"

    @property
    def times(self) -> str:
        """Return how to name the strength behind the settings; empty for 1."""
        strength = getattr(self, "strength", 1.0)
        return f" x {strength:g}" if strength != 1.0 else ""

    @classmethod
    def made(cls, asked: Mapping[str, Any], fields: dict[str, Any]) -> Method:
        """Return the method of a node's inputs: what the declaration asks for, and fields by name.

        `asked` is empty where only the widgets of the fields are checked.
        """
        return cls(**fields)

    @classmethod
    def check_asked(cls, asked: Mapping[str, Any]) -> None:
        """Raise Refused for wrong values of what the declaration asks for beside the fields; None: not known yet."""

    @classmethod
    def results(cls, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the outputs of a node behind the model."""
        return ()

    def targets(self, address: Address, model: Patcher) -> Targets:
        """Return the blocks of a model that its address means, with the kinds of attention; raises AddressError."""
        return targets(address, model)

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return what to put on a clone, all of it under the gate."""
        if hasattr(self, "weak_attend"):
            yield weak_pass(cast(Weakening, self), gate, host)
        if hasattr(self, "attend"):
            for kind in ("self", "cross"):
                if self.kind in ("all", kind) and self.address.kind in ("all", kind):
                    yield Wrap(SLOTS[kind], gate, self.attend, getattr(self, "idle", None), piecemeal=self.piecemeal)


SLOTS = {"self": "attn1", "cross": "attn2"}
SHOWN = ("FLOAT", "INT", "COMBO", "BOOLEAN")  # widgets whose values stand in the report


def _plain(given: Any) -> str:
    return f"{given:g}" if isinstance(given, float) else str(given)


def _check(name: str, given: Any, widget: Widget) -> None:
    settings = dict(widget.settings)
    if widget.type == "COMBO" and not widget.by_host and str(given) not in settings["options"]:
        raise Refused(f"unknown {name} {given!r}; choose one of {', '.join(settings['options'])}", name)
    if widget.type != "FLOAT":
        return
    if widget.bounded and not settings["min"] <= given <= settings["max"]:  # also for NaN
        raise Refused(f"{name} is {given}; give a number from {settings['min']:g} to {settings['max']:g}", name)
    if not math.isfinite(given) and not (widget.unlimited and given == math.inf):
        raise Refused(f"{name} is {given}; give a finite number", name)
