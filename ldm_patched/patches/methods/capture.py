"""Where the words of a prompt draw: the attention that each part of the picture gives them, added up over a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from .context import LENGTH, OTHER, columns, places, rows
from .gate import Gate
from .gathered import SIDES, Live, chosen_heads, gather
from .grid import over_time, token_grid
from .guidance import EXTRA
from .hook import AfterCfg, Around, Hook, Host
from .recorder import KEY
from .schedule import Schedule
from .stack import Inner
from .targets import Address

SCORES = 2**22  # at once, in float32


@dataclass(frozen=True)
class Word:
    """A word or phrase, and its places in the prompt."""

    text: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Capture:
    """Add up the cross-attention to some words in the blocks of `address` during `schedule`; changes nothing.

    `words` are found in the prompt of `length` tokens, the positive or negative one by `side`. The curve weights the
    steps; no `heads` means all of them. Each step is shown in the `node` of the page, if any.

    Raises ValueError naming the value and the fix.
    """

    words: tuple[Word, ...]
    length: int = 77
    address: Address = field(default_factory=Address)
    schedule: Schedule = field(default_factory=Schedule)
    side: str = "positive"
    heads: tuple[int, ...] = ()
    node: str = ""
    kind: ClassVar[str] = "cross"
    slot: ClassVar[str] = "attn2"

    def __post_init__(self) -> None:
        for word in self.words:
            if not word.positions or not all(0 <= place < self.length for place in word.positions):
                raise ValueError(f"{word.text!r} has the places {word.positions} in a prompt of {self.length} tokens")
        check_listener(self.side, self.heads)
        self.address.narrowed(self.kind)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the words."""
        return tuple(word.text for word in self.words)

    @property
    def neutral(self) -> bool:
        """Tell whether there is nothing to gather."""
        return not self.words

    @property
    def name(self) -> str:
        """Describe the capture in one line."""
        return f"attention to {', '.join(self.labels)} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the layer that listens, and what shows each step in a node."""
        live = [AfterCfg(Live(self.node, host.show))] if self.node else []
        return [Around("attn2", CaptureLayer(self, gate)), *live]


def check_listener(side: str, heads: Sequence[int]) -> None:
    """Check what all listeners share.

    Raises ValueError naming the value and the fix.
    """
    if side not in SIDES:
        raise ValueError(f"unknown side {side!r}; choose one of {', '.join(SIDES)}")
    if any(head < 0 for head in heads):
        raise ValueError(f"heads are counted from 0, not {min(heads)}")


def probabilities(
    q: Tensor, k: Tensor, heads: int, words: Sequence[Sequence[int]], some_heads: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Return the attention that each query gives the columns of each word, and the entropy of each head.

    q (b, n, h * d), k (b, m, h * d): (words, b, n), the mean over the heads, and (h,), the mean over queries, in nats.
    """
    queries, keys = (chosen_heads(x.unflatten(-1, (heads, -1)).transpose(1, 2), some_heads) for x in (q, k))
    keys = keys.transpose(-1, -2).float() * queries.shape[-1] ** -0.5  # (b, h, d, m)
    found, entropies = [], q.new_zeros(queries.shape[1], dtype=torch.float32)
    for some in queries.split(max(1, SCORES // (q.shape[0] * heads * k.shape[1])), dim=2):
        logs = (some.float() @ keys).log_softmax(-1)  # (b, h, size, m)
        weights = logs.exp()
        entropies -= torch.xlogy(weights, weights).sum(dim=(0, 2, 3))
        mean = weights.mean(1)  # (b, size, m)
        found.append(torch.stack([mean[..., list(some_columns)].sum(-1) for some_columns in words]))
    return torch.cat(found, dim=-1), entropies / (q.shape[0] * q.shape[1])


def listening(side: str, gate: Gate, q: Tensor, options: Mapping[str, Any]) -> tuple[list[slice], float]:
    """Return the rows of a batch that a listener is for and the weight of the current call; no rows where it is deaf.

    The extra passes of guidance methods, prompts in the place of the sampler's and attention over time are not heard.
    """
    ours = KEY in options and OTHER not in options and EXTRA not in options and not over_time(q, options)
    sides = rows(SIDES.index(side), options, len(q)) if ours else []
    weight = gate.weight(options) if sides else 0.0
    return (sides, weight) if weight else ([], 0.0)


@dataclass(frozen=True)
class CaptureLayer:
    """A listener around the attention, which it leaves as it is."""

    method: Capture
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        sides, weight = listening(self.method.side, self.gate, q, extra_options)
        for side in sides:
            self._add(q[side], k[side], weight, extra_options)
        return inner(q, k, v)

    def _add(self, q: Tensor, k: Tensor, weight: float, options: Mapping[str, Any]) -> None:
        words = [self._columns(word, k, options) for word in self.method.words]
        heads, some = options["n_heads"], self.method.heads
        if some and min(some) >= heads:
            return self.gate.skip(options, f"heads {some}: a block has {heads}")
        attention, entropy = probabilities(q, k[:, : options.get(LENGTH)], heads, words, some)
        gather(self.gate, attention * weight, entropy, token_grid(q.shape[1], options), options)

    def _columns(self, word: Word, k: Tensor, options: Mapping[str, Any]) -> list[int]:
        memory = self.gate.memory(options)
        return columns(places(word.positions, self.method.length, k, options, memory), options)
