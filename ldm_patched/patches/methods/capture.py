"""Where the words of a prompt draw: the attention that each part of the image gives them, added up over a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..addressing.refused import readable
from ..addressing.where import Where
from ..engine.declaration import acts, choice, hidden, method
from ..engine.gate import Gate
from ..engine.gathering import Live, gather, gather_others, gather_shares
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import AfterCfg, Place, Wrap
from ..engine.prompts import columns, context_positions, starts
from ..engine.scores import chosen_heads, sliced_scores, with_beside
from ..engine.sides import SIDES
from ..engine.site import Site
from ..engine.stack import Inner
from ..engine.value import value
from ..patcher import Patcher

SCORES = 2**22  # at once, in float32; beside them there are their logarithms, weights and entropies
SIDE = "Which pass to listen to; the prompt is that of this side."


@value
class Word:
    """A word or phrase, and its positions in the prompt."""

    text: str
    positions: tuple[int, ...]


class Result(NamedTuple):
    """What attention made of values v (b, h, m, d): (b, h, n, d)."""

    v: Tensor
    out: Tensor


class WordWeights(NamedTuple):
    """What words get of attention: by query (words, b, n), the entropy of each head, and what they bring (words, b)."""

    attention: Tensor
    entropy: Tensor
    brought: Tensor | None = None


class Listener(Method):
    """A method that gathers attention, one map for each of its labels, and changes nothing."""

    side: str
    heads: tuple[int, ...]
    node: str
    slot_listened: ClassVar[str]

    @property
    def labels(self) -> tuple[str, ...]:
        """Return what each map is of."""
        raise NotImplementedError

    @property
    def other_labels(self) -> tuple[str, ...]:
        """Return what there are small maps of besides."""
        return ()

    def only(self, index: int) -> Listener:
        """Return a listener of one of the labels alone."""
        raise NotImplementedError

    @property
    def pictured(self) -> bool:
        """Return that maps are pictures."""
        return True

    def check(self) -> None:
        """Refuse a side or heads that there are not."""
        if self.side not in SIDES:
            raise ValueError(f"unknown side {self.side!r}; choose one of {', '.join(SIDES)}")
        if any(head < 0 for head in self.heads):
            raise ValueError(f"heads are counted from 0, not {min(self.heads)}")

    @property
    def neutral(self) -> bool:
        """Return whether there is nothing to gather."""
        return not self.labels

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return the layer that listens, and what shows each step in a node."""
        yield Wrap(self.slot_listened, gate, self.attend, self.deaf, listens=True)
        if self.node:
            yield AfterCfg(gate, Live(self.node, host.show))

    def deaf(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return whether a call is not to be heard: extra passes, other prompts, frames, the wrong rows, an area."""
        ours = site.run is not None and not site.swapped and not site.extra and not site.over_time
        if not ours or not site.rows(SIDES.index(self.side)):
            return ""
        if "context_window" in site.options:  # ComfyUI's name of the frames that a call is for
            return "context windows draw a few frames at a time, whose maps would be mixed"
        return "a prompt for an area of the picture is not captured, only those for all of it" if site.partial else None

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Listen, and attend as ever."""
        out = inner(q, k, v)
        if self.heads and min(self.heads) >= site.heads:
            site.skip(f"heads {self.heads}: a block has {site.heads}")
        else:
            for place, rows in enumerate(site.rows(SIDES.index(self.side))):
                here = site.but(beside=tuple(one.rows(rows) for one in site.beside))
                self.listen(here, q[rows], k[rows], Result(v[rows], out[rows]), place)
        return out

    def listen(self, site: Site, q: Tensor, k: Tensor, result: Result, place: int) -> None:
        """Add up what the rows of a chunk attend to, the `place`-th of its side."""
        raise NotImplementedError


@method()
class Capture(Listener):
    """Add up the cross-attention to some words; changes nothing.

    `words` are found in the prompt of `length` tokens, the positive or negative one by `side`. The curve weights the
    steps; no `heads` means all of them. Each step is shown in the `node` of the page, if any. Of the `others`, the
    rest of the prompt's words, one small map of the whole run is kept.
    """

    words: tuple[Word, ...] = hidden()
    length: int = hidden(77)
    where: Where = acts(kind="cross")
    side: str = choice(SIDES, "positive", optional=True, tip=SIDE)
    heads: tuple[int, ...] = hidden(())
    node: str = hidden("")
    others: tuple[Word, ...] = hidden(())
    slot_listened: ClassVar[str] = "attn2"

    def check(self) -> None:
        """Refuse words outside the prompt."""
        for word in (*self.words, *self.others):
            if not word.positions or not all(0 <= place < self.length for place in word.positions):
                raise ValueError(f"{word.text!r} has the places {word.positions} in a prompt of {self.length} tokens")
        super().check()

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the words."""
        return tuple(word.text for word in self.words)

    @property
    def other_labels(self) -> tuple[str, ...]:
        """Return the rest of the prompt's words."""
        return tuple(word.text for word in self.others)

    def only(self, index: int) -> Capture:
        """Return the capture of one of the words."""
        return replace(self, words=(self.words[index],), others=())

    @property
    def label(self) -> str:
        """Describe the capture."""
        return f"attention to {', '.join(self.labels)}"

    @property
    def shares(self) -> bool:
        """Return whether it also adds up what each word brings."""
        return True

    def listen(self, site: Site, q: Tensor, k: Tensor, result: Result, place: int) -> None:
        """Add up the attention to the words and to the others, and what all of them bring."""
        where = self.length, k, site, SIDES.index(self.side), place
        some = [columns(context_positions(word.positions, *where), site) for word in self.words]
        begins = starts(*where)
        others = [[start + at for start in begins for at in word.positions if start + at >= 0] for word in self.others]
        keys = with_beside(k[:, :, site.text], site.beside)
        text = Result(result.v[:, :, site.text], result.out) if self.shares else None
        found = word_weights(q, keys, some, self.heads, [columns(places, site) for places in others], text)
        named, rest = (found.attention * site.weight).split((len(some), len(others)))
        gather(site, named, found.entropy, site.image_grid)
        if found.brought is not None:
            gather_shares(site, found.attention.mean(-1), found.brought)
        if others:
            self.keep_others(site, rest)

    def keep_others(self, site: Site, rest: Tensor) -> None:
        """Add up one call's attention (others, b, n) to the rest of the prompt's words."""
        gather_others(site, rest, site.image_grid)


def word_weights(
    q: Tensor,
    k: Tensor,
    words: Sequence[Sequence[int]],
    heads: Sequence[int] = (),
    others: Sequence[Sequence[int]] = (),
    result: Result | None = None,
) -> WordWeights:
    """Return the attention that each query gives the columns of each word and of the others, and each head's entropy.

    q (b, h, n, d), k (b, h, m, d): (words + others, b, n), the mean over the heads, and (h,), the mean over queries,
    in nats. With the result, whose values are those of the first columns, also (words + others, b): the mean over
    queries of ||a v|| / ||out||, over all heads and summed over the columns of a word. Attention that meets small
    values, as that to the first token often does, brings little (Kobayashi et al. 2020, arXiv 2004.10102).
    """
    queries, keys = chosen_heads(q, heads), chosen_heads(k, heads)
    found, entropies, brought, start = [], q.new_zeros(queries.shape[1], dtype=torch.float32), [], 0
    for scores in sliced_scores(queries, keys, SCORES):
        logs = scores.log_softmax(-1)  # (b, h, size, m)
        weights = logs.exp()
        entropies -= torch.xlogy(weights, weights).sum(dim=(0, 2, 3))
        mean = weights.mean(1)  # (b, size, m)
        found.append(
            torch.cat([torch.stack([mean[..., list(some)].sum(-1) for some in words]), *_summed(mean, others)])
        )
        if result is not None:
            brought += _brought(weights, result, [*words, *others], heads, slice(start, start + scores.shape[2]))
        start += scores.shape[2]
    entropy = entropies / (q.shape[0] * q.shape[2])
    return WordWeights(torch.cat(found, -1), entropy, torch.cat(brought, -1).mean(-1) if brought else None)


def _brought(
    weights: Tensor, result: Result, words: Sequence[Sequence[int]], heads: Sequence[int], some: slice
) -> list[Tensor]:
    """Return ||a v|| / ||out|| of all words (words, b, size) for the weights (b, h, size, m) of some queries."""
    values, out = (chosen_heads(x, heads) for x in result)
    named = sorted({column for word in words for column in word})  # most of a context is padding
    squares = weights[..., named].square_() * values[:, :, named].float().square().sum(-1)[:, :, None]
    length = out[:, :, some].float().square().sum(dim=(1, 3)).sqrt()  # (b, size)
    parts = squares.sum(1).sqrt() / length.clamp(min=1e-12)[..., None]  # (b, size, named)
    return _summed(parts, [[named.index(column) for column in word] for word in words])


def _summed(weights: Tensor, words: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the weights (b, n, m) of all words (words, b, n) in three steps of the device, however many there are."""
    if not words:
        return []
    places = [(number, column) for number, some in enumerate(words) for column in some]
    owners, chosen = torch.tensor(places, dtype=torch.long).reshape(-1, 2).T.contiguous().to(weights.device)
    sums = weights.new_zeros(*weights.shape[:-1], len(words)).index_add_(-1, owners, weights[..., chosen])
    return [sums.movedim(-1, 0)]


def parse_heads(text: str) -> tuple[int, ...]:
    """Read `all` (no numbers) or heads such as `0, 3-5`.

    Raises ValueError naming the value and the fix.
    """
    if text.strip() in ("", "all"):
        return ()
    heads: set[int] = set()
    for part in readable(text, "heads").split(","):
        match = re.fullmatch(r"\s*(\d{1,3})(?:-(\d{1,3}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"cannot read the heads {part.strip()!r}; write all, or numbers such as 0, 3-5")
        heads.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(heads))
