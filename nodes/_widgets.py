"""The widgets that the patch nodes share, and the check of what is in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ._host import io

CATEGORY = "model/patch/attention"


def model(what: str = "change") -> Any:
    """Return the input for the model."""
    return io.Model.Input("model", tooltip=f"The model to {what}; the input itself stays as it is.")


def patched(what: str) -> Any:
    """Return the output for the clone with `what` on it."""
    return io.Model.Output(display_name="MODEL", tooltip=f"A clone of the model with {what}.")


def strength(default: float = 1.0, effect: str = "the method is applied") -> Any:
    """Return the input for how much of a method is applied."""
    return io.Float.Input(
        "strength",
        default=default,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip=f"How much of {effect}, 0 to 1; 0 changes nothing.",
    )


def number(name: str, default: float, low: float, high: float, tooltip: str, step: float = 0.05) -> Any:
    """Return an input for a number."""
    return io.Float.Input(name, default=default, min=low, max=high, step=step, tooltip=tooltip)


def blocks(default: str = "all") -> Any:
    """Return the input for a block address."""
    return io.String.Input(
        "blocks",
        default=default,
        tooltip="Which transformer blocks: all, input:4, input:7-8, middle, output:3-5, output:3.1; short i4 m o3.1; "
        "join with commas, leave out with a leading ! (all, !middle).",
    )


def unet_blocks(default: str) -> Any:
    """Return the input for an address of whole UNet blocks, with or without attention."""
    return io.String.Input(
        "blocks",
        default=default,
        tooltip="Which blocks of the UNet, with or without attention: output, output:0-5, middle, input:1; short i1 m "
        "o0-5; join with commas, leave out with a leading ! (output, !output:3).",
    )


def window(end: float = 1.0) -> list[Any]:
    """Return the inputs for the part of the run in which a patch acts; it ends at `end` by default."""
    return [
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where in the sampling run it starts, as a part of the noise schedule: 0 is the first step.",
        ),
        io.Float.Input(
            "end_percent",
            default=end,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where in the sampling run it ends, as a part of the noise schedule: 1 is the last step.",
        ),
    ]


def curve() -> Any:
    """Return the input for the strength inside the window."""
    return io.String.Input(
        "curve",
        default="constant",
        tooltip="Strength inside the window: constant, linear (1 to 0), cosine (1 to 0), or points "
        "position:strength such as 0:0, 0.5:1, 1:0.",
    )


def check(make: Callable[..., object], **widgets: Any) -> Literal[True] | str:
    """Tell why `make` refuses the values, True if it does not; a widget with a link in it has the value None."""
    try:
        make(**{name: value for name, value in widgets.items() if value is not None})
    except ValueError as error:
        return str(error)
    return True
