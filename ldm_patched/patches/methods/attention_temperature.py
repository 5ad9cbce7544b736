"""The scale of attention's scores: a temperature, and one that fits the size of the image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

from torch import Tensor

from ..addressing.where import Where
from ..engine.declaration import Refused, acts, method, number, whole
from ..engine.gate import Gate
from ..engine.host import Host
from ..engine.method import SLOTS, Method
from ..engine.place import Place, Wrap
from ..engine.site import Site
from ..engine.stack import Inner
from ..engine.tokens import LATENT, TOKENS
from ..patcher import Patcher, TransformerOptions

PIXELS = 8  # of the image in one latent pixel
TRAINED = (
    "{} in pixels that the model was trained on (512 for SD1, 1024 for SDXL), to fit self-attention to pictures of "
    "another size; 0 leaves that out."
)


@method(
    node="PatchbayAttentionTemperature",
    title="Attention Temperature",
    text="Sharpen or flatten attention by a constant temperature, and keep its entropy in pictures larger or smaller "
    "than the model was trained on.",
    aliases=(
        "UNet temperature",
        "attention scale",
        "softmax temperature",
        "entropy scaling",
        "high resolution",
        "sharpen attention",
    ),
    gives="with this temperature",
)
class AttentionTemperature(Method):
    """Scale the scores of attention.

    They are divided by `temperature`: above 1 attention spreads wider, below 1 it sharpens. In self-attention they are
    also multiplied by sqrt(log N / log T) for N keys now and T tokens in an image of the trained size in pixels, which
    keeps the entropy of attention what it was in training (Jin et al. 2023, arXiv 2306.08645); 0x0 leaves that out.
    The text has the same number of tokens in every image, so cross-attention has the temperature only.

    The curve of the schedule blends both factors from 1. Temperature 1 without a trained size changes nothing, to the
    bit.
    """

    temperature: float = number(
        0.9,
        0.05,
        20.0,
        tip="Scores are divided by it: below 1 sharper attention, above 1 flatter; 1 changes nothing.",
    )
    trained_width: int = whole(0, 0, 16384, step=8, tip=TRAINED.format("Width"))
    trained_height: int = whole(0, 0, 16384, step=8, tip=TRAINED.format("Height"))
    where: Where = acts(
        kinds=("all", "self", "cross"),
        kind_default="self",
        kind_tip="Self-attention (attn1), cross-attention to the text (attn2), or both. The trained size is for "
        "self-attention alone.",
    )

    def check(self) -> None:
        """Refuse a temperature or a size that is none."""
        if not (math.isfinite(self.temperature) and self.temperature > 0.0):
            raise Refused(
                f"temperature is {self.temperature}; give a finite number above 0, 1 for no change", "temperature"
            )
        sides = (self.trained_width, self.trained_height)
        if sides != (0, 0) and min(sides) < PIXELS:
            text = (
                f"the trained size is {sides[0]}x{sides[1]}; give both sides in pixels, such as 512 and 512, or 0 and 0"
            )
            order = ("trained_width", "trained_height") if sides[0] < PIXELS else ("trained_height", "trained_width")
            raise Refused(text, *order)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of attention that it changes."""
        changes = {"self": self.temperature != 1.0 or self.trained_width > 0, "cross": self.temperature != 1.0}
        return tuple(kind for kind in SLOTS if changes[kind] and self.address.kind in ("all", kind))

    @property
    def kind(self) -> str:
        """Return `self`, `cross` or `all`."""
        return self.kinds[0] if len(self.kinds) == 1 else self.address.kind

    @property
    def slot(self) -> str:
        """Return the slots."""
        return " and ".join(SLOTS[kind] for kind in self.kinds)

    @property
    def neutral(self) -> bool:
        """Return whether it can never change anything."""
        return not self.kinds

    @property
    def label(self) -> str:
        """Describe it."""
        sized = f" trained at {self.trained_width}x{self.trained_height}" if self.trained_width else ""
        return f"temperature {self.temperature:g}{sized}"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return a layer for each kind of attention."""
        return [Wrap(SLOTS[kind], gate, partial(self.scale, sized=kind == "self")) for kind in self.kinds]

    def scale(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner, sized: bool) -> Tensor:
        """Attend with scaled queries."""
        fitted = 1.0
        if sized and self.trained_width and not site.over_time:
            fitted = entropy_scale(k.shape[2], trained_tokens(site.options, self.trained_width, self.trained_height))
        if site.beside and not sized:  # joint attention: the text's columns alone
            above = 1.0 if "self" in self.kinds else 1.0 + (self.temperature - 1.0) * site.weight
            return inner(q, k / above, v)
        factor = 1.0 + (fitted - 1.0) * site.weight
        return inner(q * (factor / (1.0 + (self.temperature - 1.0) * site.weight)), k, v)


def entropy_scale(tokens: int, trained: float) -> float:
    """Return sqrt(log_T N) for N tokens and T in training; 1 where one of them is a single token."""
    return math.sqrt(math.log(tokens) / math.log(trained)) if tokens > 1 and trained > 1 else 1.0


def trained_tokens(options: TransformerOptions, width: int, height: int) -> float:
    """Return how many tokens the current block has in an image of this size in pixels."""
    block = options[TOKENS].grid if TOKENS in options else options["activations_shape"]
    latent = options[LATENT] if TOKENS in options else options["original_shape"]
    tokens: float = height * block[-2] / (PIXELS * latent[-2]) * (width * block[-1] / (PIXELS * latent[-1]))
    return tokens
