"""ComfyUI's core nodes that let LoRA hooks grow and fade in the course of a run, for the embedded host."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ...ldm_patched.modules.weight_hooks import Hooks, Keyframe, Keyframes
from ..api import comfy_io as io
from .declared import Function, Nodes

NODES = Nodes("advanced/hooks/scheduling")
OUTPUT = io.HookKeyframes.Output(display_name="HOOK_KF")
# how far between the two ends a strength is, of how far between the two starts (0 to 1) it lies
EASINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda share: share,
    "ease_in": lambda share: share**2,
    "ease_out": lambda share: 1 - (1 - share) ** 2,
    "ease_in_out": lambda share: (1 - torch.cos(share * math.pi)) / 2,
}
log = logging.getLogger(__name__)


def _percent(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.001, tooltip=tooltip)


def _print() -> io.Input:
    tooltip = "Whether the keyframes are written to the log."
    return io.Boolean.Input("print_keyframes", default=False, advanced=True, tooltip=tooltip)


def _node(id: str, title: str, inputs: list[io.Input]) -> Callable[[Function], type[io.ComfyNode]]:
    """Return the declaration of a node that makes keyframes."""
    before = io.HookKeyframes.Input("prev_hook_kf", optional=True, tooltip="Keyframes that these are added to.")
    return NODES.add(id, title, [*inputs, before], OUTPUT, is_experimental=True)


def _between(first: float, last: float, count: int, easing: str = "linear") -> list[float]:
    """Return numbers from a first to a last one, in float32 as ComfyUI has them."""
    if easing == "linear":
        numbers = torch.linspace(first, last, count)
    else:
        numbers = (last - first) * EASINGS[easing](torch.linspace(0, 1, count)) + first
    return [float(number) for number in numbers]


def _added(before: Keyframes | None, percents: Iterable[float], strengths: Iterable[float], printed: bool) -> Keyframes:
    """Return keyframes with others, of which the first stays for a step at least."""
    found = before or Keyframes()
    for index, (percent, strength) in enumerate(zip(percents, strengths, strict=True)):
        found = found.added(Keyframe(float(strength), percent, int(index == 0)))
        if printed:
            log.info("hook keyframe: strength %g from %g on", strength, percent)
    return found


@NODES.add(
    "SetHookKeyframes",
    "Set Hook Keyframes",
    [
        io.Hooks.Input("hooks", tooltip="The hooks; the input itself stays as it is."),
        io.HookKeyframes.Input("hook_kf", optional=True, tooltip="What their strengths are multiplied by, over time."),
    ],
    io.Hooks,
    is_experimental=True,
)
def set_hook_keyframes(hooks: Hooks, hook_kf: Keyframes | None = None) -> Hooks:
    """Let hooks follow keyframes."""
    return hooks if hook_kf is None else hooks.with_keyframes(hook_kf)


@_node(
    "CreateHookKeyframe",
    "Create Hook Keyframe",
    [
        io.Float.Input(
            "strength_mult", default=1.0, min=-20.0, max=20.0, step=0.01, tooltip="What strengths are multiplied by."
        ),
        _percent("start_percent", 0.0, "From which part of the run on, 0 to 1."),
    ],
)
def create_hook_keyframe(
    strength_mult: float, start_percent: float, prev_hook_kf: Keyframes | None = None
) -> Keyframes:
    """Let hooks have a strength from a part of the run on."""
    return _added(prev_hook_kf, [start_percent], [strength_mult], False)


@_node(
    "CreateHookKeyframesInterpolated",
    "Create Hook Keyframes Interp.",
    [
        *(
            io.Float.Input(
                f"strength_{name}", default=1.0, min=0.0, max=10.0, step=0.001, tooltip=f"The {name} strength."
            )
            for name in ("start", "end")
        ),
        io.Combo.Input("interpolation", options=list(EASINGS), tooltip="How strengths go from one to the other."),
        _percent("start_percent", 0.0, "Where the first keyframe is, 0 to 1."),
        _percent("end_percent", 1.0, "Where the last keyframe is, 0 to 1."),
        io.Int.Input("keyframes_count", default=5, min=2, max=100, step=1, tooltip="How many keyframes."),
        _print(),
    ],
)
def create_hook_keyframes_interpolated(
    strength_start: float,
    strength_end: float,
    interpolation: str,
    start_percent: float,
    end_percent: float,
    keyframes_count: int,
    print_keyframes: bool = False,
    prev_hook_kf: Keyframes | None = None,
) -> Keyframes:
    """Let hooks go from one strength to another."""
    percents = _between(start_percent, end_percent, keyframes_count)
    strengths = _between(strength_start, strength_end, keyframes_count, interpolation)
    return _added(prev_hook_kf, percents, strengths, print_keyframes)


@_node(
    "CreateHookKeyframesFromFloats",
    "Create Hook Keyframes From Floats",
    [
        io.Custom("FLOATS").Input(
            "floats_strength",
            tooltip="A strength, or a list of them.",
            extra_dict={"default": -1, "min": -1, "step": 0.001, "forceInput": True},
        ),
        _percent("start_percent", 0.0, "Where the first keyframe is, 0 to 1."),
        _percent("end_percent", 1.0, "Where the last keyframe is, 0 to 1."),
        _print(),
    ],
)
def create_hook_keyframes_from_floats(
    floats_strength: Any,
    start_percent: float,
    end_percent: float,
    print_keyframes: bool = False,
    prev_hook_kf: Keyframes | None = None,
) -> Keyframes:
    """Let hooks follow a list of strengths."""
    strengths = list(floats_strength) if isinstance(floats_strength, Iterable) else [float(floats_strength)]
    return _added(prev_hook_kf, _between(start_percent, end_percent, len(strengths)), strengths, print_keyframes)
