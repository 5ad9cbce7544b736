"""The attention call of a transformer, through its override, as methods see it: (b, heads, n, dim_head).

Where text and image attend together, a layer of attn1 sees the image's keys and values, one of attn2 the text's, and
both the image's queries; what they hand on is put back in its place. So a method acts on what the image gets: text and
references attend as they did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ldm.modules.backends.shapes import from_heads, repeat_kv, to_bias, to_heads, to_mask
from ..addressing.families import IMAGE, TEXT
from ..patcher import TransformerOptions
from ..record.run import AttentionId
from .site import Beside, Site
from .stack import CONTEXT, KINDS, LAYERS, Layer
from .tokens import TOKENS, Tokens

NAMES = ("mask", "attn_precision", "skip_reshape", "skip_output_reshape")  # what may stand behind the heads
PARTS = {"attn1": IMAGE, "attn2": TEXT}  # the part of a joint sequence whose keys a slot has
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]  # q, k, v (b, h, n, d) and a mask
Keys = dict[str, tuple[Tensor, Tensor]]  # keys and values (b, h, n, d) of each part


class Given(NamedTuple):
    """The arguments of a call: q, k, v (b, h, n, d), heads, mask (b, h, q, k), and whether the result stays split."""

    q: Tensor
    k: Tensor
    v: Tensor
    heads: int
    mask: Tensor | None
    split: bool
    others: dict[str, Any]


def given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    """Read the arguments of an attention function, in any of its layouts."""
    q, k, v, heads, *rest = args
    others = {**kwargs, **dict(zip(NAMES, rest, strict=False))}
    mask, skip = others.pop("mask", None), others.pop("skip_reshape", False)
    split, gqa = others.pop("skip_output_reshape", False), others.pop("enable_gqa", False)
    q, k, v = to_heads(q, k, v, heads, skip, gqa)
    k, v = repeat_kv(k, v, q.shape[1])
    return Given(q, k, v, heads, None if mask is None else to_mask(mask, q, k.shape[2]), split, others)


@dataclass(frozen=True)
class View:
    """One call, its layers from the innermost, and where the parts of its keys lie."""

    call: Given
    layers: tuple[tuple[str, Layer], ...]
    parts: dict[str, slice]
    options: TransformerOptions

    def out(self, attend: Attend) -> Tensor:
        """Return the result in the layout that was asked for."""
        call, image = self.call, self.parts[IMAGE]
        keys = {name: (call.k[:, :, part], call.v[:, :, part]) for name, part in self.parts.items()}
        queries = call.q[:, :, image] if TEXT in self.parts and self._joint else call.q
        out = self._run(attend, len(self.layers), self._sites(queries), queries, keys)
        if queries is not call.q:
            rest = torch.cat([call.q[:, :, : image.start], call.q[:, :, image.stop :]], dim=2)
            around = attend(rest, call.k, call.v, call.mask)
            out = torch.cat([around[:, :, : image.start], out, around[:, :, image.start :]], dim=2)
        return from_heads(out, call.split)

    @property
    def _joint(self) -> bool:
        return len(self.parts) > 1

    def _sites(self, q: Tensor) -> dict[str, Site]:
        options = {**self.options, "n_heads": self.call.heads}
        return {slot: Site(options, kind, len(q), q.shape[2], positioned=True) for slot, kind in KINDS.items()}

    def _run(self, attend: Attend, depth: int, sites: dict[str, Site], q: Tensor, keys: Keys) -> Tensor:
        if not depth:
            return self._attended(attend, sites, q, keys)
        slot, layer = self.layers[depth - 1]
        part = PARTS[slot] if self._joint else IMAGE
        here, (own_k, own_v) = sites[slot], keys[part]

        def inner(new_q: Tensor, k: Tensor, v: Tensor, site: Site = here) -> Tensor:
            shape = {"batch": new_q.shape[0], "tokens": new_q.shape[2]}
            if (new_q.shape[2], k.shape[2]) != (q.shape[2], own_k.shape[2]):
                site = site.but(changed_by=layer.gate.entry.name)
            below = {other: one.but(piece=site.piece, cut=site.cut, **shape) for other, one in sites.items()}
            others = {name: _repeated(pair, len(new_q)) for name, pair in keys.items()}
            return self._run(attend, depth - 1, {**below, slot: site.but(**shape)}, new_q, {**others, part: (k, v)})

        beside = tuple(self._beside(name, pair) for name, pair in keys.items() if name != part)
        return layer(here.but(beside=beside), q, own_k, own_v, inner)

    def _beside(self, name: str, pair: tuple[Tensor, Tensor]) -> Beside:
        mask, (k, v) = self.call.mask, pair
        if mask is None or mask.shape[-1] == 1 or k.shape[2] != self.parts[name].stop - self.parts[name].start:
            return Beside(k, v)
        return Beside(k, v, to_bias(mask[..., self.parts[name]], k.dtype))

    def _attended(self, attend: Attend, sites: dict[str, Site], q: Tensor, keys: Keys) -> Tensor:
        k, v = (torch.cat([pair[i] for pair in keys.values()], dim=2) for i in (0, 1))
        return attend(q, k, v, self._mask(sites, len(q), keys))

    def _mask(self, sites: dict[str, Site], rows: int, keys: Keys) -> Tensor | None:
        mask = self.call.mask
        if mask is None:
            return None
        found = []
        for name, (k, _) in keys.items():
            some, slot = mask[..., self.parts[name]], "attn1" if name == IMAGE and self._joint else "attn2"
            if some.shape[-1] != k.shape[2]:
                some = _for_fewer(some, k.shape[2], sites[slot])
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
    left = [one for one in range(mask.shape[-1]) if one not in site.left_out]
    if len(left) == tokens:
        return mask[..., left]
    return torch.full_like(mask[..., :1], mask.dtype is torch.bool).expand(*mask.shape[:3], tokens)


def view(options: TransformerOptions, attention: AttentionId, args: tuple[Any, ...], kwargs: Any) -> View | None:
    """Return a call with the layers that are open in it; None where there is none, or nobody knows its tokens."""
    tokens: Tokens | None = options.get(TOKENS)
    block, kind = attention
    slots = options.get(LAYERS, {})
    found = [(slot, layer) for slot in ("attn2", "attn1") for layer in slots.get(slot, {}).get(block, ())]
    found = [(slot, layer) for slot, layer in found if layer.gate.weight(options)]
    if tokens is None or not found:
        return None
    call = given(args, kwargs)
    total = call.q.shape[2]
    parts = tokens.parts(total) if total == call.k.shape[2] and kind == "self" else None
    if parts is None:
        found = [(slot, layer) for slot, layer in found if KINDS[slot] == kind]
        parts = {IMAGE: slice(0, call.k.shape[2])}
        if total != tokens.image:
            _step_back(found, options, f"{total} tokens that are not those of the picture alone")
            return None
        context: Tensor | None = options.get(CONTEXT)
        if kind == "cross" and context is not None and call.k.shape[2] != context.shape[1]:
            _step_back(found, options, f"{call.k.shape[2]} keys that are not those of the text")
            return None
    if call.mask is not None and call.mask.shape[2] > 1:
        _step_back(found, options, "a mask of its own for each query")
        return None
    return View(call, tuple(found), parts, options) if found else None


def _step_back(found: list[tuple[str, Layer]], options: TransformerOptions, what: str) -> None:
    for _, layer in found:
        layer.gate.skip(options, f"the model attends with {what}")
