"""More prompts for transformers: each is one more row of the batch, since the model makes its text what it attends to.

A model that makes nothing of its text but keys and values, each token for itself, needs no rows: further prompts stand
behind its text as columns, which cost their keys and values alone, and no call sees them but those of open layers.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..addressing.families import HIDDEN
from ..patcher import TransformerOptions
from ..record.run import run_of
from .coordinates import CHUNKS
from .filling import Filling, filling_of
from .gate import curve_weight
from .listed import others_in
from .prompts import Prompt, tokens_in
from .rows import ROWS, WANTED, Asking, Columns, Rows
from .sides import COND, OTHER, chunks_of
from .tokens import TOKENS, Tokens

CONTEXT = "c_crossattn"  # among what a model makes of a conditioning: its context
MASK = "attention_mask"  # among the same: which tokens of the text are its own, (b, n)
LENGTH = "num_tokens"  # among the same: how many tokens its text has, for what makes positions
SHOWN = "shown"  # and the places of the tokens that its mask shows, where it hides some in front of others
TEXTS = ("encoder_hidden_states_llama3",)  # and what else it has a row of text in
AS_ROWS = "Further prompts ({} of {} tokens): each is one more row of the batch for each row of the positive prompt."
AS_COLUMNS = "Further prompts ({} of {} tokens): they stand behind the text in each cross-attention, without more rows."
AS_LEFT = "Further prompts: {} tokens that are neither text nor picture stay those of the sampler's prompt."
LISTS = ("cond_or_uncond", "uuids", CHUNKS)  # in the options of a call: one entry for each chunk of its rows


class Call(NamedTuple):
    """The arguments of a call of the model."""

    x: Tensor
    t: Tensor
    c_concat: Tensor | None
    c_crossattn: Tensor | None
    control: Any
    options: TransformerOptions
    conds: dict[str, Any]


def with_rows(model: Any, call: Call) -> Call:
    """Return a call with each prompt that is asked for now; itself where none is, or nothing is positive."""
    asking: tuple[Asking, ...] = call.options.get(WANTED, ())
    wanted = [one for one in asking if curve_weight(one.gate.entry.schedule, call.options)]
    context = call.c_crossattn
    if not wanted or COND not in chunks_of(call.options) or context is None:
        return call
    asked = [(one, found) for one in wanted for found in _all_encoded(model, one, call)]
    encoded = [(one.gate.entry.number, found) for one, found in asked]
    own = {name: given for name, given in {**call.conds, CONTEXT: context}.items() if name in (CONTEXT, MASK)}
    columns = Columns(_seen(own, call), tuple((number, _seen(found, call)) for number, found in encoded))
    behind, made = _stand_behind(columns, call), call.options.get(TOKENS)
    run = run_of(call.options)
    if run is not None:
        lengths = columns.lengths()
        run.notes.add((AS_COLUMNS if behind else AS_ROWS).format(len(lengths), ", ".join(map(str, lengths))))
        if made is not None and made.others and not behind:
            run.notes.add(AS_LEFT.format(made.others))
    found = [one for _, one in encoded]
    alike = [text for one, text in asked if one.alike]
    seen = _seen_by_positive(own, call) if alike else []
    for text in alike:
        _check_alike(text, own, seen, call)
    if not behind:
        return _with_rows(call, context, columns, found, seen)
    further = [one[CONTEXT].to(context).expand(len(context), -1, -1) for one in found]
    return call._replace(c_crossattn=torch.cat([context, *further], 1), options={**call.options, ROWS: columns})


def _with_rows(
    call: Call,
    context: Tensor,
    columns: Columns,
    encoded: Sequence[Mapping[str, Tensor]],
    seen: Sequence[Sequence[int]],
) -> Call:
    """Return a call with a row for each prompt that would stand in these columns, and each row that is positive."""
    chunks, sizes = chunks_of(call.options), [columns.own, *columns.lengths()]
    before = {name: list(call.options[name]) for name in LISTS if name in call.options}
    made: Tokens | None = call.options.get(TOKENS)
    filling = filling_of(made, [context.shape[1], *(one[CONTEXT].shape[1] for one in encoded)])
    own, *filled = map(filling.size, sizes)
    rows = Rows(
        base=len(call.x),
        positive=tuple(i for i, chunk in enumerate(chunks) if chunk == COND),
        chunk=len(call.x) // len(chunks),
        prompts=tuple((number, length) for (number, _), length in zip(columns.prompts, filled, strict=True)),
        own=own,
        tokens=max(own, *filled) if made is not None and made.family.crops else filling.tokens,
        given=before,
        ends=filling.ends,
        pads=tuple(length - size for length, size in zip((own, *filled), sizes, strict=True)),
        shown=tuple(one.get(SHOWN) for one in encoded),
        seen=tuple(seen),
    )
    others = [OTHER] * (len(encoded) * len(rows.positive))
    new: dict[str, list[Any]] = {"cond_or_uncond": others, "uuids": _uuids(before.get("uuids"), rows), CHUNKS: others}
    lists = {name: [*before[name], *new[name]] for name in before}
    each = len(rows.positive) * rows.chunk
    conds = {name: _with(cond, name, encoded, rows) for name, cond in call.conds.items()}
    if made is not None and made.family.one_mask:  # what it hides is left out of the keys
        conds.pop(MASK, None)
        mask = None
    else:
        mask = _masked(call.conds.get(MASK), encoded, context, each, filling)
    return Call(
        rows.more(call.x),
        rows.more(call.t),
        None if call.c_concat is None else rows.more(call.c_concat),
        torch.cat(
            [filling.text(x).to(context) for x in (context, *(one[CONTEXT].expand(each, -1, -1) for one in encoded))]
        ),
        _repeated(call.control, rows),
        {**call.options, **lists, ROWS: rows},
        conds | ({} if mask is None else {MASK: mask}) | ({LENGTH: rows.tokens} if LENGTH in conds else {}),
    )


def _stand_behind(columns: Columns, call: Call) -> bool:
    """Return whether a call takes its further prompts as columns, and nobody can take its text for its image."""
    made: Tokens | None = call.options.get(TOKENS)
    if made is None or not made.family.columns or made.image == columns.tokens:
        return False
    # one of another pack gets all of the context, before the projection, and does not know what is the call's own
    return made.family.calls != HIDDEN or not others_in(call.options, "attn2_patch")


def _uuids(given: Sequence[uuid.UUID] | None, rows: Rows) -> list[uuid.UUID]:
    """Return a name for each further chunk, the same in every step: caches find by it what they keep of a chunk."""
    if given is None:
        return []
    return [uuid.uuid5(given[i], f"patchbay {place}") for place in range(len(rows.prompts)) for i in rows.positive]


def _all_encoded(model: Any, asking: Asking, call: Call) -> Sequence[dict[str, Tensor]]:
    """Return what the model makes of each prompt, made once in a run on each device."""
    memory, key = asking.gate.memory(call.options), f"encoded on {call.x.device}"
    if key not in memory:
        made: Tokens | None = call.options.get(TOKENS)
        found = [_encoded(model, prompt, call.x) for prompt in asking.prompts]
        memory[key] = found if made is not None and made.family.whole_text else [_trimmed(one, made) for one in found]
    kept: Sequence[dict[str, Tensor]] = memory[key]
    return kept


def _encoded(model: Any, prompt: Prompt | Tensor, x: Tensor) -> dict[str, Tensor]:
    """Return what the model's own conditionings make of a prompt: its context (1, n, c), and the rest of its text."""
    tokens, besides = tokens_in(prompt), {} if isinstance(prompt, Tensor) else prompt.besides
    about = {"noise": x, "device": x.device, "prompt_type": "positive", "pooled_output": tokens[:, 0]}
    made: Mapping[str, Any] = model.extra_conds(cross_attn=tokens, **besides, **about)
    known = {CONTEXT: tokens, **{name: cond.cond for name, cond in made.items() if name in (CONTEXT, MASK, *TEXTS)}}
    return {name: cond.to(x.device) for name, cond in known.items()}


def _seen(text: Mapping[str, Tensor], call: Call) -> int:
    """Return how many tokens from its front the attention of a call looks at, of a text with the mask it may have.

    Raises ValueError where a family that takes the mask of a single row would look at others.
    """
    made: Tokens | None = call.options.get(TOKENS)
    mask, tokens = text.get(MASK), text[CONTEXT].shape[1]
    if made is None or mask is None or not (made.family.crops or made.family.one_mask):
        return tokens
    seen = max(1, int((mask[0] != 0).sum()))
    if made.family.one_mask and (made.ends or not mask[:, :seen].all() or mask[:, seen:].any()):
        raise ValueError(
            f"{made.family.name} models take a further prompt only beside texts whose masks hide nothing, or the same "
            "number of tokens at the end; encode the prompts by the text encoder of this model"
        )
    return seen


def _seen_by_positive(own: Mapping[str, Tensor], call: Call) -> list[Sequence[int]]:
    """Return for each positive chunk of a call the places of the tokens that its mask shows; none: all."""
    made, mask, chunks = call.options.get(TOKENS), own.get(MASK), chunks_of(call.options)
    rows = [i * len(call.x) // len(chunks) for i, chunk in enumerate(chunks) if chunk == COND]
    family = None if made is None else made.family
    if mask is None or mask.shape != own[CONTEXT].shape[:2] or (family and (family.whole_text or family.crops)):
        return []
    return [mask[row].nonzero()[:, 0].tolist() for row in rows]


def _check_alike(
    text: Mapping[str, Tensor], own: Mapping[str, Tensor], seen: Sequence[Sequence[int]], call: Call
) -> None:
    """Refuse a further prompt of which attention looks at another number of tokens than of the call's own.

    Hosts repeat a prompt until it is as long as the others of its batch: that is no other length.
    """
    made: Tokens | None = call.options.get(TOKENS)
    filling = Filling(0, multiple=1 if made is None else made.multiple)
    size = len(text[SHOWN]) if SHOWN in text else _seen(text, call)
    for tokens in map(len, seen) if seen else (_seen(own, call),):
        parts = own[CONTEXT].split(size, dim=1)
        repeated = tokens % size == 0 and MASK not in own and all(torch.equal(parts[0], part) for part in parts)
        if filling.size(tokens) == filling.size(size) or repeated:
            continue
        filled = f", filled up to {filling.size(size)} and {filling.size(tokens)}" if filling.multiple > 1 else ""
        masked = "; tokens that a mask hides are not counted" if MASK in {**text, **own} else ""
        raise ValueError(
            f"the prompt to go towards has {size} tokens, the sampler's {tokens}{filled}{masked}; on this model both "
            "need the same number: write a prompt of the same length"
        )


def _trimmed(known: dict[str, Tensor], made: Tokens | None) -> dict[str, Tensor]:
    """Return a text without the tokens at its end that its mask hides, and which of the others it shows."""
    mask, context = known.get(MASK), known[CONTEXT]
    if mask is None or mask.shape != context.shape[:2]:
        return known
    shown = mask[0].nonzero()[:, 0]
    end = int(shown[-1]) + 1 if len(shown) else context.shape[1]
    found = {**known, CONTEXT: context[:, :end], MASK: mask[:, :end]}
    holes = 0 < len(shown) < end and not (made is not None and made.family.crops)
    return {**found, SHOWN: shown} if holes else found


def _with(cond: Any, name: str, encoded: Sequence[Mapping[str, Tensor]], rows: Rows) -> Any:
    """Return what a call gets with more rows: those of the positive again, or where it is text those of each prompt.

    Raises ValueError where that of a further prompt has another length than the call's own.
    """
    if name not in TEXTS or not all(name in found for found in encoded):
        return _repeated(cond, rows)
    further = [found[name].to(cond) for found in encoded]
    if any(one.shape[1:] != cond.shape[1:] for one in further):
        raise ValueError(
            "a further prompt has another length than the sampler's; this model needs them alike, give both prompts by "
            "the same text encoder"
        )
    each = len(rows.positive) * rows.chunk
    return torch.cat([cond, *(one.expand(each, *one.shape[1:]) for one in further)])


def _masked(
    own: Tensor | None, encoded: Sequence[Mapping[str, Tensor]], context: Tensor, each: int, filling: Filling
) -> Tensor | None:
    """Return the mask of all rows' text (b, n), which hides what they were filled up with; None where none has one."""
    if own is None and not any(MASK in found for found in encoded):
        return None
    if own is not None and own.shape != context.shape[:2]:
        return None  # no mask of the text alone
    own = context.new_ones(context.shape[:2], dtype=torch.long) if own is None else own
    further = [found.get(MASK, own.new_ones(1, found[CONTEXT].shape[1])).to(own).expand(each, -1) for found in encoded]
    return torch.cat([filling.mask(one) for one in (own, *further)])


def _repeated(given: Any, rows: Rows) -> Any:
    """Return what a call gets beside its latent with more rows wherever it has those of the call."""
    if isinstance(given, Tensor):
        return rows.more(given) if given.ndim and len(given) == rows.base else given
    if type(given) is dict:
        return {name: _repeated(one, rows) for name, one in given.items()}
    if type(given) in (list, tuple):  # not what descends from them, such as shapes
        return type(given)(_repeated(one, rows) for one in given)
    return given
