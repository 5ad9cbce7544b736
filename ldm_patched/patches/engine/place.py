"""Where a method enters a model: each place is put on a clone, on its own options or by the patcher's methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..patcher import CfgArgs, Patch, Patcher, TransformerOptions
from ..record.plan import KEY
from .block_forward import BLOCK, Gain
from .call import APPLY_MODEL
from .gate import Gate
from .hold import HOLDS, Hold, holds_of
from .host import Host
from .listed import with_listed
from .site import Site
from .stack import ATTEND, KINDS, Act, Layer, with_layer

POST_CFG = "sampler_post_cfg_function"  # ComfyUI's name of the place


class Place(Protocol):
    """One thing to put on a clone."""

    def put(self, clone: Patcher, host: Host) -> None: ...


@dataclass(frozen=True)
class InOptions:
    """A place in the options of a model, or of one call of it."""

    def into(self, options: TransformerOptions) -> TransformerOptions:
        """Return the options with it."""
        raise NotImplementedError

    def put(self, clone: Patcher, host: Host) -> None:
        """Put it into the options of a clone."""
        clone.model_options["transformer_options"] = self.into(clone.model_options["transformer_options"])


@dataclass(frozen=True)
class Wrap(InOptions):
    """A layer around the attention of the gate's blocks; `slot` is attn1 or attn2. See Layer for the rest."""

    slot: str
    gate: Gate
    act: Act
    idle: Callable[[Site, Tensor, Tensor], str | None] | None = None
    counted: bool = True
    piecemeal: bool = False
    listens: bool = False

    def into(self, options: TransformerOptions) -> TransformerOptions:
        """Return the options with the layer on top of those of its blocks."""
        return with_layer(
            options, self.slot, Layer(self.gate, self.act, self.idle, self.counted, self.piecemeal, self.listens)
        )

    def put(self, clone: Patcher, host: Host) -> None:
        """Put the layer into the options of a clone, with the attention that its stack shall call."""
        super().put(clone, host)
        clone.model_options["transformer_options"][ATTEND] = host.attend


@dataclass(frozen=True)
class Scale(InOptions):
    """A factor of what the gate's blocks of a transformer add to their input, by its weight; 0 leaves them out."""

    gate: Gate
    factor: Callable[[float], float]

    def into(self, options: TransformerOptions) -> TransformerOptions:
        """Return the options with the gain of the blocks."""
        return with_layer(options, BLOCK, Gain(self.gate, self.factor))


@dataclass(frozen=True)
class Around(InOptions):
    """A gate around patches of others, which stay where they are."""

    hold: Hold

    def into(self, options: TransformerOptions) -> TransformerOptions:
        """Return the options with the hold behind those of earlier nodes."""
        return {**options, HOLDS: (*holds_of(options), self.hold)}

    def put(self, clone: Patcher, host: Host) -> None:
        """Put it into the options of a clone, with the attention that runs where a replaced one is held back."""
        super().put(clone, host)
        clone.model_options["transformer_options"][ATTEND] = host.attend


@dataclass(frozen=True)
class Listed(InOptions):
    """A function in a list of `patches`, such as attn2_patch, attn1_output_patch or output_block_patch."""

    slot: str
    patch: Patch

    def into(self, options: TransformerOptions) -> TransformerOptions:
        """Return the options with the function behind those of its list."""
        return with_listed(options, self.slot, self.patch)


@dataclass(frozen=True)
class AfterCfg:
    """A function of the combined prediction; one that is not `counted` only shows something, and is no patch."""

    gate: Gate
    act: Callable[[Gate, CfgArgs], Tensor]
    counted: bool = True

    def __call__(self, args: CfgArgs) -> Tensor:
        return self.act(self.gate, args)

    def put(self, clone: Patcher, host: Host) -> None:
        """Append the function."""
        clone.set_model_sampler_post_cfg_function(self)


@dataclass(frozen=True)
class WrapModel:
    """A wrapper around each call of the model: `(gate, executor, x, t, ..., options, **kwargs)`, in nodes' order."""

    gate: Gate
    act: Callable[..., Tensor]

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.act(self.gate, *args, **kwargs)

    def put(self, clone: Patcher, host: Host) -> None:
        """Add the wrapper under a key of its own, as the next `attach` takes off those that have the library's."""
        clone.add_wrapper_with_key(APPLY_MODEL, f"{KEY} {self.gate.entry.number}", self)


# What stands in the lists of a UNet's patches, each as the UNet calls it


@dataclass(frozen=True)
class Listing:
    """A function of a method, called in the gate's blocks and window with a site.

    `always`: it is called outside of the window too, with a weight of 0, as it has to remember something.
    """

    gate: Gate
    act: Callable[..., Any]
    always: bool = False
    counted: bool = True

    def __call__(self, *args: Any) -> Any:
        """Take the call of the UNet."""
        raise NotImplementedError

    def site(self, options: TransformerOptions, x: Tensor, kind: str) -> Site | None:
        """Return the site of a call for x, (b, n, c) or (b, c, h, w); None where there is nothing to do."""
        curve = self.gate.weight(options)
        if curve == 0.0 and not self.always:
            return None
        if curve and self.counted:
            self.gate.count(options)
        tokens = x.shape[1] if x.ndim == 3 else x.shape[-2] * x.shape[-1]
        return Site(options, kind, len(x), tokens, self.gate, curve, curve * self.gate.strength)


@dataclass(frozen=True)
class TokensIn(Listing):
    """In attn1_patch and attn2_patch: changes what queries (`q`), keys or values are projected from, (b, n, c)."""

    part: str = "q"
    slot: str = "attn1"

    def __call__(
        self, n: Tensor, context: Tensor | None, value: Tensor | None, extra_options: TransformerOptions
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        # the three can be one tensor, or left out: each is given by itself so that only the slot's own changes
        keys = n if context is None else context
        values = keys if value is None else value
        x = {"q": n, "k": keys, "v": values}[self.part]
        site = self.site(extra_options, x, KINDS[self.slot])
        if site is None:
            return n, context, value
        x = self.act(site, x)
        if self.part != "q" and site.run is not None:
            site.run.steered[self.slot, site.block].add(self.gate.entry.number)
        return x if self.part == "q" else n, x if self.part == "k" else keys, x if self.part == "v" else values


@dataclass(frozen=True)
class TokensOut(Listing):
    """In attn1_output_patch, attn2_output_patch and middle_patch: changes tokens (b, n, c)."""

    def __call__(self, n: Tensor, extra_options: TransformerOptions) -> Tensor:
        site = self.site(extra_options, n, "all")
        return n if site is None else self.act(site, n)


@dataclass(frozen=True)
class BlockOut(Listing):
    """In input_block_patch and input_block_patch_after_skip: changes what a block hands on, (b, c, h, w)."""

    def __call__(self, h: Tensor, transformer_options: TransformerOptions) -> Tensor:
        site = self.site(transformer_options, h, "block")
        return h if site is None else self.act(site, h)


@dataclass(frozen=True)
class MiddleOut(BlockOut):
    """In middle_block_after_patch, which gets and gives a dict."""

    def __call__(self, args: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        return {**args, "h": super().__call__(args["h"], args["transformer_options"])}


@dataclass(frozen=True)
class BlockIn(Listing):
    """In output_block_patch: changes the backbone and the skip connection that an output block gets, (b, c, h, w).

    `counts` are the only numbers of channels that it is for; none: all.
    """

    counts: tuple[int, ...] = ()

    def __call__(self, h: Tensor, hsp: Tensor, transformer_options: TransformerOptions) -> tuple[Tensor, Tensor]:
        mine = not self.counts or h.shape[1] in self.counts
        site = self.site(transformer_options, h, "block") if mine else None
        if site is None:
            return h, hsp
        pair: tuple[Tensor, Tensor] = self.act(site, h, hsp)
        return pair
