"""Where a region lies in what a layer gives: on the tokens of the picture, and on those of the region's own prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..addressing.address import BlockId
from ..addressing.families import IMAGE, REFERENCE, TEXT
from ..engine.gate import Gate, curve_weight
from ..engine.listed import LISTED
from ..engine.prompts import MorePrompts, tokens_in
from ..engine.rows import ROWS, Columns, Rows
from ..engine.sides import COND
from ..engine.site import Site
from ..engine.stack import CONTEXT
from ..engine.tokens import LATENT, TOKENS, Tokens
from ..patcher import TransformerOptions

# In paths of layers that get the text alone, where it has as many tokens as the picture
TEXT_NAMES = ("txt", "text", "context", "cap_", "caption", "add_", "encoder")
FILLED = (1, 32, 64, 128, 256)  # multiples to which models fill a text up


class Shares(Protocol):
    """What tells the share (b, n) of each region at each token of a picture."""

    def __call__(self, site: Site, device: torch.device) -> Mapping[int, Tensor]: ...


def picture_mask(site: Site, region: int, positive: bool, shares: Shares, device: torch.device) -> Tensor | None:
    """Return the mask (b, n) of a region on the picture of a site, perhaps of the positive rows alone; None: none."""
    share = shares(site, device).get(region)
    if share is None or not positive:
        return share
    rows = torch.zeros(len(share), 1, device=share.device)
    for some in site.rows(COND):
        rows[some] = 1.0
    return share * rows if rows.any() else None


# UNets


def unet_site(gate: Gate, curve: float, options: TransformerOptions, out: Tensor) -> Site | None:
    """Return the site of a picture that a layer of a UNet gives, (b, n, c) or (b, c, h, w); None for no picture."""
    size = grid_of(out, options)
    if size is None:
        return None
    options = {**options, "activations_shape": [len(out), 0, *size]}
    return Site(options, "self", len(out), size[0] * size[1], gate, curve, curve * gate.strength)


def grid_of(out: Tensor, options: TransformerOptions) -> tuple[int, int] | None:
    """Return height and width of a picture of one of the levels, each of half the pixels before it, rounded up."""
    rows, _, *size = options[LATENT]
    if len(out) != rows or len(size) != 2:
        return None
    height, width = size
    while True:
        if (height, width) == out.shape[2:] or (out.ndim == 3 and height * width == out.shape[1]):
            return height, width
        if height == width == 1:
            return None
        height, width = -(-height // 2), -(-width // 2)


def appended_columns(options: TransformerOptions, gate: Gate, block: BlockId, region: int, total: int) -> slice | None:
    """Return where the prompt of a region stands in the text that a block of a UNet gets: what came last, last."""
    behind = 0
    for one in reversed(options.get(LISTED, {}).get("attn2_patch", ())):
        if not isinstance(one, MorePrompts) or block not in one.gate.blocks:
            continue
        if curve_weight(one.gate.entry.schedule, options) == 0.0:
            continue
        lengths = [tokens_in(prompt).shape[1] for prompt in one.prompts]
        if one.gate.entry.number == gate.entry.number:
            start = total - behind - sum(lengths[region:])
            return slice(start, start + lengths[region])
        behind += sum(lengths)
    return None


# Transformers


@dataclass(frozen=True)
class Sequence:
    """A sequence that a layer of a transformer gives: so many tokens, in a call, at a path, inside a block or not."""

    options: TransformerOptions
    total: int
    path: str
    inside: bool

    @property
    def further(self) -> Rows | Columns | None:
        """Return the further prompts of the call."""
        found: Rows | Columns | None = self.options.get(ROWS)
        return found

    @property
    def parts(self) -> dict[str, slice] | None:
        """Return where picture and text lie in it; None where it holds neither."""
        tokens: Tokens = self.options[TOKENS]
        image, behind, order = tokens.image, tokens.references, tokens.family.order
        text = self._is_text(self.total)
        if text and names_text(self.path):
            return {TEXT: slice(0, self.total)}
        if self.total in (image, image + tokens.padding):
            return {IMAGE: slice(0, image)}
        if behind and self.total == image + behind:
            first = REFERENCE in order and order.index(REFERENCE) < order.index(IMAGE)
            return {IMAGE: slice(behind, behind + image) if first else slice(0, image)}
        if text:
            return {TEXT: slice(0, self.total)}
        parts = tokens.parts(self.total)
        return parts if parts is None or self.inside or self._is_text(_length(parts[TEXT])) else None

    def _is_text(self, tokens: int) -> bool:
        """Return whether the text of the call has so many tokens, filled up perhaps."""
        context: Tensor | None = self.options.get(CONTEXT)
        own = self.further.tokens if self.further is not None else 0 if context is None else context.shape[1]
        return tokens in {-(-own // some) * some for some in FILLED}


def names_text(path: str) -> bool:
    """Return whether the path of a layer says that it gets the text alone."""
    return any(name in path for name in TEXT_NAMES)


def _length(part: slice) -> int:
    length: int = part.stop - part.start
    return length


def sequence_mask(sequence: Sequence, gate: Gate, region: int, picture: Tensor | None, out: Tensor) -> Tensor | None:
    """Return the mask (b, n) of a region on a sequence (b, n, c), for its mask (b, m) on the picture of its rows.

    Further rows have the picture of the rows they belong to, and those of the region's prompt its text.
    """
    parts, further = sequence.parts, sequence.further
    if parts is None:
        return None
    mask = torch.zeros(out.shape[:2], device=out.device)
    if IMAGE in parts and picture is not None:
        mask[:, parts[IMAGE]] = further.more(picture) if isinstance(further, Rows) else picture
    if TEXT in parts and further is not None:
        mine = [place for place, (number, _) in enumerate(further.prompts) if number == gate.entry.number]
        if isinstance(further, Rows) and mine:
            further.of_prompt(mask, mine[region])[:, parts[TEXT]] = 1.0
        elif isinstance(further, Columns) and mine and IMAGE not in parts:
            mask[:, further.at(mine[region])] = 1.0
    return mask
