"""Where the words of a prompt draw: the attention that each part of the picture gives them, added up over a run.

Only sums are kept, one number for each token of the picture, word and block; never a map of one step or head. At
1024x1024 that is 16 KB for each word in the largest blocks of SDXL, and under 10 MB for 8 words in all of its 70.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .context import LENGTH, OTHER, POSITIVE, columns, places, rows
from .gate import Gate
from .grid import over_time, token_grid
from .guidance import EXTRA
from .hook import Around, Hook, Host
from .inventory import recorder_of
from .recorder import KEY, Recorder, current_block
from .schedule import Schedule
from .stack import Inner
from .targets import Address, BlockId

SCORES = 2**22  # at once, in float32


@dataclass(frozen=True)
class Word:
    """A word or phrase, and its places in the prompt."""

    text: str
    positions: tuple[int, ...]


class Sums(NamedTuple):
    """What one block has gathered: attention (words, b, h * w), entropy of each head, and of how many calls."""

    attention: Tensor
    entropy: Tensor
    grid: tuple[int, int]
    calls: int


@dataclass(frozen=True)
class Capture:
    """Add up the cross-attention to some words in the blocks of `address` during `schedule`; changes nothing.

    `words` are found in the positive prompt of `length` tokens. The curve weights the steps.

    Raises ValueError naming the value and the fix.
    """

    words: tuple[Word, ...]
    length: int = 77
    address: Address = field(default_factory=Address)
    schedule: Schedule = field(default_factory=Schedule)
    kind: ClassVar[str] = "cross"
    slot: ClassVar[str] = "attn2"

    def __post_init__(self) -> None:
        for word in self.words:
            if not word.positions or not all(0 <= place < self.length for place in word.positions):
                raise ValueError(f"{word.text!r} has the places {word.positions} in a prompt of {self.length} tokens")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether there is nothing to gather."""
        return not self.words

    @property
    def name(self) -> str:
        """Describe the capture in one line."""
        words = ", ".join(word.text for word in self.words)
        return f"attention to {words} on {self.address}{self.schedule.suffix}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the layer that listens."""
        return [Around("attn2", CaptureLayer(self, gate))]


def probabilities(q: Tensor, k: Tensor, heads: int, words: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return the attention that each query gives the columns of each word, and the entropy of each head.

    q (b, n, h * d), k (b, m, h * d): (words, b, n), the mean over the heads, and (h,), the mean over queries, in nats.
    """
    queries, keys = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))  # (b, h, n, d)
    keys = keys.transpose(-1, -2).float() * queries.shape[-1] ** -0.5
    found, entropies = [], q.new_zeros(heads, dtype=torch.float32)
    for some in queries.split(max(1, SCORES // (q.shape[0] * heads * k.shape[1])), dim=2):
        logs = (some.float() @ keys).log_softmax(-1)  # (b, h, size, m)
        weights = logs.exp()
        entropies -= torch.xlogy(weights, weights).sum(dim=(0, 2, 3))
        mean = weights.mean(1)  # (b, size, m)
        found.append(torch.stack([mean[..., list(some_columns)].sum(-1) for some_columns in words]))
    return torch.cat(found, dim=-1), entropies / (q.shape[0] * q.shape[1])


@dataclass(frozen=True)
class CaptureLayer:
    """A listener around the attention, which it leaves as it is."""

    method: Capture
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        recorder: Recorder | None = extra_options.get(KEY)
        ours = recorder is not None and OTHER not in extra_options and EXTRA not in extra_options
        sides = rows(POSITIVE, extra_options, len(q)) if ours and not over_time(q, extra_options) else []
        weight = self.gate.weight(extra_options) if sides else 0.0
        if weight:
            for side in sides:
                self._add(q[side], k[side], weight, extra_options)
        return inner(q, k, v)

    def _add(self, q: Tensor, k: Tensor, weight: float, options: Mapping[str, Any]) -> None:
        words = [self._columns(word, k, options) for word in self.method.words]
        attention, entropy = probabilities(q, k[:, : options.get(LENGTH)], options["n_heads"], words)
        block = current_block(options)
        new = Sums(attention * weight, entropy, token_grid(q.shape[1], options), 1)
        options[KEY].gather(self.gate.entry.number, (block, q.device), new, _sum)

    def _columns(self, word: Word, k: Tensor, options: Mapping[str, Any]) -> list[int]:
        return columns(places(word.positions, self.method.length, k, options, self.gate.memory(options)), options)


def _sum(old: Sums, new: Sums) -> Sums:
    return Sums(old.attention + new.attention, old.entropy + new.entropy, new.grid, old.calls + new.calls)


# After the run


def captured(model: Any) -> tuple[Capture, dict[BlockId, Sums]]:
    """Return the last capture on a model patcher and what each block gathered in the last run.

    Raises ValueError where there is no capture, or it did not run.
    """
    recorder = recorder_of(model)
    entries = [entry for entry in recorder.entries if isinstance(entry.value, Capture)] if recorder else []
    if recorder is None or not entries:
        raise ValueError("this model captures no attention; put Capture Attention before the sampler")
    kept: dict[Any, Sums] = recorder.gathered.get(entries[-1].number, {})
    if not kept:
        raise ValueError("nothing was captured: link the model that the sampler got, and check blocks and window")
    found: dict[BlockId, Sums] = {}
    for (block, _), sums in kept.items():  # of each device
        here = sums._replace(attention=sums.attention.cpu(), entropy=sums.entropy.cpu())
        found[block] = _sum(found[block], here) if block in found else here
    return entries[-1].value, found


def heat(sums: Iterable[Sums], size: tuple[int, int]) -> Tensor:
    """Return the mean map of some blocks, scaled to a picture: (words, b, height, width), each from 0 to 1.

    Each block counts the same; its map is drawn smoothly over the picture.
    """
    maps = [F.interpolate((one.attention / one.calls).unflatten(-1, one.grid), size, mode="bicubic") for one in sums]
    mean = torch.stack(maps).mean(0)
    low, high = (limit(mean, dim=(-2, -1), keepdim=True) for limit in (torch.amin, torch.amax))
    return ((mean - low) / (high - low).clamp(min=1e-12)).clamp(0.0, 1.0)
