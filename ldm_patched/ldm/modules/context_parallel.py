"""Attention over several processes of torch.distributed, for scripts: docs/scripting.md shows how.

None of it is a choice of the registry, since it takes processes that somebody has started. `attention_over_ranks` is
for a model that every rank runs whole; `attention_ring` and `attention_all_to_all` are for tokens that lie on the
ranks: each holds its own of q, k and v, in the order of the ranks, and gets the result of its own queries over the
keys of all.

Notation: b batch, h heads, n tokens of this rank, d channels of a head, w ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .backends import dispatch
from .backends.shapes import from_heads, repeat_kv, to_bias, to_heads, to_mask
from .backends.slices import rows_within_budget
from .backends.wrapper import AttentionFunction


class Exchange:
    """What the ranks of a group send each other; `sent` counts this rank's bytes."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.sent = 0

    def lengths(self, tokens: int) -> list[int]:
        """Return how many tokens each rank holds."""
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, tokens, self.group)
        return every

    def pass_on(self, given: Tensor, taken: Tensor) -> list[Any]:
        """Start to send a tensor to the next rank and to receive one of the rank before; returns what to wait for."""
        self.sent += given.nbytes
        after, before = self._neighbour(1), self._neighbour(-1)
        return dist.batch_isend_irecv(
            [dist.P2POp(dist.isend, given, after, self.group), dist.P2POp(dist.irecv, taken, before, self.group)]
        )

    def swap(self, given: list[Tensor], taken: list[Tensor]) -> list[Tensor]:
        """Send the i-th tensor to rank i and receive into the i-th from it."""
        self.sent += sum(part.nbytes for rank, part in enumerate(given) if rank != self.rank)
        flat = torch.cat([part.flatten() for part in given])
        out = flat.new_empty(sum(part.numel() for part in taken))
        sizes = [part.numel() for part in taken]
        dist.all_to_all_single(out, flat, sizes, [part.numel() for part in given], self.group)
        return [part.view_as(like) for part, like in zip(out.split(sizes), taken, strict=True)]

    def gather(self, given: Tensor, lengths: list[int]) -> Tensor:
        """Join the parts of all ranks, (b, h, n, d) with n of each in `lengths`, along the tokens on every rank."""
        padded = given.new_zeros(*given.shape[:2], max(lengths), given.shape[3])
        padded[:, :, : given.shape[2]] = given
        self.sent += padded.nbytes * (self.size - 1)
        every = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(every, padded, self.group)
        return torch.cat([part[:, :, :length] for part, length in zip(every, lengths, strict=True)], dim=2)

    def _neighbour(self, step: int) -> int:
        rank = (self.rank + step) % self.size
        return rank if self.group is None else dist.get_global_rank(self.group, rank)


def attention_over_ranks(
    function: AttentionFunction,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    exchange: Exchange | None = None,
    **kwargs: Any,
) -> Tensor:
    """Attend with a part of the queries on each rank, where every rank holds all tokens, and join the results on all.

    It is an override: `model_options["transformer_options"]["optimized_attention_override"]` of a model that every rank
    runs with the same inputs. `function` computes the part.
    """
    exchange = exchange or Exchange()
    q, k, v = to_heads(q, k, v, heads, skip_reshape, kwargs.pop("enable_gqa", False))
    k, v = repeat_kv(k, v, q.shape[1])
    parts = [part.shape[2] for part in q.tensor_split(exchange.size, dim=2)]
    first = sum(parts[: exchange.rank])
    mine = slice(first, first + parts[exchange.rank])
    full = None if mask is None else to_mask(mask, q, k.shape[2])
    some = full if full is None or full.shape[2] == 1 else full[:, :, mine]
    split = {
        "mask": some,
        "attn_precision": attn_precision,
        "skip_reshape": True,
        "skip_output_reshape": True,
        **kwargs,
    }
    if parts[-1] == 0:  # fewer queries than ranks
        out = function(q, k, v, q.shape[1], **{**split, "mask": full})
    else:
        out = exchange.gather(function(q[:, :, mine], k, v, q.shape[1], **split), parts)
    return from_heads(out, skip_output_reshape)


def attention_ring(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    exchange: Exchange | None = None,
    **kwargs: Any,
) -> Tensor:
    """Attend while keys and values travel once around the ranks (Liu et al. 2023, arXiv 2310.01889).

    The mask holds this rank's queries and the keys of all ranks. A row without a key gives zeros.
    """
    exchange = exchange or Exchange()
    q, k, v = to_heads(q, k, v, heads, skip_reshape, kwargs.get("enable_gqa", False))
    lengths = exchange.lengths(k.shape[2])
    bias = None if mask is None else to_bias(to_mask(mask, q, sum(lengths)), torch.float32)
    scale = kwargs.get("scale")
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    total = q.new_zeros(*q.shape[:-1], v.shape[-1], dtype=torch.float32)
    weight = q.new_full((*q.shape[:-1], 1), float("-inf"), dtype=torch.float32)  # log of the sum of exponentials
    for owner, keys, values in _travelling(k, v, lengths, exchange):
        columns = slice(sum(lengths[:owner]), sum(lengths[: owner + 1]))
        part = bias if bias is None or bias.shape[3] == 1 else bias[..., columns]
        _attend_some(q, *repeat_kv(keys, values, q.shape[1]), factor, part, total, weight)
    return from_heads(total.to(q.dtype), skip_output_reshape)


def _travelling(k: Tensor, v: Tensor, lengths: list[int], exchange: Exchange) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the keys and values of every rank, this one's first; the next ones arrive meanwhile."""
    held = torch.cat([k, v], dim=-1).contiguous()  # (b, h, n, 2 d)
    for step in range(exchange.size):
        owner = (exchange.rank - step) % exchange.size
        waiting: list[Any] = []
        following = held
        if step < exchange.size - 1:
            shape = (*held.shape[:2], lengths[(owner - 1) % exchange.size], held.shape[3])
            following = held.new_empty(shape)
            waiting = exchange.pass_on(held, following)
        yield owner, held[..., : k.shape[-1]], held[..., k.shape[-1] :]
        for work in waiting:
            work.wait()
        held = following


def _attend_some(
    q: Tensor, k: Tensor, v: Tensor, factor: float, bias: Tensor | None, total: Tensor, weight: Tensor
) -> None:
    """Add the attention over some keys to `total` and its `weight`, in place and a slice of queries at a time.

    Softmax over parts: with l the log of a part's sum of exponentials, out = sum_i exp(l_i - log sum_j exp l_j) out_i.
    """
    if not k.shape[2]:
        return
    rows = rows_within_budget(q, k.shape[2], torch.float32)
    for start in range(0, q.shape[2], rows):
        some = slice(start, start + rows)
        scores = q[:, :, some].float() @ k.float().transpose(-1, -2) * factor  # (b, h, rows, n_k)
        if bias is not None:
            scores = scores + (bias if bias.shape[2] == 1 else bias[:, :, some])
        part = scores.logsumexp(-1, keepdim=True)
        both = torch.logaddexp(weight[:, :, some], part)
        alive = both.clamp(min=torch.finfo(both.dtype).min)  # a row without a key so far stays at zero
        kept = total[:, :, some] * (weight[:, :, some] - alive).exp()
        total[:, :, some] = kept + (scores - alive).exp() @ v.float()
        weight[:, :, some] = both


def attention_all_to_all(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    exchange: Exchange | None = None,
    **kwargs: Any,
) -> Tensor:
    """Attend with all tokens and some of the heads on each rank (Jacobs et al. 2023, arXiv 2309.14509).

    The mask, if any, holds the queries and keys of all ranks and must be the same for every head.

    Raises ValueError where the ranks cannot share the heads evenly, or the mask differs between heads.
    """
    exchange = exchange or Exchange()
    q, k, v = to_heads(q, k, v, heads, skip_reshape, kwargs.get("enable_gqa", False))
    k, v = repeat_kv(k, v, q.shape[1])
    if heads % exchange.size:
        raise ValueError(f"{heads} heads cannot be shared by {exchange.size} ranks; use attention_ring")
    if mask is not None and mask.ndim == 4 and mask.shape[1] != 1:
        raise ValueError(f"a mask of {mask.shape[1]} heads cannot be shared by ranks; use attention_ring")
    queries, keys = exchange.lengths(q.shape[2]), exchange.lengths(k.shape[2])
    q, k, v = _to_my_heads(q, queries, exchange), _to_my_heads(k, keys, exchange), _to_my_heads(v, keys, exchange)
    settings = {name: kwargs[name] for name in ("scale",) if name in kwargs}
    out = dispatch.optimized_attention(
        q, k, v, q.shape[1], mask, attn_precision, skip_reshape=True, skip_output_reshape=True, **settings
    )  # (b, h / w, all n, d)
    return from_heads(_to_my_tokens(out, queries, exchange), skip_output_reshape)


def _to_my_heads(x: Tensor, lengths: list[int], exchange: Exchange) -> Tensor:
    """Turn (b, h, n, d) into (b, h / w, all n, d)."""
    given = list(x.chunk(exchange.size, dim=1))
    taken = [x.new_empty(x.shape[0], given[0].shape[1], length, x.shape[3]) for length in lengths]
    return torch.cat(exchange.swap(given, taken), dim=2)


def _to_my_tokens(x: Tensor, lengths: list[int], exchange: Exchange) -> Tensor:
    """Turn (b, h / w, all n, d) into (b, h, n, d)."""
    given = list(x.split(lengths, dim=2))
    taken = [torch.empty_like(given[exchange.rank]) for _ in lengths]
    return torch.cat(exchange.swap(given, taken), dim=1)
