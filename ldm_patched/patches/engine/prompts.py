"""More prompts for cross-attention: their tokens go behind the context, so that the model projects them itself.

An attn2_patch appends them; the layer of the same method, around the attention, takes their keys and values off again.
Several such methods on one block nest like brackets: the last one appends last and takes off first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..patcher import TransformerOptions
from .gate import Gate
from .sides import COND
from .site import LENGTH, Site
from .stack import CONTEXT, Inner
from .tokens import TOKENS, Tokens
from .value import value

BESIDES = ("conditioning_llama3", "t5xxl_ids", "t5xxl_weights", "attention_mask")  # of HiDream, of Anima, of many
Conditioning = Sequence[Sequence[Any]]  # the CONDITIONING of nodes: tokens and settings of each prompt


class Prompt(NamedTuple):
    """The tokens (1, n, c) of a prompt, and what some models make their text of besides, by its name in a conditioning.

    Where nothing is besides, the tokens alone stand for it.
    """

    tokens: Tensor
    besides: Mapping[str, Tensor] = {}


def prompt_of(conditioning: Conditioning) -> Prompt | Tensor:
    """Return the one prompt of a conditioning.

    Raises ValueError where it holds several prompts.
    """
    if len(conditioning) != 1:
        raise ValueError(f"this conditioning holds {len(conditioning)} prompts; give one without Combine nodes")
    (tokens, more), *_ = conditioning
    besides = {name: more[name] for name in BESIDES if more.get(name) is not None}
    return Prompt(tokens, besides) if besides else tokens


def prompt_tokens(conditioning: Conditioning) -> Tensor:
    """Return the text tokens (1, n, c) of a conditioning; see `prompt_of`."""
    return tokens_in(prompt_of(conditioning))


def tokens_in(prompt: Prompt | Tensor) -> Tensor:
    """Return the tokens (1, n, c) of a prompt."""
    return prompt if isinstance(prompt, Tensor) else prompt.tokens


def repeats(length: int, x: Tensor, site: Site, side: int = COND, place: int = 0) -> int:
    """Return how often a prompt of `length` tokens stands at the front of the context.

    Hosts repeat a prompt until it is as long as the others of its batch; what a user has put behind it is another
    prompt. `x` are keys or values (b, h, n, d); what other methods appended to them is not counted. `place` is
    the chunk of those that are `side`: a combined prompt has several. The answer is kept for the run.

    Raises ValueError where the context is not that of such a prompt.
    """
    context: Tensor | None = site.options.get(CONTEXT)
    tokens = x.shape[2] if context is None else context.shape[1]
    if tokens % length:
        raise ValueError(
            f"the context has {tokens} tokens, but the prompt given to this node has {length}; give it the text and "
            "the CLIP that the positive prompt was made of"
        )
    if context is None:
        return tokens // length
    own, rows = Site(site.options, batch=len(context)).rows(side), site.rows(side)
    row = own[place * len(own) // len(rows)]  # another pack may have made several chunks of each

    def count() -> int:
        first, *more = context[row].split(length, dim=1)
        return 1 + sum(1 for _ in takewhile(partial(torch.equal, first), more))

    prompts = site.options.get("uuids", ())
    return site.once(f"{length} of {tokens} tokens in {place} of {prompts}", count)


def context_positions(
    positions: Sequence[int], length: int, x: Tensor, site: Site, side: int = COND, place: int = 0
) -> list[int]:
    """Return where in the context tokens at `positions` of a prompt of `length` tokens stand, in each repeat of it.

    `x` are keys or values (b, h, n, d), `place` is as in `repeats`. Raises ValueError where the context is not that of
    such a prompt.
    """
    begins = starts(length, x, site, side, place)
    if begins[0] + min(positions, default=0) < 0:
        raise ValueError(f"the model gets the last {length + begins[0]} of {length} tokens, and not all of the words")
    return [start + position for start in begins for position in positions]


def starts(length: int, x: Tensor, site: Site, side: int = COND, place: int = 0) -> Sequence[int]:
    """Return where in the context each repeat of a prompt of `length` tokens begins; see `repeats`.

    A transformer may cut the front off a template, put rows of its own in front of the prompt's, or fill them up.
    """
    context: Tensor | None = site.options.get(CONTEXT)
    tokens = 0 if TOKENS not in site.options or context is None else context.shape[1]
    if filled(site) and tokens > length:
        return [0]
    if tokens % length:
        return [tokens - length]
    times = repeats(length, x, site, side, place)
    return [tokens - length] if tokens > times * length else range(0, length * times, length)


def filled(site: Site) -> bool:
    """Return whether the model fills the context up behind the tokens of the prompt."""
    tokens: Tokens | None = site.options.get(TOKENS)
    return tokens is not None and tokens.family.filled


def columns(some: Sequence[int], site: Site) -> list[int]:
    """Return the columns of keys and values for positions in the context, without those that were left out."""
    gone = site.left_out
    return [one - sum(left < one for left in gone) for one in some if one not in gone]


@value
class MorePrompts:
    """An attn2_patch that appends the tokens of more prompts (1, n, c) to the context (b, n, c) while the gate is open.

    It does not count as a use of the gate; the layer that takes the tokens off does. `alike`: a transformer takes none
    of another length than the sampler's.
    """

    gate: Gate
    prompts: tuple[Prompt | Tensor, ...]
    alike: bool = False

    def __call__(
        self, n: Tensor, context: Tensor, value: Tensor | None, extra_options: TransformerOptions
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if self.gate.weight(extra_options) == 0.0:
            return n, context, value
        extra_options.setdefault(LENGTH, context.shape[1])
        return n, self._append(context), None if value is None else self._append(value)

    def _append(self, context: Tensor) -> Tensor:
        more = [tokens_in(extra).to(context).expand(len(context), -1, -1) for extra in self.prompts]
        return torch.cat([context, *more], dim=1)


def take_off(x: Tensor, prompts: Sequence[Prompt | Tensor], site: Site) -> tuple[Tensor, list[Tensor]]:
    """Split keys or values (b, h, n, d) into those of the context and those of each appended prompt."""
    number = 0 if site.gate is None else site.gate.entry.number
    lengths = site.appended.get(number) or [tokens_in(extra).shape[1] for extra in prompts]
    base, *more = x.split([x.shape[2] - sum(lengths), *lengths], dim=2)
    return base, more


def attend_to(inner: Inner, q: Tensor, k: Tensor, v: Tensor, other: Sequence[Tensor], site: Site) -> Tensor:
    """Attend with the keys and values of another prompt in the place of the context's own.

    What methods further in have appended stays behind them.
    """
    other_k, other_v = other
    k, v = (torch.cat([new, x[:, :, site.length :]], dim=2) for new, x in ((other_k, k), (other_v, v)))
    return inner(q, k, v, site.but(length=other_k.shape[2], swapped=True))
