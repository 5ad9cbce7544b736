"""Guidance by a weaker attention: the image is pushed away from what the model makes of it without structure.

A second prediction of the cond, with the self-attention of some blocks weakened, is the bad example:
`guided + scale * (cond - weak)`. It costs one model call a step, and none outside the schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..patcher import CfgArgs, TransformerOptions
from .gate import Gate, curve_weight
from .host import Host
from .place import AfterCfg
from .site import EXTRA, Site
from .stack import ATTEND, Inner, Layer, with_layer


class Weakening(Protocol):
    """A method with a weaker attention and a scale."""

    @property
    def scale(self) -> float: ...

    def weak_attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor: ...


def guided(denoised: Tensor, cond: Tensor, weak: Tensor, scale: float) -> Tensor:
    """Push a denoised latent away from the weak prediction."""
    return denoised + scale * (cond - weak)


def weak_pass(method: Weakening, gate: Gate, host: Host) -> AfterCfg:
    """Return what makes the extra prediction after the guidance of the prompts, and pushes away from it."""
    return AfterCfg(gate, WeakPass(method, host))


@dataclass(frozen=True)
class WeakPass:
    """The extra prediction, with the weak attention around all else that is in the slot."""

    method: Weakening
    host: Host

    def __call__(self, gate: Gate, args: CfgArgs) -> Tensor:
        options = args["model_options"].get("transformer_options", {})
        scale = self.method.scale * scale_now(gate, args)
        denoised = args["denoised"]
        if scale == 0.0:
            return denoised
        weakened = {**args["model_options"], "transformer_options": self._weakened(gate, options)}
        (weak,) = self.host.predict(args["model"], [args["cond"]], args["input"], args["sigma"], weakened)
        return guided(denoised, args["cond_denoised"], weak, scale)

    def _weakened(self, gate: Gate, options: TransformerOptions) -> TransformerOptions:
        weakened = with_layer(options, "attn1", Layer(gate, self.method.weak_attend))
        return {**weakened, EXTRA: True, ATTEND: self.host.attend}


def scale_now(gate: Gate, args: CfgArgs) -> float:
    """Return the strength of a gate's curve for the arguments of a function after the guidance."""
    options = args["model_options"].get("transformer_options", {})
    return curve_weight(gate.entry.schedule, {**options, "sigmas": args["sigma"]})
