"""Words that act only where another word of the prompt draws, as the run itself finds out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..addressing.frames import parse_frames
from ..addressing.where import Where
from ..engine.declaration import Widget, acts, amount, hidden, method, words
from ..engine.gate import Gate
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import Place
from ..engine.site import Site
from ..engine.stack import Inner
from ..patcher import Patcher
from .live_mask import AGAINST, SETTINGS, SOURCE, LiveMask, check_word, placed, stage
from .live_shown import displays
from .word_mask import FRAMES, limited, timed, told
from .words import check_positions, named, positions_of


@method(
    node="PatchbayLiveWordMask",
    title="Word Mask by Word",
    text="Let words of the prompt act only where another word draws: that word's own attention in the first steps of "
    "the run becomes the mask. No mask to draw, and no second run.",
    aliases=("auto mask", "attention mask", "color bleeding", "mask from word", "bind color to object", "live mask"),
    gives="with this limit",
    asks=(
        *SOURCE,
        Widget("words", "STRING", "The words that shall stay there, parted by commas.", settings=(("default", ""),)),
        *SETTINGS,
        AGAINST,
    ),
    shows=True,
)
class LiveWordMask(Method):
    """Let only the part of the image where a word draws attend to some other words.

    `positions` are those of the other words, `texts`, in the prompt of `length` tokens. Before `mask` is there, and in
    pictures where it is empty, nothing changes; then it is Word Mask with it.
    """

    positions: tuple[int, ...] = hidden(blank=())
    mask: LiveMask = hidden()
    length: int = hidden(77)
    strength: float = amount(effect="the limit is applied")
    where: Where = acts(kind="cross")
    frames: str = words("", optional=True, tip=FRAMES)
    texts: tuple[str, ...] = hidden((), compare=False)

    @classmethod
    def made(cls, asked: Mapping[str, Any], fields: dict[str, Any]) -> LiveWordMask:
        """Find the words in the prompt."""
        live = {"mask": LiveMask.asked(asked)} if asked else {}
        return cls(**fields | positions_of(asked) | live)

    @classmethod
    def check_asked(cls, asked: Mapping[str, Any]) -> None:
        """Refuse wrong settings of the mask, and no words."""
        LiveMask.check_settings(asked)
        check_word("word", asked["word"])
        check_word("words", asked["words"])

    def check(self) -> None:
        """Refuse frames that cannot be read, and positions outside the prompt."""
        parse_frames(self.frames)
        check_positions(self.positions, self.length)

    @property
    def neutral(self) -> bool:
        """Return whether the method can never change anything."""
        return self.strength == 0.0 or not self.positions

    @property
    def needs(self) -> tuple[Method, ...]:
        """Return the mask, which gathers for itself."""
        return (self.mask,)

    @property
    def pictured(self) -> bool:
        """Return that a mask lies on a picture."""
        return True

    @property
    def label(self) -> str:
        """Describe the method."""
        those = named(self.texts, self.positions)
        return f"words {those} where {self.mask.word} draws{told(self.frames)}{self.times}"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return the layer, and what shows the mask in the node."""
        yield from super().places(gate, host, model)
        yield from displays((self.mask,), gate, host)

    def idle(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return whether the call is not for the positive prompt, or there is no mask yet."""
        return "" if site.swapped or not site.rows() else self.mask.lacking(site)

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend with the words and without them."""
        return limited(self.outside(site, q.device), self.positions, self.length, site, (q, k, v), inner)

    def outside(self, site: Site, device: torch.device) -> Tensor:
        """Return what of each token (b, 1, n, 1) lies outside the mask; made once for each mask and grid."""

        def make() -> Tensor:
            mask = placed(self.mask, site, device)
            return ((1.0 - timed(mask, self.frames, site)) * (mask > 0.0).any(-1, keepdim=True))[:, None, :, None]

        return site.once(f"outside {site.layout} {device} {stage((self.mask,), site)}", make)
