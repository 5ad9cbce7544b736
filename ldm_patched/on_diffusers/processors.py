"""Attention processors that run what is patched around the attention of a layer, and outside of runs the layer's own.

Shapes: b batch, h heads, n tokens, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ldm.modules.backends.shapes import from_heads, to_heads
from ..ldm.modules.transformer import find_replacement
from ..patches.addressing.address import BlockId
from ..patches.engine.block_forward import CALLED
from ..patches.engine.positions import POSITIONS, TURNS
from ..patches.engine.router import SLOT
from ..patches.patcher import TransformerOptions

IMAGE_LAYERS, TEXT_LAYERS = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
OWN = "patchbay_function"  # in the options of a call: the function that the layer would run


# Functions


def attention_diffusers(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: Any = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Compute attention as the processors of diffusers' UNets do."""
    q, k, v = to_heads(q, k, v, heads, skip_reshape)
    return from_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), skip_output_reshape)


@dataclass(frozen=True)
class Dispatched:
    """Attention by the dispatcher of diffusers, on the backend that was chosen for the layer, if any."""

    backend: Any

    @property
    def __name__(self) -> str:
        """Return the name for reports."""
        return "diffusers" if self.backend is None else f"diffusers {getattr(self.backend, 'value', self.backend)}"

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None = None,
        attn_precision: Any = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        q, k, v = (x.transpose(1, 2) for x in to_heads(q, k, v, heads, skip_reshape))
        out: Tensor = dispatch_attention_fn(q, k, v, attn_mask=mask, backend=self.backend)  # (b, n, h, d)
        return out.transpose(1, 2) if skip_output_reshape else out.flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
    """Compute attention by the override of the options, or as the layer would without one."""
    options: TransformerOptions = kwargs["transformer_options"]
    own, override = options[OWN], options.get(SLOT)
    if override is None or "_inside_attn_wrapper" in kwargs:
        out: Tensor = own(q, k, v, heads, *args, **kwargs)
        return out
    found: Tensor = override(own, q, k, v, heads, *args, **kwargs)
    return found


# Processors


@dataclass(eq=False)
class Processor:
    """What stands at an attention layer of a patched network; `own` is what stood there before."""

    own: Any
    block: BlockId
    kind: str


class UNetProcessor(Processor):
    """In the place of AttnProcessor2_0, in the transformer blocks of a UNet."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Map tokens (b, n, c) as the layer does, with the patches of the call."""
        called = CALLED.get()
        if called is None:
            out: Tensor = self.own(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return out
        if attention_mask is not None:
            raise ValueError("a patched UNet takes no attention_mask and no encoder_attention_mask; leave them out")
        return self._patched(attn, hidden_states, encoder_hidden_states, self._options(called, attn))

    def _options(self, called: TransformerOptions, attn: Any) -> TransformerOptions:
        type, number, inner = self.block
        heads = {"n_heads": attn.heads, "dim_head": attn.inner_dim // attn.heads, "attn_precision": None}
        return {**called, **heads, "block": (type, number), "block_index": inner, OWN: attention_diffusers}

    def _patched(self, attn: Any, n: Tensor, context: Tensor | None, options: TransformerOptions) -> Tensor:
        slot = "attn1" if self.kind == "self" else "attn2"
        patches = options["patches"]
        value = context = n if context is None else context
        for patch in patches.get(f"{slot}_patch", ()):
            n, context, value = patch(n, context, value, options)
        q, k, v = attn.to_q(n), attn.to_k(context), attn.to_v(context if value is None else value)
        replace = find_replacement(slot, options)
        out = attend(q, k, v, attn.heads, transformer_options=options) if replace is None else replace(q, k, v, options)
        out = attn.to_out[1](attn.to_out[0](out))
        for patch in patches.get(f"{slot}_output_patch", ()):
            out = patch(out, options)
        return cast(Tensor, out)


class TransformerProcessor(Processor):
    """What the processors of transformers share."""

    @property
    def _attention_backend(self) -> Any:
        """Return the backend that `set_attention_backend` chose; the layer's own processor keeps it."""
        return self.own._attention_backend

    @_attention_backend.setter
    def _attention_backend(self, backend: Any) -> None:
        self.own._attention_backend = backend

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, turns: Tensor | None, called: TransformerOptions
    ) -> Tensor:
        """Return (b, n, h * d) for tokens (b, n, h, d), whose positions are rotations (n, d / 2, 2, 2)."""
        place = {"block_type": self.block.type, "block_index": self.block.number}
        told = {} if turns is None else {TURNS: turns[None]}
        options = {**called, **place, POSITIONS: told, OWN: Dispatched(self._attention_backend)}
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return attend(q, k, v, q.shape[1], mask, skip_reshape=True, transformer_options=options)


def rotations(cos: Tensor, sin: Tensor) -> Tensor:
    """Return cosines and sines (n, d / 2) as rotations (n, d / 2, 2, 2)."""
    turns: Tensor = torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))
    return turns


class FluxProcessor(TransformerProcessor):
    """In the place of FluxAttnProcessor."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        """Map tokens (b, n, c) of image and text, or of both in one sequence, as the layer does."""
        from diffusers.models.embeddings import apply_rotary_emb

        called = CALLED.get()
        if called is None:
            return self.own(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        q, k, v = _projected(attn, IMAGE_LAYERS, hidden_states, attn.head_dim)
        q, k, text = attn.norm_q(q), attn.norm_k(k), 0
        if encoder_hidden_states is not None:
            text_q, text_k, text_v = _projected(attn, TEXT_LAYERS, encoder_hidden_states, attn.head_dim)
            text_q, text_k, text = attn.norm_added_q(text_q), attn.norm_added_k(text_k), text_q.shape[1]
            q, k, v = (torch.cat(pair, dim=1) for pair in ((text_q, q), (text_k, k), (text_v, v)))
        turns = None
        if image_rotary_emb is not None:
            turned: Any = apply_rotary_emb  # its annotations are not what it takes
            q, k = (turned(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
            turns = rotations(*(one[:, ::2] for one in image_rotary_emb))  # a number for each channel of a pair
        out = self._attend(q, k, v, attention_mask, turns, called).to(q.dtype)
        if encoder_hidden_states is None:
            return out
        image = attn.to_out[1](attn.to_out[0](out[:, text:].contiguous()))
        return image, attn.to_add_out(out[:, :text].contiguous())


class QwenProcessor(TransformerProcessor):
    """In the place of QwenDoubleStreamAttnProcessor2_0."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        encoder_hidden_states_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        """Map tokens (b, n, c) of image and text as the layer does."""
        from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen

        called = CALLED.get()
        if called is None or encoder_hidden_states is None or attention_mask is not None:
            masks = encoder_hidden_states_mask, attention_mask
            return self.own(attn, hidden_states, encoder_hidden_states, *masks, image_rotary_emb)
        dim_head, text = attn.inner_dim // attn.heads, encoder_hidden_states.shape[1]
        image_q, image_k, v = _projected(attn, IMAGE_LAYERS, hidden_states, dim_head)
        text_q, text_k, text_v = _projected(attn, TEXT_LAYERS, encoder_hidden_states, dim_head)
        normed = ((attn.norm_added_q, text_q), (attn.norm_added_k, text_k), (attn.norm_q, image_q))
        text_q, text_k, image_q, image_k = (
            x if norm is None else norm(x) for norm, x in (*normed, (attn.norm_k, image_k))
        )
        turns = None
        if image_rotary_emb is not None:
            image, words = image_rotary_emb
            turned: Any = apply_rotary_emb_qwen  # its annotations are not what it takes
            image_q, image_k = (turned(x, image, use_real=False) for x in (image_q, image_k))
            text_q, text_k = (turned(x, words, use_real=False) for x in (text_q, text_k))
            both = torch.cat([words, image])
            turns = rotations(both.real, both.imag)
        q, k, v = (torch.cat(pair, dim=1) for pair in ((text_q, image_q), (text_k, image_k), (text_v, v)))
        mask = None
        if encoder_hidden_states_mask is not None:
            mask = F.pad(encoder_hidden_states_mask.bool(), (0, image_q.shape[1]), value=True)[:, None, None]
        out = self._attend(q, k, v, mask, turns, called).to(q.dtype)
        made = attn.to_out[0](out[:, text:].contiguous())
        return attn.to_out[1](made) if len(attn.to_out) > 1 else made, attn.to_add_out(out[:, :text].contiguous())


class WanProcessor(TransformerProcessor):
    """In the place of WanAttnProcessor."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Map tokens (b, n, c) as the layer does."""
        called = CALLED.get()
        if called is None:
            out: Tensor = self.own(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
            return out
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        dim_head = attn.inner_dim // attn.heads
        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(context))
        q, k, v = (_by_head(x, dim_head) for x in (q, k, attn.to_v(context)))
        turns = None
        if rotary_emb is not None:
            cos, sin = rotary_emb[0][..., 0::2], rotary_emb[1][..., 1::2]  # (1, n, 1, d / 2)
            q, k = (_turned(x, cos, sin) for x in (q, k))
            turns = rotations(cos[0, :, 0], sin[0, :, 0])
        made = self._attend(q, k, v, attention_mask, turns, called).type_as(q)
        return cast(Tensor, attn.to_out[1](attn.to_out[0](made)))


def _projected(attn: Any, layers: Sequence[str], x: Tensor, dim_head: int) -> tuple[Tensor, ...]:
    return tuple(_by_head(getattr(attn, layer)(x), dim_head) for layer in layers)


def _by_head(x: Tensor, dim_head: int) -> Tensor:
    split: Tensor = x.unflatten(-1, (-1, dim_head))
    return split


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return tokens (b, n, h, d) with their positions, rotations of neighbouring channels."""
    one, two = x.unflatten(-1, (-1, 2)).unbind(-1)
    pairs: Tensor = torch.stack([one * cos - two * sin, one * sin + two * cos], dim=-1)
    return pairs.flatten(-2).type_as(x)


# What may stand where
PROCESSORS: dict[str, type[Processor]] = {
    "AttnProcessor2_0": UNetProcessor,
    "FluxAttnProcessor": FluxProcessor,
    "QwenDoubleStreamAttnProcessor2_0": QwenProcessor,
    "WanAttnProcessor": WanProcessor,
}


def processor(attn: Any, own: Any, block: BlockId, kind: str) -> Processor:
    """Return what stands at an attention layer in the place of its own processor.

    Raises TypeError for a processor, or a layer, that does more than is known here.
    """
    name = type(own).__name__
    if name not in PROCESSORS:
        raise TypeError(
            f"{block} has the attention processor {name}, which patches cannot run in; take off what put it there "
            f"(IP-Adapter, slicing, xformers), so that it is one of {', '.join(PROCESSORS)}"
        )
    if getattr(attn, "fused_projections", False):
        raise TypeError(f"the projections of {block} are fused; call unfuse_qkv_projections() before")
    if name == "WanAttnProcessor" and attn.add_k_proj is not None:
        raise TypeError(f"{block} attends to a picture beside the text, as image-to-video does; it cannot be patched")
    more = ("group_norm", "spatial_norm", "norm_cross", "norm_q", "norm_k") if name == "AttnProcessor2_0" else ()
    odd = [one for one in more if getattr(attn, one, None)]
    odd += ["rescale_output_factor"] if more and attn.rescale_output_factor != 1.0 else []
    if odd:
        raise TypeError(f"the attention of {block} has {', '.join(odd)}, which patches cannot run in")
    return PROCESSORS[name](own, block, kind)
