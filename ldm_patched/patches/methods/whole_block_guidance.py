"""Guidance away from skipped blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..addressing.schedule import Schedule
from ..addressing.where import Where
from ..engine.declaration import acts, method, number
from ..engine.gate import Gate
from ..engine.guidance import WeakPass
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import AfterCfg, Place
from ..patcher import Patcher
from .perturbed_guidance import AWAY
from .whole_block_skip import WholeBlockSkip


@method()
class WholeBlockGuidance(Method):
    """Guide away from what the model makes without some blocks, as known from Stable Diffusion 3.5.

    `scale` times the curve of the schedule is how far; the blocks are left out wholly. 0 changes nothing, to the bit.
    """

    scale: float = number(3.0, -100.0, 100.0, step=0.1, tip=AWAY)
    where: Where = acts("middle", kind="block")

    @property
    def slot(self) -> str:
        """Name its place."""
        return "sampler_post_cfg_function"

    @property
    def label(self) -> str:
        """Describe the guidance."""
        return f"skip-block guidance {self.scale:g}"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return the extra prediction without the blocks."""
        always = replace(gate, entry=replace(gate.entry, schedule=Schedule()))
        skips = tuple(WholeBlockSkip(1.0, self.where).places(always, host, model))
        return [AfterCfg(gate, WeakPass(self.scale, skips, host))]
