"""Guidance by a weaker self-attention: the picture is pushed away from what the model makes of it without structure.

A second prediction of the positive side, with the self-attention of some blocks weakened, is the bad example:
`guided + scale * (cond - weak)`. It costs one model call a step, and none outside the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from .gate import Gate, current_weight
from .hook import POST_CFG, AfterCfg, Hook, Host
from .recorder import KEY
from .schedule import Schedule
from .stack import Inner, push
from .targets import Address, BlockId

EXTRA = "patchbay_extra_call"  # in the options of a call that only serves a guidance


class Weakening(Protocol):
    """A way to weaken self-attention; a frozen value."""

    @property
    def name(self) -> str: ...

    def attend(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Return the weakened result for q, k, v (b, n, c)."""
        ...


@dataclass(frozen=True)
class Guidance:
    """Guide away from a weakened self-attention in the blocks of `address` during `schedule`.

    `scale` times the curve of the schedule is how far; 0 changes nothing, to the bit.

    Raises ValueError naming the value and the fix.
    """

    weakening: Weakening
    scale: float = 3.0
    address: Address = Address()
    schedule: Schedule = Schedule()
    kind: ClassVar[str] = "self"
    slot: ClassVar[str] = POST_CFG

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ValueError(f"scale is {self.scale}; give a finite number")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether the guidance can never change anything."""
        return self.scale == 0.0

    @property
    def name(self) -> str:
        """Describe the guidance in one line."""
        return f"{self.weakening.name} guidance {self.scale:g} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the pass after the guidance of the prompts."""
        return [AfterCfg(GuidancePass(self, gate, host))]


def guided(denoised: Tensor, cond: Tensor, weak: Tensor, scale: float) -> Tensor:
    """Push a denoised latent away from the weak prediction."""
    return denoised + scale * (cond - weak)


@dataclass(frozen=True)
class WeakLayer:
    """The weakened attention of the extra call, around all else that is in the slot."""

    weakening: Weakening
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        if self.gate.weight(extra_options) == 0.0:
            return inner(q, k, v)
        return self.weakening.attend(inner, q, k, v, extra_options)


@dataclass(frozen=True)
class GuidancePass:
    """A function for `sampler_post_cfg_function`: the extra call, and the push away from it."""

    guidance: Guidance
    gate: Gate
    host: Host

    def __call__(self, args: Mapping[str, Any]) -> Tensor:
        options = args["model_options"].get("transformer_options", {})
        now = {"sigmas": args["sigma"]}
        scale = self.guidance.scale * current_weight(self.guidance.schedule, options.get(KEY), now)
        if scale == 0.0:
            return args["denoised"]
        weakened = {**args["model_options"], "transformer_options": self._weakened(options)}
        (weak,) = self.host.predict(args["model"], [args["cond"]], args["input"], args["sigma"], weakened)
        return guided(args["denoised"], args["cond_denoised"], weak, scale)

    def _weakened(self, options: Mapping[str, Any]) -> dict[str, Any]:
        replaced = options.get("patches_replace", {})
        slots: dict[Any, Any] = dict(replaced.get("attn1", {}))
        layer = WeakLayer(self.guidance.weakening, self.gate)
        stacks: dict[BlockId, Any] = {block: push(slots, block, layer, self.host.attend) for block in self.gate.blocks}
        return {**options, EXTRA: True, "patches_replace": {**replaced, "attn1": slots | stacks}}
