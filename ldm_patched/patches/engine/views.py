"""The attention call of a transformer, through its override, as methods see it: (b, heads, n, dim_head).

Where text and image attend together, a layer of attn1 sees the image's keys and values, one of attn2 the text's, and
both the image's queries; what they hand on is put back in its place. So a method acts on what the image gets: text and
references attend as they did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...ldm.modules.backends.shapes import from_heads, to_bias
from ..addressing.address import BlockId
from ..addressing.families import IMAGE, TEXT
from ..patcher import TransformerOptions
from ..record.run import AttentionId, run_of
from .given import Attend, Given, given
from .positions import positions_of
from .rows import ROWS, Columns, Rows, without_rows
from .site import Beside, Site
from .stack import CONTEXT, KINDS, LAYERS, Layer
from .text_view import TextView
from .tokens import TOKENS, Tokens

PARTS = {"attn1": IMAGE, "attn2": TEXT}  # the part of a joint sequence whose keys a slot has
Keys = dict[str, tuple[Tensor, Tensor]]  # keys and values (b, h, n, d) of each part


@dataclass(frozen=True)
class View:
    """One call, its layers from the innermost, and where the parts of its keys lie.

    `call` has the call's own rows and columns; `whole` has those of further prompts behind them, which `further` tells.
    """

    call: Given
    layers: tuple[tuple[str, Layer], ...]
    sequence: dict[str, slice]
    options: TransformerOptions
    whole: Given
    further: Rows | Columns | None = None

    @property
    def parts(self) -> dict[str, slice]:
        """Return where the parts lie, without what the call's own text was filled up with."""
        return self.further.text(self.sequence, self.further.own) if isinstance(self.further, Rows) else self.sequence

    def out(self, attend: Attend) -> Tensor:
        """Return the result in the layout that was asked for."""
        out = self._own(attend)
        if isinstance(self.further, Rows):
            out = torch.cat([out, *self._rows(attend, out, self.further)])
        return from_heads(out, self.whole.split)

    @property
    def tokens(self) -> Tokens:
        """Return what the model made tokens of."""
        tokens: Tokens = self.options[TOKENS]
        return tokens

    @property
    def _joint(self) -> bool:
        return len(self.parts) > 1

    def _own(self, attend: Attend) -> Tensor:
        call = self.call
        if self.further is None and all(layer.listens for _, layer in self.layers):
            # as it came: a call in two parts is rounded in another way
            out = attend(call.q, call.k, call.v, call.mask)
            self._image(lambda *_: out[:, :, self.parts[IMAGE]] if self._joint else out)
            return out
        image = self._image(attend)
        return self._around(attend, image, call, self.parts) if self._joint else image

    def _image(self, attend: Attend) -> Tensor:
        """Return what the layers make of the image's attention, or of all of a call that has no text in it."""
        call = self.call
        keys = {name: (call.k[:, :, part], call.v[:, :, part]) for name, part in self.parts.items()}
        own = keys[TEXT][0].shape[2] if TEXT in keys else None
        if self.further is not None and TEXT in keys:
            keys[TEXT] = self._with_further(keys[TEXT], self.further)
        queries = call.q[:, :, self.parts[IMAGE]] if self._joint else call.q
        return self._run(attend, len(self.layers), self._sites(queries, own), queries, keys)

    def _around(self, attend: Attend, image: Tensor, call: Given, parts: dict[str, slice]) -> Tensor:
        """Return the whole sequence: the image's result, and what the model makes of the text and the rest."""
        place = parts[IMAGE]
        rest = torch.cat([call.q[:, :, : place.start], call.q[:, :, place.stop :]], dim=2)
        k, v, mask = call.k, call.v, call.mask
        if sum(part.stop - part.start for part in parts.values()) < k.shape[2]:
            k, v = (torch.cat([x[:, :, part] for part in parts.values()], dim=2) for x in (k, v))
            mask = None if mask is None else torch.cat([mask[..., part] for part in parts.values()], dim=-1)
        out = attend(rest, k, v, mask)
        return torch.cat([out[:, :, : place.start], image, out[:, :, place.start :]], dim=2)

    def _with_further(self, own: tuple[Tensor, Tensor], further: Rows | Columns) -> tuple[Tensor, Tensor]:
        """Return the text's keys and values with those of the prompts behind them whose layers are open."""
        is_open = {layer.gate.entry.number for _, layer in self.layers}
        places = [place for place, (number, _) in enumerate(further.prompts) if number in is_open]
        k, v = (
            torch.cat([x, *(further.beside(whole, place, self.sequence) for place in places)], dim=2)
            for x, whole in zip(own, (self.whole.k, self.whole.v), strict=True)
        )
        return k, v

    def _appended(self, further: Rows | Columns) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for (number, _), length in zip(further.prompts, further.lengths(self.sequence), strict=True):
            found.setdefault(number, []).append(length)
        return found

    def _rows(self, attend: Attend, own: Tensor, rows: Rows) -> Iterator[Tensor]:
        """Yield the rows of each further prompt: the image of its positive rows, and its text by itself."""
        same = rows.of_positive(own)
        for place, (_, length) in enumerate(rows.prompts):
            if not self._joint:
                yield same
                continue
            call = self.whole.of(partial(rows.of_prompt, place=place))
            yield self._around(attend, same[:, :, self.parts[IMAGE]], call, rows.text(self.sequence, length))

    def _sites(self, q: Tensor, text: int | None) -> dict[str, Site]:
        given = self.further.given if isinstance(self.further, Rows) else {}
        options = {**self.options, **given, "n_heads": self.call.heads}
        sites = {slot: Site(options, kind, len(q), q.shape[2]) for slot, kind in KINDS.items()}
        if IMAGE in self.parts and self.tokens.family.rotary:
            found = positions_of(self.options, self.tokens.family, self.call.q.shape[2])
            for slot in sites:
                part = self.parts.get(PARTS[slot], slice(0))
                sites[slot] = sites[slot].but(positioned=True, positions=None if found is None else found.of(part))
        if self.further is not None and TEXT in self.parts:
            sites["attn2"] = sites["attn2"].but(length=text, appended=self._appended(self.further))
        return sites

    def _run(self, attend: Attend, depth: int, sites: dict[str, Site], q: Tensor, keys: Keys) -> Tensor:
        if not depth:
            return self._attended(attend, sites, q, keys)
        slot, layer = self.layers[depth - 1]
        part = PARTS[slot]
        here, (own_k, own_v) = sites[slot], keys[part]

        def inner(new_q: Tensor, k: Tensor, v: Tensor, site: Site = here) -> Tensor:
            site = layer.below(site, (q, own_k), (new_q, k))
            names = ("piece", "cut", "batch", "tokens", "changed_by", "swapped")
            shared = {name: getattr(site, name) for name in names}
            below = {other: one.but(**shared) for other, one in sites.items()}
            others = {name: _repeated(pair, len(new_q)) for name, pair in keys.items()}
            return self._run(attend, depth - 1, {**below, slot: site}, new_q, {**others, part: (k, v)})

        beside = tuple(self._beside(name, pair, sites["attn2"]) for name, pair in keys.items() if name != part)
        bias = self._beside(part, (own_k, own_v), sites["attn2"]).bias
        return layer(here.but(bias=bias, beside=beside), q, own_k, own_v, inner)

    def _beside(self, name: str, pair: tuple[Tensor, Tensor], text: Site) -> Beside:
        mask, size = self.call.mask, self.parts[name].stop - self.parts[name].start
        k, v = (x[:, :, : text.length] if name == TEXT else x for x in pair)  # without those of further prompts
        if mask is None or mask.shape[-1] == 1 or k.shape[2] != size or (name == TEXT and text.swapped):
            return Beside(k, v)
        bias = to_bias(mask[..., self.parts[name]], k.dtype)
        return Beside(k, v, bias if len(bias) == 1 else bias.repeat_interleave(len(k) // len(bias), 0))

    def _attended(self, attend: Attend, sites: dict[str, Site], q: Tensor, keys: Keys) -> Tensor:
        k, v = (torch.cat([pair[i] for pair in keys.values()], dim=2) for i in (0, 1))
        return attend(q, k, v, self._mask(sites, len(q), keys))

    def _mask(self, sites: dict[str, Site], rows: int, keys: Keys) -> Tensor | None:
        mask = self.call.mask
        if mask is None:
            return None
        found = []
        for name, (k, _) in keys.items():
            some, site = mask[..., self.parts[name]], sites["attn1" if name == IMAGE else "attn2"]
            if some.shape[-1] != k.shape[2] or (name == TEXT and site.swapped):
                some = _for_fewer(some, k.shape[2], site)
            found.append(some.repeat_interleave(rows // len(some), 0) if len(some) > 1 else some)
        return torch.cat(found, dim=-1)


def _repeated(pair: tuple[Tensor, Tensor], rows: int) -> tuple[Tensor, Tensor]:
    """Return keys and values for more rows: the tiles of an image follow one another in the batch."""
    k, v = pair
    if len(k) == rows:
        return pair
    return k.repeat_interleave(rows // len(k), 0), v.repeat_interleave(rows // len(v), 0)


def _for_fewer(mask: Tensor, tokens: int, site: Site) -> Tensor:
    """Return the columns of a mask (b, h, 1, n) for keys of which a layer left some out, or put others there."""
    left = site.kept(mask.shape[-1])
    if len(left) == tokens and not site.swapped:
        return mask[..., left]
    return torch.full_like(mask[..., :1], mask.dtype is torch.bool).expand(*mask.shape[:3], tokens)


def view(
    options: TransformerOptions, attention: AttentionId, args: tuple[Any, ...], kwargs: Any
) -> View | TextView | None:
    """Return a call with the layers open in it; None where there is nothing to do, or nobody knows its tokens."""
    tokens: Tokens | None = options.get(TOKENS)
    if tokens is None:
        return None
    block, kind = attention[0], attention[1] or "cross"
    found, rows = _open_in(block, options), options.get(ROWS)
    if not (found or rows):
        return None
    whole = given(args, kwargs)
    total, keys = whole.q.shape[2], whole.k.shape[2]
    if block is None and isinstance(rows, Rows) and rows.hold((len(whole.q), total, keys)):
        return TextView(whole, rows)
    call, further = _own(whole, rows)
    # whatever happens, a call sees no more of its text than its own
    plain = None if call is whole else View(call, (), {TEXT: slice(0, call.k.shape[2])}, options, call)
    if block is None and (total != tokens.image or keys == total):
        return plain  # outside of the blocks only the image that looks at a text has to be kept the same
    if tokens.family.sound and not tokens.family.order and _of_sound(whole, block, options):
        return plain
    parts = tokens.parts(total) if total == keys and kind == "self" else None
    if parts is None:
        found = [(slot, layer) for slot, layer in found if KINDS[slot] == kind]
        parts = {TEXT if kind == "cross" else IMAGE: slice(0, call.k.shape[2])}
    unknown = _unknown(call, parts, further, options)
    if unknown:
        for _, layer in found:
            layer.gate.skip(options, f"the model attends with {unknown}")
        return plain
    if isinstance(further, Rows):
        call = call.of(lambda x: x[: further.base])
    return View(call, tuple(found), parts, options, whole, further) if found or further else None


def _unknown(call: Given, parts: dict[str, slice], further: Rows | Columns | None, options: TransformerOptions) -> str:
    """Return what a call attends with that nobody knows; nothing where all is known."""
    total, keys = call.q.shape[2], call.k.shape[2]
    if len(parts) == 1 and total != options[TOKENS].image:
        return f"{total} tokens that are not those of the picture alone"
    if len(parts) == 1 and TEXT in parts:
        context: Tensor | None = options.get(CONTEXT)
        text = further.tokens if isinstance(further, Rows) else None if context is None else context.shape[1]
        if text not in (None, keys):
            return f"{keys} keys that are not those of the text"
    return "a mask of its own for each query" if call.mask is not None and call.mask.shape[2] > 1 else ""


def _of_sound(whole: Given, block: BlockId | None, options: TransformerOptions) -> bool:
    """Return whether a call is not that of the block's first attention, the video's, by its heads."""
    run = run_of(options)
    heads = None if run is None or block is None else run.plan.blocks.get(block)
    return heads is not None and heads != (whole.heads, whole.q.shape[-1])


def _open_in(block: BlockId | None, options: TransformerOptions) -> list[tuple[str, Layer]]:
    """Return the open layers of a block with their slots, from the innermost, but those whose prompts are not there.

    Layers of attn1 stand around those of attn2, but where one hands the image on in parts: what acts on the text needs
    all of it.
    """
    slots, lacking = options.get(LAYERS, {}), without_rows(options)
    on_text, on_image = (
        [
            (slot, layer)
            for layer in slots.get(slot, {}).get(block, ())
            if layer.gate.weight(options) and layer.gate.entry.number not in lacking
        ]
        for slot in ("attn2", "attn1")
    )
    inside = max((place + 1 for place, (_, layer) in enumerate(on_image) if layer.piecemeal), default=0)
    return [*on_image[:inside], *on_text, *on_image[inside:]]


def _own(whole: Given, further: Rows | Columns | None) -> tuple[Given, Rows | Columns | None]:
    """Return a call without the columns of further prompts, and what there is of further prompts in it."""
    if not isinstance(further, Columns):
        return whole, further
    if whole.k.shape[2] != further.tokens or whole.q.shape[2] == whole.k.shape[2]:
        return whole, None  # also self-attention to as many tokens: no text is as long as the image
    own, mask = slice(0, further.own), whole.mask
    mask = mask if mask is None or mask.shape[-1] == 1 else mask[..., own]
    return whole._replace(k=whole.k[:, :, own], v=whole.v[:, :, own], mask=mask), further
