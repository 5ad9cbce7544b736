"""Normalized attention guidance: a negative prompt inside cross-attention, for any cfg and no further model call."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import Refused, acts, amount, method, number, socket
from ..engine.gate import Gate
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import Listed, Place, Wrap
from ..engine.prompts import MorePrompts, Prompt, attend_to, prompt_of, take_off
from ..engine.site import Site
from ..engine.stack import Inner, merged, split
from ..patcher import Patcher


@method(
    node="PatchbayNormalizedGuidance",
    title="Normalized Attention Guidance (NAG)",
    text="A negative prompt that works inside cross-attention: at any cfg, also 1 and with distilled models, and "
    "without another model call.",
    aliases=("NAG", "negative prompt cfg 1", "negative prompt turbo", "lower cfg"),
    verb="guide",
    gives="with this guidance",
)
class NormalizedGuidance(Method):
    """Push the cross-attention of the positive prompt away from that of a negative one (Chen et al. 2025, arXiv
    2505.21179).

    `negative` holds its tokens (1, n, c), `scale` is how far to push, 1 not at all; a token's result keeps at most
    `tau` times its L1 norm, and `strength` (0..1) times the curve blends it in. Rows of the uncond are left
    alone.
    """

    negative: Prompt | Tensor = socket(
        "CONDITIONING",
        tip="The prompt to push away from: one prompt, its tokens.",
        read=prompt_of,
        blank=torch.zeros(1, 0, 0),
    )
    scale: float = number(5.0, -100.0, 100.0, step=0.1, tip="How far to push from the negative; 1 changes nothing.")
    tau: float = number(2.5, 0.01, 100.0, step=0.1, tip="The largest growth of a token's L1 norm; less is calmer.")
    strength: float = amount(0.5, "the guided attention is blended in (the paper's alpha)")
    where: Where = acts(kind="cross")

    def check(self) -> None:
        """Refuse a bound that is none."""
        if not self.tau > 0.0:
            raise Refused(f"tau is {self.tau}; give a number above 0", "tau")

    @property
    def neutral(self) -> bool:
        """Return whether the guidance can never change anything."""
        return self.strength == 0.0 or self.scale == 1.0

    @property
    def label(self) -> str:
        """Describe the guidance."""
        return f"normalized guidance {self.scale:g} tau {self.tau:g} x {self.strength:g}"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return what appends the negative prompt, and what attends to it."""
        return [Listed("attn2_patch", MorePrompts(gate, (self.negative,))), Wrap("attn2", gate, self.attend)]

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend to the prompt, and in the positive rows away from the negative one."""
        k, (other_k,) = take_off(k, (self.negative,), site)
        v, (other_v,) = take_off(v, (self.negative,), site)
        out = inner(q, k, v)
        positive = site.rows()
        if not positive:
            return out
        negative = attend_to(inner, q, k, v, (other_k, other_v), site)
        out, other = merged(out).clone(), merged(negative)
        for some in positive:
            out[some] = normalized(out[some], other[some], self.scale, self.tau, site.weight)
        return split(out, q.shape[1])


def normalized(positive: Tensor, negative: Tensor, scale: float, tau: float, blend: float) -> Tensor:
    """Extrapolate from a negative result (b, n, c), bound each token's L1 norm, and blend with the positive one.

    z~ = s z+ - (s - 1) z-, z^ = z~ min(r, tau) / r with r = |z~|_1 / |z+|_1, and z = a z^ + (1 - a) z+ (equations 7 to
    10).
    """
    pushed = scale * positive - (scale - 1.0) * negative
    norms = [x.abs().sum(-1, keepdim=True, dtype=torch.float32) for x in (pushed, positive)]
    ratio = norms[0] / norms[1].clamp(min=1e-12)
    bound = (tau / ratio.clamp(min=1e-12)).clamp(max=1.0).to(pushed.dtype)
    return torch.lerp(positive, pushed * bound, blend)
