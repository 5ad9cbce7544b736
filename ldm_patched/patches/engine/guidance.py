"""Guidance by a weaker model: the image is pushed away from what the model makes of it without structure.

A second prediction of the cond, with some blocks or their self-attention weakened, is the bad example:
`guided + scale * (cond - weak)`. It costs one model call a step, and none outside the schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..patcher import CfgArgs, TransformerOptions
from .gate import Gate, curve_weight
from .host import Host
from .place import AfterCfg, InOptions, Wrap
from .site import EXTRA, Site
from .stack import ATTEND, Inner


class Weakening(Protocol):
    """A method with a weaker attention and a scale."""

    @property
    def scale(self) -> float: ...
    @property
    def piecemeal(self) -> bool: ...

    def weak_attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor: ...


def guided(denoised: Tensor, cond: Tensor, weak: Tensor, scale: float) -> Tensor:
    """Push a denoised latent away from the weak prediction."""
    return denoised + scale * (cond - weak)


def weak_pass(method: Weakening, gate: Gate, host: Host) -> AfterCfg:
    """Return what makes the extra prediction after the guidance of the prompts, and pushes away from it."""
    weak = Wrap("attn1", gate, method.weak_attend, piecemeal=method.piecemeal)
    return AfterCfg(gate, WeakPass(method.scale, (weak,), host))


@dataclass(frozen=True)
class WeakPass:
    """The extra prediction, with what weakens it around all else that is in its places."""

    scale: float
    weak: tuple[InOptions, ...]
    host: Host

    def __call__(self, gate: Gate, args: CfgArgs) -> Tensor:
        options = args["model_options"].get("transformer_options", {})
        scale = self.scale * scale_now(gate, args)
        denoised = args["denoised"]
        if scale == 0.0:
            return denoised
        weakened = {**args["model_options"], "transformer_options": self.weakened(options)}
        (weak,) = self.host.predict(args["model"], [args["cond"]], args["input"], args["sigma"], weakened)
        return guided(denoised, args["cond_denoised"], weak, scale)

    def weakened(self, options: TransformerOptions) -> TransformerOptions:
        """Return the options of the extra prediction."""
        for place in self.weak:
            options = place.into(options)
        return {**options, EXTRA: True, ATTEND: self.host.attend}


def scale_now(gate: Gate, args: CfgArgs) -> float:
    """Return the strength of a gate's curve for the arguments of a function after the guidance."""
    options = args["model_options"].get("transformer_options", {})
    return curve_weight(gate.entry.schedule, {**options, "sigmas": args["sigma"]})
