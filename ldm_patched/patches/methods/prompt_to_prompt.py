"""Prompt-to-prompt: an edited prompt draws with the attention maps of the source prompt (Hertz et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .alignment import Tokens, alignment, repeated
from .context import HIDDEN, OTHER, POSITIVE, prompt_tokens, repeats, rows
from .gate import Gate, current_weight
from .hook import Around, Hook, Host
from .recorder import KEY
from .schedule import Schedule
from .stack import CONTEXT, Inner
from .targets import Address

Conditioning = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class PromptToPrompt:
    """Take the attention maps of every second picture of a batch from the picture before it.

    Prompt-to-prompt editing (Hertz et al. 2022, arXiv 2208.01626): in pairs of pictures from the same noise the first
    is drawn of the source prompt, the second of the edited one (see `pair`). While the schedule is open, the maps of
    cross-attention come from the source: a token of the edited prompt gets the map of the token it stands for, new ones
    keep their own. Until `self_percent` of the run so do the maps of self-attention. Only the positive side is edited.

    Args:
        source: the tokens of the source prompt, with start, end and padding.
        edited: the tokens of the edited prompt.
        self_percent: where in the run the maps of self-attention are left alone again; 0: from the start.
        strength: from 0 (own maps) to 1 (the source's), times the curve of the schedule.

    Raises ValueError naming the value and the fix.
    """

    source: Tokens
    edited: Tokens
    self_percent: float = 0.4
    strength: float = 1.0
    address: Address = Address()
    schedule: Schedule = Schedule(0.0, 0.8)
    kind: ClassVar[str] = "all"
    slot: ClassVar[str] = "attn2"

    def __post_init__(self) -> None:
        for name in ("self_percent", "strength"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}; give a number from 0 to 1")
        if not self.source or not self.edited:
            raise ValueError("a prompt without tokens cannot be edited; give both prompts")
        self.address.narrowed(self.kind)

    @property
    def neutral(self) -> bool:
        """Tell whether the maps can never change anything."""
        return self.strength == 0.0

    @property
    def name(self) -> str:
        """Describe the method in one line."""
        strength = f" {self.strength:g}" if self.strength != 1.0 else ""
        until = f", self-attention to {100 * self.self_percent:g}%" if self.self_percent else ""
        return f"prompt-to-prompt{strength} on {self.address}{self.schedule.suffix}{until}"

    def hooks(self, gate: Gate, host: Host) -> Iterable[Hook]:
        """Return the layers around cross- and self-attention."""
        hooks: list[Hook] = []
        if self.address.kind != "self":
            hooks.append(Around("attn2", CrossMaps(self, alignment(self.source, self.edited), gate)))
        if self.address.kind != "cross" and self.self_percent:
            hooks.append(Around("attn1", SelfMaps(self, gate)))
        return hooks


def pair(source: Conditioning, edited: Conditioning) -> list[list[Any]]:
    """Return one conditioning that gives the pictures of a batch the source prompt and the edited one by turns.

    Raises ValueError where one of them holds several prompts.
    """
    prompts = prompt_tokens(source), prompt_tokens(edited)
    length = math.lcm(*(prompt.shape[1] for prompt in prompts))
    # repeating all tokens of a prompt leaves cross-attention as it is
    context = torch.cat([prompt.repeat(1, length // prompt.shape[1], 1) for prompt in prompts])
    entries = dict(source[0][1])
    pooled = [side[0][1].get("pooled_output") for side in (source, edited)]
    if all(isinstance(output, Tensor) for output in pooled):
        entries["pooled_output"] = torch.cat(pooled)
    return [[context, entries]]


def pairs(options: Mapping[str, Any], batch: int) -> list[tuple[slice, slice]]:
    """Return the rows of the source's pictures and those of the edited ones, for each prompt of the positive side.

    Raises ValueError where a picture has no partner.
    """
    sides = rows(POSITIVE, options, batch)
    if any((side.stop - side.start) % 2 for side in sides):
        raise ValueError(
            f"prompt-to-prompt draws pairs of pictures, but the batch holds {sides[0].stop - sides[0].start}; set "
            "batch_size of the latent to 2 and put Latent Batch Seed Behavior (fixed) behind it"
        )
    return [(slice(side.start, side.stop, 2), slice(side.start + 1, side.stop, 2)) for side in sides]


def with_maps(inner: Inner, q: Tensor, k: Tensor, v: Tensor, chosen: Sequence[tuple[slice, slice]]) -> Tensor:
    """Attend with the queries and keys of the source rows in the edited ones: (b, n, c)."""
    q, k = q.clone(), k.clone()
    for source, edited in chosen:
        q[edited], k[edited] = q[source], k[source]
    return inner(q, k, v)


def blended(own: Tensor, mapped: Tensor, chosen: Sequence[tuple[slice, slice]], weight: float) -> Tensor:
    """Return the own result with the edited rows moved towards the one by the source's maps."""
    out = own.clone()
    for _, edited in chosen:
        out[edited] = torch.lerp(own[edited], mapped[edited], weight)
    return out


@dataclass(frozen=True)
class SelfMaps:
    """The source's maps in the self-attention of the edited pictures, until `self_percent`."""

    method: PromptToPrompt
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        chosen = pairs(extra_options, len(q))
        window = Schedule(0.0, self.method.self_percent)
        if not chosen or not current_weight(window, extra_options.get(KEY), extra_options):
            return inner(q, k, v)
        weight = self.method.strength * self.gate.weight(extra_options)
        if weight == 0.0:
            return inner(q, k, v)
        mapped = with_maps(inner, q, k, v, chosen)
        return mapped if weight == 1.0 else blended(inner(q, k, v), mapped, chosen, weight)


@dataclass(frozen=True, eq=False)
class CrossMaps:
    """The source's maps in the cross-attention of the edited pictures.

    `shares` (n, m) is the alignment A of the prompts. The maps M of the source become M A for the edited prompt, and
    (M A) V = M (A V), so the values are shared out and any attention function computes it. What new tokens add by maps
    of their own is the difference between attention with and without their values.
    """

    method: PromptToPrompt
    shares: Tensor
    gate: Gate

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        chosen = pairs(extra_options, len(q))
        open_here = bool(chosen) and OTHER not in extra_options and HIDDEN not in extra_options
        weight = self.method.strength * (self.gate.weight(extra_options) if open_here else 0.0)
        if weight == 0.0:
            return inner(q, k, v)
        shares = self._shares(v, extra_options)
        tokens = len(shares)
        values = v.clone()
        for _, edited in chosen:
            values[edited, :tokens] = shares @ v[edited, :tokens]
        mapped = with_maps(inner, q, k, values, chosen)
        new = bool((self.shares.sum(0) == 0.0).any())
        if weight == 1.0 and not new:
            return mapped
        own = inner(q, k, v)
        if new:
            mapped = mapped + own - inner(q, k, self._without_new(v, shares, chosen))
        return blended(own, mapped, chosen, weight)

    def _shares(self, v: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Return the alignment for prompts as long as the host repeated them, kept for the run."""
        memory, length = self.gate.memory(options), math.lcm(*self.shares.shape)
        tokens = length * repeats(length, v, options, memory)
        if CONTEXT in options and tokens != options[CONTEXT].shape[1]:
            raise ValueError("another prompt stands behind the one given to this node; leave out Conditioning (Concat)")
        key = f"{tokens} {v.device} {v.dtype}"
        if key not in memory:
            memory[key] = repeated(self.shares, tokens).to(v)
        return memory[key]

    @staticmethod
    def _without_new(v: Tensor, shares: Tensor, chosen: Sequence[tuple[slice, slice]]) -> Tensor:
        old = (shares.sum(0) > 0.0).to(v.dtype)[:, None]
        values = v.clone()
        for _, edited in chosen:
            values[edited, : len(old)] *= old
        return values
