"""ComfyUI's core nodes that give prompts a mask, LoRA hooks and a part of the run, for the embedded host."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...ldm_patched.modules.weight_hooks import Hooks
from ..api import comfy_io as io
from .conditioning import Conditioning, with_values
from .declared import Decorator, Nodes
from .hooks import combined, previous

NODES = Nodes("advanced/hooks")
SINGLE, PAIR = "advanced/hooks/cond single", "advanced/hooks/cond pair"
TimestepsRange = io.Custom("TIMESTEPS_RANGE")
Window = tuple[float, float]
HOOKS = "LoRA hooks that act with the prompt."
POSITIVE, NEGATIVE = (io.Conditioning.Output(display_name=name) for name in ("positive", "negative"))


def _prompts(*names: str) -> list[io.Input]:
    return [io.Conditioning.Input(name, tooltip="A prompt; the input itself stays as it is.") for name in names]


def _properties(*names: str) -> list[io.Input]:
    areas = ["default", "mask bounds"]
    return [
        *_prompts(*names),
        io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.01, tooltip="Its weight within the mask."),
        io.Combo.Input("set_cond_area", options=areas, tooltip="Whether only the mask's surroundings are computed."),
        io.Mask.Input("mask", optional=True, tooltip="Where the prompt acts."),
        previous("hooks", HOOKS),
        TimestepsRange.Input("timesteps", optional=True, tooltip="In which part of the run it acts."),
    ]


def narrowed(
    conditioning: Conditioning,
    strength: float,
    set_cond_area: str,
    mask: Tensor | None = None,
    hooks: Hooks | None = None,
    timesteps: Window | None = None,
) -> Conditioning:
    """Return a conditioning that acts within a mask and a part of the run, with hooks, where they are given."""
    values: dict[str, Any] = {}
    if mask is not None:
        mask = mask.unsqueeze(0) if mask.ndim < 3 else mask
        values = {"mask": mask, "set_area_to_bounds": set_cond_area != "default", "mask_strength": strength}
    if timesteps is not None:
        values |= {"start_percent": timesteps[0], "end_percent": timesteps[1]}
    return with_values(hooked(conditioning, hooks), **values)


def hooked(conditioning: Conditioning, hooks: Hooks | None) -> Conditioning:
    """Return a conditioning whose entries get hooks beside those that they have."""
    if hooks is None:
        return conditioning
    return [[tokens, {**values, "hooks": combined(values.get("hooks"), hooks)}] for tokens, values in conditioning]


def _node(id: str, title: str, category: str, inputs: list[io.Input], *outputs: Any) -> Decorator:
    return NODES.add(id, title, inputs, *outputs, category=category, is_experimental=True)


@_node("ConditioningSetProperties", "Cond Set Props", SINGLE, _properties("cond_NEW"), io.Conditioning)
def conditioning_set_properties(cond_NEW: Conditioning, **how: Any) -> Conditioning:  # noqa: N803
    """Let a prompt act within a mask and a part of the run, with LoRA hooks."""
    return narrowed(cond_NEW, **how)


@_node(
    "ConditioningSetPropertiesAndCombine",
    "Cond Set Props Combine",
    SINGLE,
    _properties("cond", "cond_NEW"),
    io.Conditioning,
)
def conditioning_set_properties_and_combine(cond: Conditioning, cond_NEW: Conditioning, **how: Any) -> Conditioning:  # noqa: N803
    """Let a prompt act within a mask and a part of the run, with LoRA hooks, beside another one."""
    return [*cond, *narrowed(cond_NEW, **how)]


@_node(
    "PairConditioningSetProperties",
    "Cond Pair Set Props",
    PAIR,
    _properties("positive_NEW", "negative_NEW"),
    POSITIVE,
    NEGATIVE,
)
def pair_conditioning_set_properties(
    positive_NEW: Conditioning,  # noqa: N803
    negative_NEW: Conditioning,  # noqa: N803
    **how: Any,
) -> tuple[Conditioning, Conditioning]:
    """Let two prompts act within a mask and a part of the run, with LoRA hooks."""
    return narrowed(positive_NEW, **how), narrowed(negative_NEW, **how)


@_node(
    "PairConditioningSetPropertiesAndCombine",
    "Cond Pair Set Props Combine",
    PAIR,
    _properties("positive", "negative", "positive_NEW", "negative_NEW"),
    POSITIVE,
    NEGATIVE,
)
def pair_conditioning_set_properties_and_combine(
    positive: Conditioning,
    negative: Conditioning,
    positive_NEW: Conditioning,  # noqa: N803
    negative_NEW: Conditioning,  # noqa: N803
    **how: Any,
) -> tuple[Conditioning, Conditioning]:
    """Let two prompts act within a mask and a part of the run, with LoRA hooks, beside two others."""
    return [*positive, *narrowed(positive_NEW, **how)], [*negative, *narrowed(negative_NEW, **how)]


@_node(
    "PairConditioningCombine",
    "Cond Pair Combine",
    PAIR,
    _prompts("positive_A", "negative_A", "positive_B", "negative_B"),
    POSITIVE,
    NEGATIVE,
)
def pair_conditioning_combine(
    positive_A: Conditioning,  # noqa: N803
    negative_A: Conditioning,  # noqa: N803
    positive_B: Conditioning,  # noqa: N803
    negative_B: Conditioning,  # noqa: N803
) -> tuple[Conditioning, Conditioning]:
    """Let two pairs of prompts act beside each other."""
    return [*positive_A, *positive_B], [*negative_A, *negative_B]


def _default(conditioning: Conditioning, hooks: Hooks | None) -> Conditioning:
    return with_values(hooked(conditioning, hooks), default=True)


@_node(
    "ConditioningSetDefaultCombine",
    "Cond Set Default Combine",
    SINGLE,
    [*_prompts("cond", "cond_DEFAULT"), previous("hooks", HOOKS)],
    io.Conditioning,
)
def conditioning_set_default_combine(
    cond: Conditioning,
    cond_DEFAULT: Conditioning,  # noqa: N803
    hooks: Hooks | None = None,
) -> Conditioning:
    """Let a second prompt act where the first one does not."""
    return [*cond, *_default(cond_DEFAULT, hooks)]


@_node(
    "PairConditioningSetDefaultCombine",
    "Cond Pair Set Default Combine",
    PAIR,
    [*_prompts("positive", "negative", "positive_DEFAULT", "negative_DEFAULT"), previous("hooks", HOOKS)],
    POSITIVE,
    NEGATIVE,
)
def pair_conditioning_set_default_combine(
    positive: Conditioning,
    negative: Conditioning,
    positive_DEFAULT: Conditioning,  # noqa: N803
    negative_DEFAULT: Conditioning,  # noqa: N803
    hooks: Hooks | None = None,
) -> tuple[Conditioning, Conditioning]:
    """Let a second pair of prompts act where the first one does not."""
    return [*positive, *_default(positive_DEFAULT, hooks)], [*negative, *_default(negative_DEFAULT, hooks)]


@_node(
    "ConditioningTimestepsRange",
    "Timesteps Range",
    "advanced/hooks",
    [
        io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.001, tooltip="Where it begins, 0 to 1."),
        io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.001, tooltip="Where it ends, 0 to 1."),
    ],
    *(TimestepsRange.Output(display_name=name) for name in ("TIMESTEPS_RANGE", "BEFORE_RANGE", "AFTER_RANGE")),
)
def conditioning_timesteps_range(start_percent: float, end_percent: float) -> tuple[Window, Window, Window]:
    """Give a part of the run, what is before it, and what is after it."""
    return (start_percent, end_percent), (0.0, start_percent), (end_percent, 1.0)
