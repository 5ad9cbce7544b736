"""More prompts for transformers: each is one more row of the batch, since the model makes its text what it attends to.

The image of such a row is kept the same as that of the row it belongs to (`engine/views.py`), so it costs a row and
changes nothing by itself. Layers get its keys and values behind the text's own, as on a UNet (`engine/prompts.py`).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..patcher import TransformerOptions
from .coordinates import CHUNKS
from .gate import Gate, curve_weight
from .sides import COND, OTHER, chunks_of

WANTED = "patchbay_more_prompts"  # in the options of a model: what asks for rows, in order
ROWS = "patchbay_rows"  # in the options of a call that has more rows: its Rows
LISTS = ("cond_or_uncond", "uuids", CHUNKS)  # in the options of a call: one entry for each chunk of its rows


class Rows(NamedTuple):
    """What the rows of a call are: first its own, then a chunk for each prompt and each chunk that is positive.

    Args:
        base: rows of the call itself.
        positive: which of its chunks are positive.
        chunk: rows of each chunk.
        prompts: of each further prompt the number of the entry that asked for it, and its tokens.
        own: tokens of the call's own context.
        tokens: tokens to which all contexts were filled up.
        given: what the options said of the call itself.
    """

    base: int
    positive: tuple[int, ...]
    chunk: int
    prompts: tuple[tuple[int, int], ...]
    own: int
    tokens: int
    given: dict[str, Any]

    def more(self, x: Tensor) -> Tensor:
        """Return (base, ...) with the rows of the positive chunks again for each prompt."""
        return torch.cat([x, *[self.of_positive(x)] * len(self.prompts)])

    def of_positive(self, x: Tensor) -> Tensor:
        """Return the rows of the positive chunks."""
        return torch.cat([x[i * self.chunk : (i + 1) * self.chunk] for i in self.positive])

    def of_prompt(self, x: Tensor, place: int) -> Tensor:
        """Return the rows of one further prompt, a chunk for each positive one."""
        start = self.base + place * len(self.positive) * self.chunk
        return x[start : start + len(self.positive) * self.chunk]

    def beside_each(self, x: Tensor, place: int) -> Tensor:
        """Return the rows of one further prompt for all of the call's own; those of no positive chunk get the first."""
        chunks = self.of_prompt(x, place).split(self.chunk)
        places = [self.positive.index(i) if i in self.positive else 0 for i in range(self.base // self.chunk)]
        return torch.cat([chunks[i] for i in places])


class Asking(Protocol):
    """What asks for rows: `MorePrompts`."""

    @property
    def gate(self) -> Gate: ...
    @property
    def prompts(self) -> tuple[Tensor, ...]: ...


class Call(NamedTuple):
    """The arguments of a call of the model."""

    x: Tensor
    t: Tensor
    c_concat: Tensor | None
    c_crossattn: Tensor | None
    control: Any
    options: TransformerOptions
    conds: dict[str, Any]


def without_rows(options: TransformerOptions) -> set[int]:
    """Return the numbers of the entries whose further prompts have no rows in a call, as one of the negative alone."""
    rows: Rows | None = options.get(ROWS)
    given = {number for number, _ in rows.prompts} if rows is not None else set()
    return {one.gate.entry.number for one in options.get(WANTED, ())} - given


def with_rows(model: Any, call: Call) -> Call:
    """Return a call with a row for each prompt that is asked for now; itself where none is, or nothing is positive."""
    asking: tuple[Asking, ...] = call.options.get(WANTED, ())
    wanted = [one for one in asking if curve_weight(one.gate.entry.schedule, call.options)]
    chunks = chunks_of(call.options)
    positive = tuple(i for i, chunk in enumerate(chunks) if chunk == COND)
    context = call.c_crossattn
    if not wanted or not positive or context is None:
        return call
    prompts = [(one.gate.entry.number, _encoded(model, tokens, call.x)) for one in wanted for tokens in one.prompts]
    tokens = max([context.shape[1], *(prompt.shape[1] for _, prompt in prompts)])
    lengths = tuple((number, prompt.shape[1]) for number, prompt in prompts)
    before = {name: list(call.options[name]) for name in LISTS if name in call.options}
    rows = Rows(len(call.x), positive, len(call.x) // len(chunks), lengths, context.shape[1], tokens, before)
    each = len(positive) * rows.chunk
    further = [_filled(prompt, tokens).to(context).expand(each, -1, -1) for _, prompt in prompts]
    others = [OTHER] * (len(prompts) * len(positive))
    new: dict[str, list[Any]] = {"cond_or_uncond": others, "uuids": _uuids(before.get("uuids"), rows), CHUNKS: others}
    lists = {name: [*before[name], *new[name]] for name in before}
    return Call(
        rows.more(call.x),
        rows.more(call.t),
        None if call.c_concat is None else rows.more(call.c_concat),
        torch.cat([_filled(context, tokens), *further]),
        _repeated(call.control, rows),
        {**call.options, **lists, ROWS: rows},
        {name: _repeated(cond, rows) for name, cond in call.conds.items()},
    )


def _uuids(given: Sequence[uuid.UUID] | None, rows: Rows) -> list[uuid.UUID]:
    """Return a name for each further chunk, the same in every step: caches find by it what they keep of a chunk."""
    if given is None:
        return []
    return [uuid.uuid5(given[i], f"patchbay {place}") for place in range(len(rows.prompts)) for i in rows.positive]


def _encoded(model: Any, tokens: Tensor, x: Tensor) -> Tensor:
    """Return the tokens (1, n, c) of a prompt as the model's own conditionings make its context."""
    about = {"noise": x, "device": x.device, "prompt_type": "positive"}
    made: Mapping[str, Any] = model.extra_conds(cross_attn=tokens, pooled_output=tokens[:, 0], **about)
    found: Tensor = made["c_crossattn"].cond if "c_crossattn" in made else tokens
    return found.to(x.device)


def _filled(context: Tensor, tokens: int) -> Tensor:
    return F.pad(context, (0, 0, 0, tokens - context.shape[1]))


def _repeated(given: Any, rows: Rows) -> Any:
    """Return what a call gets beside its latent with more rows wherever it has those of the call."""
    if isinstance(given, Tensor):
        return rows.more(given) if given.ndim and len(given) == rows.base else given
    if type(given) is dict:
        return {name: _repeated(one, rows) for name, one in given.items()}
    if type(given) in (list, tuple):  # not what descends from them, such as shapes
        return type(given)(_repeated(one, rows) for one in given)
    return given
