"""What each block does in a run, shown in a node of the page, and when asked how far the patches move its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..addressing.address import AddressError
from ..addressing.blocks import block_modules
from ..addressing.families import family_of
from ..engine.block_forward import CALLED, NETWORK, Forward, copied, outside, place_of_options
from ..engine.gate import Gate
from ..engine.host import Host
from ..engine.listed import LISTED
from ..engine.method import Method
from ..engine.place import AfterCfg, Place
from ..engine.router import SLOT
from ..engine.site import EXTRA
from ..engine.stack import LAYERS
from ..engine.value import value
from ..patcher import CfgArgs, Patcher, TransformerOptions
from ..record.plan import KEY
from ..record.run import Run, run_of

EVERY = 4  # steps, of which the first is measured
PATCHED = (KEY, SLOT, LAYERS, LISTED, "patches", "patches_replace")  # the options that hold patches and who counts them


@value
class BlockWatch(Method):
    """Show in a `node` of the page what the blocks do in each step; changes nothing, and is no part of a preset.

    `change`: each transformer block runs a second time in every fourth step, on the same input without any patch in
    the options of the model. The change is ||with - without|| / ||without|| of what the block hands on.
    """

    change: bool = False
    node: str = ""

    @property
    def slot(self) -> str:
        """Return the override: what it sees are the attentions that take it."""
        return SLOT

    @property
    def neutral(self) -> bool:
        """Return whether there is nothing to measure and nobody to show it to."""
        return not (self.change or self.node)

    @property
    def label(self) -> str:
        """Describe it."""
        return "block map with change" if self.change else "block map"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return what measures the blocks, and what shows each step in the node."""
        if self.change:
            yield Measuring(gate)
        yield AfterCfg(gate, Live(self.node, host.show_blocks))


@dataclass(frozen=True)
class Live:
    """A function behind the guidance that shows in a node what the blocks have done so far; changes nothing."""

    node: str
    show: Callable[[str, int, Run], None]

    def __call__(self, gate: Gate, args: CfgArgs) -> Tensor:
        run = run_of(args["model_options"].get("transformer_options", {}))
        if run is not None:
            for block in gate.blocks:
                run.count_patch(gate.entry.number, block)
            if self.node:
                self.show(self.node, run.last_step, run)
        return args["denoised"]


@dataclass(frozen=True)
class Measuring:
    """What measures the change, in the place of the forward of each block."""

    gate: Gate

    def put(self, clone: Patcher, host: Host) -> None:
        """Put it around what stands there; once for each clone.

        Raises AddressError where nobody knows the model's blocks.
        """
        net, family = clone.model.diffusion_model, family_of(clone)
        paths = {id(module): path for path, module in net.named_modules()}
        blocks = list(block_modules(net, family))
        if not blocks:
            raise AddressError(
                f"measure_change: nobody has written down the blocks of {family.name} models, so that no change of "
                "them can be measured; turn it off"
            )
        for block, module in blocks:
            path = f"{NETWORK}.{paths[id(module)]}.forward"
            forward = clone.get_model_object(path)
            if not isinstance(forward, Measured):
                given = Measured(forward, outside(), block, place_of_options(module), untraced())
                clone.add_object_patch(path, given)


@dataclass(frozen=True)
class Measured(Forward):
    """The forward of a block that runs without patches too, in the steps that are measured."""

    measure: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.measure(self, args, kwargs)

    def without(self, options: TransformerOptions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what the block makes of copies of its input, which it may write into, without patches."""
        bare = {name: given for name, given in options.items() if name not in PATCHED}
        before = CALLED.set(bare)
        try:
            return self.run(bare, copied(args), {name: copied(given) for name, given in kwargs.items()})
        finally:
            CALLED.reset(before)


@cache
def untraced() -> Callable[..., Any]:
    """Return `measured` as no graph of torch.compile traces it."""
    outside: Callable[..., Any] = torch.compiler.disable(measured)
    return outside


def measured(here: Measured, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a block, in some steps also without patches, and note how far the results are apart."""
    options = here.given(args, kwargs)
    run = run_of(options)
    if run is None or EXTRA in options or (run.step(options) - 1) % EVERY:
        return here.forward(*args, **kwargs)
    without = here.without(options, args, kwargs)
    out = here.forward(*args, **kwargs)
    run.count_change(here.block, apart(out, without))
    return out


def apart(out: Any, without: Any) -> float:
    """Return ||out - without|| / ||without|| of all tensors of two results; not finite where `without` is 0."""
    pairs = list(zip(_tensors(out), _tensors(without), strict=True))
    far = torch.stack([(one.float() - other.float()).norm() for one, other in pairs]).norm()
    return float(far / torch.stack([other.float().norm() for _, other in pairs]).norm())


def _tensors(given: Any) -> list[Tensor]:
    return [one for one in (given if isinstance(given, tuple) else (given,)) if isinstance(one, Tensor)]
