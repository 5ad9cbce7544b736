"""Where a method enters a model: each hook puts one thing on a clone through the patcher's public methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..ldm.modules.backends.dispatch import optimized_attention
from .compiled import APPLY_MODEL
from .gate import Gate
from .recorder import KEY
from .schedule import Schedule
from .stack import ATTEND, LAYERS, Attend, Layer, push
from .targets import Address

Predict = Callable[..., list[Tensor]]  # the host's calc_cond_batch

POST_CFG = "sampler_post_cfg_function"  # ComfyUI's name of the place


def _predict(*args: Any, **kwargs: Any) -> list[Tensor]:
    from ..sampling.cond_batch import calc_cond_batch  # in ComfyUI nobody needs it, and it loads the whole sampler

    return calc_cond_batch(*args, **kwargs)


def _unseen(node: str, step: int, found: Sequence[Any]) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Host:
    """What the host does for a method.

    Args:
        attend: computes attention.
        predict: computes predictions of some conditionings.
        show: shows in a node what listeners have gathered in a step.
    """

    attend: Attend = optimized_attention
    predict: Predict = _predict
    show: Callable[[str, int, Sequence[Any]], None] = _unseen


class Hook(Protocol):
    """One thing to put on a clone."""

    def put(self, clone: Any, gate: Gate, host: Host) -> None: ...


class Method(Protocol):
    """A patch as a value: frozen, picklable, with pure functions of tensors.

    `kind` is what it works on: `self`- or `cross`-attention, `all` of them, or whole UNet `block`s. `slot` names its
    main place for the report. A neutral method is listed in the report and put nowhere.
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def slot(self) -> str: ...
    @property
    def address(self) -> Address: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def neutral(self) -> bool: ...

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return what to put on the clone; everything in it that acts holds the gate as `gate`."""
        ...


@dataclass(frozen=True)
class Around:
    """A layer around the attention of the gate's blocks; `slot` is attn1 or attn2."""

    slot: str
    layer: Layer

    def put(self, clone: Any, gate: Gate, host: Host) -> None:
        """Push the layer on the stack of every block, and note it, should a later node take the block's place."""
        options = clone.model_options["transformer_options"]  # the patcher puts another dict in its place below
        options[ATTEND] = host.attend
        known = options.setdefault(LAYERS, {}).setdefault(self.slot, {})
        for block in sorted(gate.blocks):  # a set has another order in every process
            existing = clone.model_options["transformer_options"].get("patches_replace", {}).get(self.slot, {})
            stack = push(existing, block, self.layer, host.attend)
            clone.set_model_patch_replace(stack, self.slot, *block)
            known[block] = (*known.get(block, ()), self.layer)


@dataclass(frozen=True)
class Listed:
    """A function in a list of `patches`, such as attn2_patch, attn1_output_patch or output_block_patch."""

    slot: str
    patch: Callable[..., Any]

    def put(self, clone: Any, gate: Gate, host: Host) -> None:
        """Append the function."""
        clone.set_model_patch(self.patch, self.slot)


@dataclass(frozen=True)
class AfterCfg:
    """A function of the combined prediction."""

    function: Callable[[Mapping[str, Any]], Tensor]

    def put(self, clone: Any, gate: Gate, host: Host) -> None:
        """Append the function."""
        clone.set_model_sampler_post_cfg_function(self.function)


@dataclass(frozen=True)
class AroundModel:
    """A wrapper around each call of the model: `(executor, x, t, ..., options, **kwargs)`, in the graph's order."""

    wrapper: Callable[..., Tensor]

    def put(self, clone: Any, gate: Gate, host: Host) -> None:
        """Add the wrapper under a key of its own."""
        clone.add_wrapper_with_key(APPLY_MODEL, f"{KEY} {gate.entry.number}", self.wrapper)
