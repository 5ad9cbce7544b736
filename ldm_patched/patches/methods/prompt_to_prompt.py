"""Prompt-to-prompt: an edited prompt draws with the attention maps of the source prompt (Hertz et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..addressing.schedule import Schedule
from ..addressing.where import Where
from ..engine.declaration import Output, Widget, acts, amount, hidden, method, number
from ..engine.gate import Gate, curve_weight
from ..engine.host import Host
from ..engine.method import Method
from ..engine.place import Place, Wrap
from ..engine.prompts import Conditioning, filled, prompt_tokens, starts
from ..engine.site import Site
from ..engine.stack import CONTEXT, Inner
from ..patcher import Patcher
from .alignment import Tokens, alignment, repeated, token_ids

MULTILINE = (("multiline", True),)


@method(
    node="PatchbayPromptToPrompt",
    title="Prompt to Prompt",
    text="Draw pairs of pictures: the first of the source prompt, the second of the edited prompt with the first one's "
    "attention maps, so that it keeps the layout. Needs an even batch of latents that start from the same noise.",
    aliases=("p2p", "prompt editing", "word swap", "cross attention control", "attention replace"),
    gives="that takes the maps over",
    asks=(
        Widget("clip", "CLIP", "The CLIP to encode both prompts with."),
        Widget("source", "STRING", "The prompt of the first picture of each pair.", settings=MULTILINE),
        Widget("edited", "STRING", "The prompt of the second picture of each pair.", settings=MULTILINE),
    ),
    outputs=(Output("CONDITIONING", "positive", "Both prompts, by turns for the pictures of a batch."),),
)
class PromptToPrompt(Method):
    """Take the attention maps of every second image of a batch from the image before it.

    Prompt-to-prompt editing (Hertz et al. 2022, arXiv 2208.01626): in pairs of images from the same noise the first
    is drawn of the source prompt, the second of the edited one (see `pair`). While the schedule is open, the maps of
    cross-attention come from the source: a token of the edited prompt gets the map of the token it stands for, new ones
    keep their own. Until `self_percent` of the run so do the maps of self-attention. Only cond rows are edited.

    Args:
        source: the tokens of the source prompt, with start, end and padding.
        edited: the tokens of the edited prompt.
        self_percent: where in the run the maps of self-attention are left alone again; 0: from the start.
        strength: from 0 (own maps) to 1 (the source's), times the curve of the schedule.
    """

    source: Tokens = hidden(blank=(1,))
    edited: Tokens = hidden(blank=(1,))
    self_percent: float = number(
        0.4,
        0.0,
        1.0,
        step=0.01,
        bounded=True,
        tip="Until where in the run the maps of self-attention are taken over too; 0: not at all.",
    )
    strength: float = amount(tip="How much of the first picture's maps is taken, 0 to 1; 0 takes none.")
    where: Where = acts(end=0.8)

    @classmethod
    def made(cls, asked: Mapping[str, Any], fields: dict[str, Any]) -> PromptToPrompt:
        """Read both prompts."""
        prompts = {name: token_ids(asked["clip"], asked[name]) for name in ("source", "edited") if asked}
        return cls(**fields | prompts)

    @classmethod
    def results(cls, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the prompts for the sampler."""
        clip, texts = inputs["clip"], (inputs["source"], inputs["edited"])
        return (pair(*(clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts)),)

    def check(self) -> None:
        """Refuse prompts without tokens."""
        if not self.source or not self.edited:
            raise ValueError("a prompt without tokens cannot be edited; give both prompts")

    @property
    def slot(self) -> str:
        """Return the slot of cross-attention, whatever the address is narrowed to."""
        return "attn2"

    @property
    def name(self) -> str:
        """Describe it in one line."""
        strength = f" {self.strength:g}" if self.strength != 1.0 else ""
        until = f", self-attention to {100 * self.self_percent:g}%" if self.self_percent else ""
        return f"prompt-to-prompt{strength} on {self.where}{until}"

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return the layers around cross- and self-attention."""
        if self.address.kind != "self":
            yield Wrap("attn2", gate, self.attend_cross, self.no_cross)
        if self.address.kind != "cross" and self.self_percent:
            yield Wrap("attn1", gate, self.attend_self, self.no_self)

    def no_self(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return whether the time of self-attention's maps is over, or there is no pair."""
        taken = pairs(site) and curve_weight(Schedule(0.0, self.self_percent), site.options)
        return None if taken else ""

    def attend_self(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend with the source's maps in the edited images."""
        chosen = pairs(site)
        mapped = with_maps(inner, q, k, v, chosen)
        return mapped if site.weight == 1.0 else blended(inner(q, k, v), mapped, chosen, site.weight)

    def no_cross(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return whether the keys are not those of the sampler's own prompts, or there is no pair."""
        return None if pairs(site) and not site.swapped and not site.left_out else ""

    def attend_cross(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Attend with the source's maps in the edited images.

        With the alignment A of the prompts the maps M of the source become M A for the edited one, and (M A) V = M (A
        V), so the values are shared out and any attention function computes it. What new tokens add by maps of their
        own is the difference between attention with and without their values.
        """
        chosen = pairs(site)
        edits = [(edited, *self.shares(site, v, place)) for place, (_, edited) in enumerate(chosen)]
        values = v.clone()
        for edited, shares, text in edits:
            values[edited, :, text] = shares @ v[edited, :, text]
        mapped = with_maps(inner, q, k, values, chosen)
        old = [shares.sum(0) > 0.0 for _, shares, _ in edits]
        only_old = all(bool(tokens.all()) for tokens in old)
        if site.weight == 1.0 and only_old:
            return mapped
        own = inner(q, k, v)
        if not only_old:
            values = v.clone()
            for (edited, _, text), tokens in zip(edits, old, strict=True):
                values[edited, :, text] *= tokens.to(v.dtype)[:, None]
            mapped = mapped + own - inner(q, k, values)
        return blended(own, mapped, chosen, site.weight)

    def shares(self, site: Site, v: Tensor, place: int) -> tuple[Tensor, slice]:
        """Return the alignment (n, m) for prompts as long as the host repeated them, and where they stand.

        `place` is the chunk of the positive rows: a combined prompt has several.
        """
        length = math.lcm(len(self.source), len(self.edited))
        begins = starts(length, v, site, place=place)
        tokens = length * len(begins)
        told = CONTEXT in site.options and not filled(site)
        if told and begins[0] + tokens != site.options[CONTEXT].shape[1]:
            raise ValueError(
                "another prompt stands behind or beside the one given to this node; leave out Conditioning (Concat) "
                "and Conditioning (Combine)"
            )
        shares = site.once(f"{tokens} {v.device} {v.dtype}", lambda: self.aligned(tokens).to(v))
        return shares, slice(begins[0], begins[0] + tokens)

    def aligned(self, tokens: int) -> Tensor:
        """Return the alignment of both prompts repeated to `tokens`."""
        return repeated(alignment(self.source, self.edited), tokens)


def pair(source: Conditioning, edited: Conditioning) -> list[list[Any]]:
    """Return one conditioning that gives the images of a batch the source prompt and the edited one by turns.

    Raises ValueError where one of them holds several prompts.
    """
    prompts = prompt_tokens(source), prompt_tokens(edited)
    length = math.lcm(*(prompt.shape[1] for prompt in prompts))
    # repeating all tokens of a prompt leaves cross-attention as it is
    context = torch.cat([prompt.repeat(1, length // prompt.shape[1], 1) for prompt in prompts])
    entries = dict(source[0][1])
    pooled = [prompt[0][1].get("pooled_output") for prompt in (source, edited)]
    if all(isinstance(output, Tensor) for output in pooled):
        entries["pooled_output"] = torch.cat(pooled)
    return [[context, entries]]


def pairs(site: Site) -> list[tuple[slice, slice]]:
    """Return the rows of the source's images and those of the edited ones, for each chunk of cond rows.

    References have none, nor has what another pack runs with other rows than the run has pictures. Raises ValueError
    where an image has no partner.
    """
    chunks = [] if site.of_reference else site.rows()
    pictures = None if site.run is None else site.run.pictures
    if pictures and not pictures % 2 and any(rows.stop - rows.start == 1 for rows in chunks):
        return []
    if any((rows.stop - rows.start) % 2 for rows in chunks):
        raise ValueError(
            f"prompt-to-prompt draws pairs of pictures, but the batch holds {chunks[0].stop - chunks[0].start}; set "
            "batch_size of the latent to 2 and put Latent Batch Seed Behavior (fixed) behind it"
        )
    return [(slice(rows.start, rows.stop, 2), slice(rows.start + 1, rows.stop, 2)) for rows in chunks]


def with_maps(inner: Inner, q: Tensor, k: Tensor, v: Tensor, chosen: Sequence[tuple[slice, slice]]) -> Tensor:
    """Attend with the queries and keys of the source rows in the edited ones."""
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
