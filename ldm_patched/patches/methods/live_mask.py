"""A mask that a word makes of itself: where the picture attends to it in the first steps of the same run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..addressing.grid import blurred
from ..addressing.schedule import Schedule
from ..addressing.where import Where
from ..engine.at_tokens import at_tokens
from ..engine.declaration import NODE, Refused, Widget, acts, choice, fields_of, hidden, inputs_of, method, number
from ..engine.gate import Gate
from ..engine.gathering import Sums, before, gather_rest, scaled
from ..engine.host import Host
from ..engine.place import Place, Wrap
from ..engine.site import Site
from ..patcher import Patcher
from ..record.run import Run, UsedMask
from .alignment import token_ids
from .capture import Capture, Word
from .words import locate, spoken

THEN = ("freeze", "grow")


@method()
class LiveMask(Capture):
    """Gather the attention to a word, and make a mask of it for other methods in the same run; changes nothing itself.

    The map is the mean of the softmax weights of the word's columns over heads, blocks, and all steps so far, scaled
    to the latent's pixels (as in DAAM, Tang et al. 2022, arXiv 2210.04885); blocks count by the side of their grid. It
    is multiplied by the share that the word has there of all that it and the `others` get, smoothed, and scaled from
    its least to its highest value to 0..1. What lies above `threshold` is the mask; 0 gives the map itself.

    Where it is told `apart`, the `others` are words of other things, and the maps of both, scaled alike, part the
    picture: the mask is where the word's is higher, or as high. The map is then 0.5 on the line between.

    The mask holds from the first step at or behind `after` (a part of the noise schedule) that has a step before it.
    With `freeze` it then stays as it is; with `grow` it is made anew in each step, of all steps before. All calls of a
    step see one mask. What uses it shows it in the `node` of the page, if any.
    """

    where: Where = acts("output", kind="cross", end=None, curve=False)
    after: float = number(
        0.2,
        0.01,
        1.0,
        step=0.01,
        bounded=True,
        tip="How much of the run the word's attention is gathered for, as a part of the noise schedule: from there on "
        "its mask holds. At least one step is gathered.",
    )
    threshold: float = number(
        0.6,
        0.0,
        1.0,
        step=0.01,
        bounded=True,
        tip="What lies above this part of the map's highest value belongs to the mask; 0 gives the map itself as mask.",
    )
    smooth: float = number(
        0.06,
        0.0,
        0.5,
        step=0.01,
        bounded=True,
        tip="How far the map is blurred before, as a part of the picture's longer side.",
    )
    then: str = choice(
        THEN, "freeze", tip="Whether the mask then stays as it is, or is made anew in each step of all before it."
    )
    apart: bool = hidden(False)
    node: str = hidden("", compare=False)

    @classmethod
    def asked(cls, asked: Mapping[str, Any]) -> LiveMask:
        """Return the mask for a CLIP, a prompt, a word and the settings of a node; missing ones have their defaults."""
        clip, prompt, word = asked["clip"], asked["prompt"], asked["word"]
        found, length = Word(word, locate(clip, prompt, word)), len(token_ids(clip, prompt))
        against = str(asked.get(AGAINST.name) or "").strip(" ,\n")
        if against:
            other = Word(against, locate(clip, prompt, against))
            if set(other.positions) & set(found.positions):
                raise Refused(f"{word!r} and {against!r} share words; write other ones", AGAINST.name)
            return cls((found,), length, others=(other,), apart=True, node=asked.get(NODE, ""), **_fields(asked))
        rest = tuple(one for one in spoken(clip, prompt) if one < length and one not in found.positions)
        others = (Word("the other words", rest),) if rest else ()
        return cls((found,), length, others=others, node=asked.get(NODE, ""), **_fields(asked))

    @classmethod
    def check_settings(cls, asked: Mapping[str, Any]) -> None:
        """Raise Refused for wrong settings; None: not known yet."""
        cls((), **_fields({name: given for name, given in asked.items() if given is not None}))

    @property
    def shares(self) -> bool:
        """Return that the mask needs nothing but the attention."""
        return False

    @property
    def word(self) -> str:
        """Return the word."""
        return ", ".join(self.labels)

    @property
    def label(self) -> str:
        """Describe the mask."""
        how = f"against {', '.join(self.other_labels)}" if self.apart else f"above {self.threshold:g}"
        return f"live mask of {self.word} {how} after {100 * self.after:g}%, {self.then}"

    @property
    def limit(self) -> float:
        """Return the part of the map's range above which a place is in the mask; 0: the map itself is the mask."""
        return 0.5 if self.apart and self.threshold else self.threshold

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return the layer that listens."""
        yield Wrap(self.slot_listened, gate, self.attend, self.deaf, listens=True)

    def deaf(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return whether a call is not to be heard, or the mask is frozen."""
        reason = super().deaf(site, q, k)
        there = reason is None and self.used(site) is not None
        return "" if there and self.then == "freeze" else reason

    def keep_others(self, site: Site, rest: Tensor) -> None:
        """Add up one call's attention (others, b, n) to the other words, in each step."""
        gather_rest(site, rest, site.image_grid)

    # The mask, for other methods

    def used(self, site: Site) -> UsedMask | None:
        """Return the mask that holds in the step of a call; None before there is one."""
        run = site.run
        number = None if run is None else self._number(run)
        if run is None or number is None:
            return None
        known, step = run.masks.get(number), run.step(site.options)
        if known is not None and (self.then == "freeze" or known.step == step):
            return known
        memory, early = run.memory(number), Schedule(0.0, self.after).weight(run.percent(site.options))
        if early or memory.get("waiting") == step:
            memory["waiting"] = step  # a second call of the step may be at the sigma of the next
            return None
        named, rest = before(step, run.gathered.get(number, {}))
        if named:
            run.masks[number] = site.lasting(lambda: self._made(step, named, rest, run.size))
        return run.masks.get(number)

    def so_far(self, run: Run) -> UsedMask | None:
        """Return the mask that a run uses, or with the step 0 that of all its steps so far; None before any."""
        number = self._number(run)
        named, rest = before(sys.maxsize, run.gathered.get(number, {})) if number is not None else ([], [])
        if number in run.masks or not named:
            return run.masks.get(number) if number is not None else None
        return self._made(0, named, rest, run.size)

    def lacking(self, site: Site) -> str | None:
        """Return why there is no mask in a call, "" where it is only too early; None where there is one."""
        if self.used(site) is not None:
            return None
        gathers = site.run is None or self._number(site.run) is not None
        return "" if gathers else f"nothing gathers the attention to {self.word} any more"

    def _number(self, run: Run) -> int | None:
        """Return the number of the entry that gathers for this mask, though it lost blocks to Remove Patches."""
        all_live = [entry for entry in run.entries if isinstance(entry.value, LiveMask)]
        exact = [entry.number for entry in all_live if entry.value == self]
        like = (e.number for e in all_live if dataclasses.replace(e.value, where=self.where) == self)
        return exact[0] if exact else next(like, None)

    def _made(self, step: int, named: Sequence[Sums], rest: Sequence[Sums], size: tuple[int, ...] | None) -> UsedMask:
        grid = size or max((sums.grid for sums in named), key=lambda grid: grid[0] * grid[1])
        attention = _mean(named, grid)
        if self.apart:
            own, other = (scaled(self.smoothed(one)) for one in (attention, _mean(rest, grid)))
            heat = (1.0 + own - other) / 2.0
        else:
            heat = scaled(self.smoothed(attention * share(attention, _mean(rest, grid)) if rest else attention))
        return UsedMask(step, heat, self.cut(heat))

    def smoothed(self, maps: Tensor) -> Tensor:
        """Return maps (b, h, w) blurred."""
        (height, width), sigma = maps.shape[-2:], self.smooth * max(maps.shape[-2:])
        if sigma == 0.0:
            return maps
        smoothed: Tensor = blurred(maps.flatten(1)[..., None], (height, width), sigma).view_as(maps)
        return smoothed

    def cut(self, heat: Tensor) -> Tensor:
        """Return the mask of a map of 0 to 1."""
        if not self.limit:
            return heat
        # where both words draw least, or most, of all places their maps are equal: such a place is in both masks
        return (heat >= self.limit if self.apart else heat > self.limit).to(heat.dtype)


def share(attention: Tensor, rest: Tensor) -> Tensor:
    """Return which part of the attention to a word and to the rest of the prompt's is the word's, for maps of both."""
    own, other = attention.clamp(min=0.0), rest.clamp(min=0.0)  # maps are drawn smoothly and can overshoot
    return own / (own + other).clamp(min=1e-12)


def _mean(some: Sequence[Sums], size: tuple[int, ...]) -> Tensor:
    """Return the mean map (b, h, w) of some sums of one label, in which a call counts by the longer side of its grid.

    The finer the tokens, the better a map tells the place.
    """
    maps = [one.attention.unflatten(-1, one.grid).to(some[0].attention.device) for one in some]
    large = [F.interpolate(one, size, mode="bicubic", align_corners=False)[0] for one in maps]
    weighted = [one * max(sums.grid) for one, sums in zip(large, some, strict=True)]
    return torch.stack(weighted).sum(0) / sum(sums.calls * max(sums.grid) for sums in some)


def _fields(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a live mask for the settings of a node."""
    fields = fields_of(LiveMask, {name: given for name, given in asked.items() if name in OWN})
    if "map_blocks" in asked:
        try:
            fields["where"] = Where.of(asked["map_blocks"], kind="cross")
        except ValueError as error:
            raise Refused(str(error), "map_blocks") from None
    return fields


def check_word(widget: str, text: str | None) -> None:
    """Raise Refused for a text without a word; None: not known yet."""
    if text is not None and not text.strip(" ,\n"):
        raise Refused(f"{widget} is empty; write a word of the prompt", widget)


# What a node asks for

OWN = ("after", "threshold", "smooth", "then")
SOURCE = (
    Widget("clip", "CLIP", "The CLIP that encodes the positive prompt."),
    Widget(
        "prompt", "STRING", "The positive prompt, as it is encoded.", settings=(("default", ""), ("multiline", True))
    ),
    Widget(
        "word",
        "STRING",
        "The word or phrase of the prompt whose own attention becomes the mask; several, parted by commas, make one "
        "mask together.",
        settings=(("default", ""),),
    ),
)
SETTINGS = (
    *(widget for widget in inputs_of(LiveMask) if widget.name in OWN),
    Widget(
        "map_blocks",
        "STRING",
        "Which transformer blocks' attention to the word is gathered, as an address: output, all, input:4, output:3-5.",
        settings=(("default", "output"),),
    ),
)
AGAINST = Widget(
    "against",
    "STRING",
    "Words of other things in the prompt, parted by commas: the mask is then all of the picture in which word draws "
    "more than they do, up to the line between them, whatever threshold above 0. Empty: threshold cuts the mask.",
    settings=(("default", ""),),
    optional=True,
)


# Where a method asks


def placed(mask: Tensor | LiveMask, site: Site, device: torch.device) -> Tensor:
    """Return what a mask is at each token of a call, (b, n) of 0 to 1; zero while a live one is not there yet.

    A live one is as tight as its object, which would get the half of many a token that it lies on: it holds wholly on
    each of them.
    """
    if isinstance(mask, Tensor):
        return at_tokens(site, mask.to(device, torch.float32).clamp(0.0, 1.0))
    used = mask.used(site)
    if used is None:
        return torch.zeros(site.batch, site.tokens, device=device)
    frames = used.mask.to(device).unflatten(0, (-1, site.frames))  # (b, frames, h, w)
    each = [at_tokens(site, frames[:, i], touching=True) for i in range(site.frames)]
    each = [one.unflatten(1, (site.frames, -1))[:, i] for i, one in enumerate(each)]
    return torch.cat(each, 1)


def stage(masks: Sequence[Tensor | LiveMask], site: Site) -> str:
    """Return what the live ones of some masks hang on in a call beside its layout, as a part of a key for `once`."""
    used = [mask.used(site) for mask in masks if isinstance(mask, LiveMask)]
    return " ".join(str(0 if one is None else one.step) for one in used)


def live(masks: Sequence[Tensor | LiveMask]) -> tuple[LiveMask, ...]:
    """Return the live ones of some masks, each once."""
    return tuple(dict.fromkeys(mask for mask in masks if isinstance(mask, LiveMask)))
