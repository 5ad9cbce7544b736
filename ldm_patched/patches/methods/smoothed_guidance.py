"""Smoothed-energy guidance."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from ..addressing.grid import blurred
from ..addressing.where import Where
from ..engine.declaration import Refused, acts, method, number
from ..engine.method import Method
from ..engine.site import Site
from ..engine.stack import Inner, merged, split
from .perturbed_guidance import AWAY


@method(
    node="PatchbaySmoothedGuidance",
    title="Smoothed Energy Guidance",
    text="Guide away from the picture in which the queries of some blocks are blurred: clearer structure with fewer "
    "side effects than perturbed attention. One more model call in each step of the window.",
    aliases=("SEG", "smoothed energy", "blurred attention", "lower cfg"),
    verb="guide",
    gives="with this guidance",
    saved_in=("Guidance", "weakening", "SmoothedEnergy"),
)
class SmoothedGuidance(Method):
    """Guide away from self-attention whose queries are blurred over the image (Hong 2024, arXiv 2408.00760).

    `blur` is the deviation of the Gaussian in tokens; infinity blurs to the mean. A finite blur leaves a video's
    attention over time as it is. `scale` times the curve is how far; 0 changes nothing, to the bit.
    """

    scale: float = number(3.0, -100.0, 100.0, step=0.1, tip=AWAY)
    blur: float = number(
        math.inf,
        0.1,
        1000.0,
        step=0.1,
        unlimited=True,
        saved="sigma",
        tip="Deviation of the Gaussian over the picture's tokens; 1000 takes the mean of all.",
    )
    where: Where = acts("middle", kind="self")

    def check(self) -> None:
        """Refuse a blur that is none."""
        if not self.blur > 0.0:  # also for NaN
            raise Refused(f"blur is {self.blur}; give a number above 0, or inf for the mean over the picture", "blur")

    @property
    def before_positions(self) -> bool:
        """Return that it mixes queries."""
        return True

    @property
    def pictured(self) -> bool:
        """Return whether it looks at neighbours."""
        return not math.isinf(self.blur)

    @property
    def label(self) -> str:
        """Describe the guidance."""
        return f"smoothed-energy {self.blur:g} guidance {self.scale:g}"

    def weak_attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend with blurred queries."""
        if not math.isinf(self.blur) and site.over_time:
            return inner(q, k, v)
        return inner(site.before_positions(q, partial(self.smooth, site)), k, v)

    def smooth(self, site: Site, q: Tensor) -> Tensor:
        """Blur queries (b, h, n, d) over the image."""
        if math.isinf(self.blur):
            return q.mean(dim=2, keepdim=True).expand_as(q)
        grid = site.image_grid
        return split(site.each_frame(merged(q), lambda x: blurred(x, grid, self.blur)), q.shape[1])
