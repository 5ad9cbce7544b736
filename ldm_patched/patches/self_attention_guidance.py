"""Self-attention guidance: away from the picture in which what the model looks at most is blurred."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .context import NEGATIVE, POSITIVE, rows
from .gate import Gate, current_weight
from .grid import blurred, over_time, token_grid
from .guidance import EXTRA
from .hook import POST_CFG, AfterCfg, Around, Hook, Host
from .recorder import KEY
from .schedule import Schedule
from .stack import Inner
from .targets import Address

SCORES = 2**24  # scores at a time


@dataclass(frozen=True)
class SelfAttentionGuidance:
    """Blur the prediction where self-attention looks, predict again, and push away (Hong et al. 2022, arXiv
    2210.00939).

    A token counts as looked at when it gets more than `threshold` times an even share of the attention, on the mean
    over heads and over the blocks of `address`. `blur` is the deviation of the Gaussian in latent pixels, `scale` times
    the curve of the schedule how far the push goes; 0 changes nothing, to the bit. The negative side is degraded where
    there is one, else the positive. One model call a step, none outside the schedule.

    Raises ValueError naming the value and the fix.
    """

    scale: float = 0.5
    blur: float = 2.0
    threshold: float = 1.0
    address: Address = Address()
    schedule: Schedule = Schedule()
    kind: ClassVar[str] = "self"
    slot: ClassVar[str] = POST_CFG

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ValueError(f"scale is {self.scale}; give a finite number")
        if not 0.0 < self.blur < math.inf:
            raise ValueError(f"blur is {self.blur}; give a number above 0")
        if not self.threshold >= 0.0:
            raise ValueError(f"threshold is {self.threshold}; give a number from 0")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether the guidance can never change anything."""
        return self.scale == 0.0

    @property
    def name(self) -> str:
        """Describe the guidance in one line."""
        values = f"{self.scale:g} blur {self.blur:g} threshold {self.threshold:g}"
        return f"self-attention guidance {values} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return what notes the attention, and the pass after the guidance of the prompts."""
        return [Around("attn1", AttentionNote(gate)), AfterCfg(DegradedPass(self, gate, host))]


def looked_at(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Return how much attention each key gets, in even shares: (b, n) of mean 1, for q, k (b, n, h * d)."""
    queries, keys = (x.unflatten(-1, (heads, -1)).transpose(1, 2).float() for x in (q, k))  # (b, h, n, d)
    keys = keys.transpose(-1, -2) * keys.shape[-1] ** -0.5
    size = max(1, SCORES // (q.shape[0] * heads * k.shape[1]))
    total = q.new_zeros(q.shape[0], k.shape[1], dtype=keys.dtype)
    for some in queries.split(size, dim=2):
        total += (some @ keys).softmax(-1).sum(dim=(1, 2))
    return total * (k.shape[1] / (heads * q.shape[1]))


def degraded(x: Tensor, maps: list[Tensor], blur: float, threshold: float) -> Tensor:
    """Blur a latent (b, c, h, w) where the mean of the maps (b, 1, h', w') is above the threshold."""
    size = x.shape[-2:]
    scaled = torch.stack([F.interpolate(one.to(x), size=size, mode="nearest") for one in maps])
    mask = (scaled.mean(0) > threshold).to(x)  # (b, 1, h, w)
    smooth = blurred(x.flatten(2).transpose(1, 2), (size[0], size[1]), blur).transpose(1, 2).view_as(x)
    return smooth * mask + x * (1.0 - mask)


@dataclass(frozen=True)
class AttentionNote:
    """Note where self-attention looks, for each side of the guidance and each block; the attention stays as it is."""

    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        noted = EXTRA not in extra_options and not over_time(q, extra_options)
        if noted and self.gate.weight(extra_options) != 0.0:
            self._note(q, k, extra_options)
        return inner(q, k, v)

    def _note(self, q: Tensor, k: Tensor, options: Mapping[str, Any]) -> None:
        grid = token_grid(q.shape[1], options)
        block = (options["block"], options["block_index"])
        memory = self.gate.memory(options)
        # the sides can come in separate calls; in one call only the negative one is needed
        for side in (NEGATIVE,) if rows(NEGATIVE, options, len(q)) else (POSITIVE,):
            for some in rows(side, options, len(q)):
                shares = looked_at(q[some], k[some], options["n_heads"])
                memory.setdefault(f"side {side}", {})[block] = shares.unflatten(1, (1, *grid))


@dataclass(frozen=True)
class DegradedPass:
    """A function for `sampler_post_cfg_function`: the extra call on the degraded picture, and the push away from it."""

    method: SelfAttentionGuidance
    gate: Gate
    host: Host

    def __call__(self, args: Mapping[str, Any]) -> Tensor:
        options = args["model_options"].get("transformer_options", {})
        now = {"sigmas": args["sigma"]}
        scale = self.method.scale * current_weight(self.method.schedule, options.get(KEY), now)
        memory = self.gate.memory(options)
        negative = args["uncond"] is not None and f"side {NEGATIVE}" in memory
        maps = memory.get(f"side {NEGATIVE if negative else POSITIVE}", {})
        memory.clear()  # the maps are those of this step
        if scale == 0.0 or not maps:
            return args["denoised"]
        # the place in the list tells the layers which side it is
        conds = [None, args["uncond"]] if negative else [args["cond"]]
        x0 = args["uncond_denoised" if negative else "cond_denoised"]
        worse = degraded(x0, list(maps.values()), self.method.blur, self.method.threshold)
        noised = worse + args["input"] - x0  # the same noise on the degraded picture
        extra = {**args["model_options"], "transformer_options": {**options, EXTRA: True}}
        again = self.host.predict(args["model"], conds, noised, args["sigma"], extra)[-1]
        return args["denoised"] + scale * (worse - again)
