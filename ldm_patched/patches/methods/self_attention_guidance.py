"""Self-attention guidance: away from the image in which what the model looks at most is blurred."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..addressing.grid import blurred
from ..addressing.where import Where
from ..engine.declaration import Refused, acts, method, number
from ..engine.gate import Gate
from ..engine.guidance import scale_now
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import POST_CFG, AfterCfg, Place, Wrap
from ..engine.scores import sliced_scores, with_beside
from ..engine.sides import COND, UNCOND
from ..engine.site import EXTRA, Site
from ..engine.stack import Inner
from ..patcher import CfgArgs, Patcher


@method(
    node="PatchbaySelfAttentionGuidance",
    title="Self-Attention Guidance (SAG)",
    text="Blur the prediction where self-attention looks most, predict once more, and push the picture away from that: "
    "finer detail and structure. One more model call in each step of the window.",
    aliases=("SAG", "self attention guidance", "degraded guidance"),
    verb="guide",
    gives="with this guidance",
)
class SelfAttentionGuidance(Method):
    """Blur the prediction where self-attention looks, predict again, push away (Hong et al. 2022, arXiv 2210.00939).

    A token counts as looked at when it gets more than `threshold` times an even share of the attention, on the mean
    over heads and over the blocks. `blur` is the deviation of the Gaussian in latent pixels, `scale` times the curve
    of the schedule how far the push goes; 0 changes nothing, to the bit. The uncond is degraded where there is
    one, else the cond. One model call a step, none outside the schedule.
    """

    scale: float = number(0.5, -10.0, 10.0, tip="How far the prediction is pushed; 0 changes nothing.")
    blur: float = number(2.0, 0.1, 100.0, step=0.1, tip="Deviation of the Gaussian blur, in latent pixels.")
    threshold: float = number(1.0, 0.0, 100.0, tip="Blur what gets more than so many even shares of attention.")
    where: Where = acts("middle", kind="self")

    def check(self) -> None:
        """Refuse a blur or threshold that is none."""
        if not 0.0 < self.blur < math.inf:
            raise Refused(f"blur is {self.blur}; give a number above 0", "blur")
        if not self.threshold >= 0.0:
            raise Refused(f"threshold is {self.threshold}; give a number from 0", "threshold")

    @property
    def reads_latent(self) -> bool:
        """Return that it blurs the latent."""
        return True

    @property
    def slot(self) -> str:
        """Return the place of the extra prediction."""
        return POST_CFG

    @property
    def pictured(self) -> bool:
        """Return that it blurs parts of a picture."""
        return True

    @property
    def label(self) -> str:
        """Describe the guidance."""
        return f"self-attention guidance {self.scale:g} blur {self.blur:g} threshold {self.threshold:g}"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return what notes the attention, and the pass after the guidance of the prompts."""
        return [Wrap("attn1", gate, self.note, self.deaf, listens=True), AfterCfg(gate, DegradedPass(self, host))]

    def deaf(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return whether the attention is none of the image's own."""
        return "" if site.extra or site.over_time else None

    def note(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Note where self-attention looks, for cond and uncond in each block; the attention stays as it is."""
        grid = site.key_grid  # further keys, as those of a reference, stand behind
        # cond and uncond can come in separate calls; in one call only the uncond is needed
        for part in (UNCOND,) if site.rows(UNCOND) else (COND,):
            for some in site.rows(part):
                shares = site.lasting(partial(looked_at, q[some], with_beside(k, site.beside)[some]))
                own = shares[:, : site.frames * math.prod(grid)].unflatten(1, (1, site.frames * grid[0], grid[1]))
                site.memory.setdefault(f"maps {part}", {})[site.block] = own
        return inner(q, k, v)


def looked_at(q: Tensor, k: Tensor) -> Tensor:
    """Return how much attention each key gets, in even shares: (b, m) of mean 1, for q (b, h, n, d), k (b, h, m, d)."""
    total = q.new_zeros(q.shape[0], k.shape[2], dtype=torch.float32)
    for scores in sliced_scores(q, k):
        total += scores.softmax(-1).sum(dim=(1, 2))
    return total * (k.shape[2] / (q.shape[1] * q.shape[2]))


def degraded(x: Tensor, maps: list[Tensor], blur: float, threshold: float) -> Tensor:
    """Blur a latent (b, c, h, w) where the mean of the maps (b, 1, h', w') is above the threshold.

    The frames of a video (b, c, t, h, w) follow one another in the height of the maps.
    """
    if x.ndim == 5:
        frames = x.transpose(1, 2).flatten(0, 1)
        maps = [one.unflatten(2, (-1, one.shape[2] // x.shape[2])).movedim(2, 1).flatten(0, 1) for one in maps]
        worse: Tensor = degraded(frames, maps, blur, threshold).unflatten(0, (len(x), -1))
        return worse.transpose(1, 2)
    size = x.shape[-2:]
    scaled = torch.stack([F.interpolate(one.to(x), size=size, mode="nearest") for one in maps])
    mask = (scaled.mean(0) > threshold).to(x)  # (b, 1, h, w)
    smooth = blurred(x.flatten(2).transpose(1, 2), (size[0], size[1]), blur).transpose(1, 2).view_as(x)
    return smooth * mask + x * (1.0 - mask)


@dataclass(frozen=True)
class DegradedPass:
    """The extra prediction of the degraded image, and the push away from it."""

    method: SelfAttentionGuidance
    host: Host

    def __call__(self, gate: Gate, args: CfgArgs) -> Tensor:
        options = args["model_options"].get("transformer_options", {})
        scale, memory = self.method.scale * scale_now(gate, args), gate.memory(options)
        negative = args["uncond"] is not None and f"maps {UNCOND}" in memory
        maps = memory.get(f"maps {UNCOND if negative else COND}", {})
        memory.clear()  # the maps are those of this step
        denoised = args["denoised"]
        if scale == 0.0 or not maps:
            return denoised
        # where the guider names nothing, the layers know the side by the place in the list
        conds = [None, args["uncond"]] if negative else [args["cond"]]
        x0 = args["uncond_denoised"] if negative else args["cond_denoised"]
        worse = degraded(x0, list(maps.values()), self.method.blur, self.method.threshold)
        noised = worse + args["input"] - x0  # the same noise on the degraded image
        extra = {**args["model_options"], "transformer_options": {**options, EXTRA: True}}
        again = self.host.predict(args["model"], conds, noised, args["sigma"], extra)[-1]
        return denoised + scale * (worse - again)
