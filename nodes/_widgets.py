"""The widgets that the patch nodes share, and the check of what is in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from ._host import io

CATEGORY = "model/patch/attention"


def blocks(default: str = "all") -> Any:
    """Return the input for a block address."""
    return io.String.Input(
        "blocks",
        default=default,
        tooltip="Which transformer blocks: all, input:4, input:7-8, middle, output:3-5, output:3.1; short i4 m o3.1; "
        "join with commas, leave out with a leading ! (all, !middle).",
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
