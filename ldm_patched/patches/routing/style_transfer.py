"""The look of reference pictures by block: self-attention sees their tokens in place of the picture's own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..addressing.address import Address, BlockId
from ..addressing.blocks import Targets, check_address, meant_in, targets
from ..addressing.refused import Refused
from ..addressing.schedule import Schedule
from ..addressing.where import Where
from ..engine.at_tokens import at_tokens
from ..engine.declaration import Widget, acts, choice, hidden, method, socket, switch
from ..engine.gate import Gate
from ..engine.host import Host
from ..engine.place import Place, Wrap, WrapModel
from ..engine.site import RECORDING, Site
from ..engine.stack import Inner
from ..methods.reference_attention import Kept, Reference, ReferencePass, kept_of, rows_of
from ..methods.style_aligned import attend_also, normalised
from ..patcher import Patcher, TransformerOptions
from .rules import RuleError
from .strengths import StrengthRule, Timed, parse_strengths, strength_now

log = logging.getLogger(__name__)

INSTEAD, BESIDE = "instead", "beside"


@method(
    node="PatchbayStyleTransfer",
    title="Style Transfer by Block",
    text="Paint in the look of one or several reference pictures: in the blocks of your choice, each with a strength, "
    "self-attention sees their tokens in place of the picture's own. One more model call beside each, for them.",
    aliases=("style transfer", "visual style prompting", "swap self attention", "style reference", "style injection"),
    gives="in the style of the references",
    asks=(
        Widget(
            "strengths",
            "STRING",
            "How much in which blocks, the first match first: an address, perhaps a part of the run in percent, -> and "
            "a strength of 0 to 1, parted by ; or lines: output:0-2 -> 1; output 0-50% -> 0.5. Others are left alone.",
            settings=(("default", "* -> 1"), ("multiline", True)),
        ),
        Widget(
            "weights",
            "STRING",
            "How much of the look each reference of the batch gives, such as 2, 1; they are made to sum to 1. Empty: "
            "all the same.",
            settings=(("default", ""),),
        ),
    ),
)
class StyleTransfer(Reference):
    """Let self-attention see the keys and values of references in place of those of the picture, or beside them.

    `instead` is swapping self-attention (Jeong et al. 2024, arXiv 2402.12974), `beside` attends to both (Hertz et al.
    2023, arXiv 2312.02133). Each reference is seen by itself, and the results are mixed by their `weights`. With
    `adain` each channel of a result gets the mean and deviation of the reference's own attention there. The strength of
    the first rule that takes a block, times `strength` and the curve, blends (0..1) with the attention without
    references; `mask` (b, h, w) of 0 to 1 says where. 0 changes nothing, to the bit.

    Raises Refused for weights and rules that cannot be read, ValueError for as many weights as there are no references.
    """

    where: Where = acts("output", kind="self")
    how: str = choice(
        (INSTEAD, BESIDE),
        INSTEAD,
        tip="Whether the references' tokens are seen in place of the picture's own, or beside them: weaker.",
    )
    adain: bool = switch(
        False,
        tip="Give the results the mean and deviation of the reference's own attention: makes beside bring colours too.",
    )
    mask: Tensor | None = socket("MASK", tip="Where the style holds, of any size; everywhere without.", optional=True)
    rules: tuple[StrengthRule, ...] = hidden((StrengthRule(1.0),))
    weights: tuple[float, ...] = hidden(())

    @classmethod
    def made(cls, asked: Mapping[str, Any], fields: dict[str, Any]) -> StyleTransfer:
        """Read strengths and weights."""
        return cls(**fields, **_read(asked))

    @classmethod
    def check_asked(cls, asked: Mapping[str, Any]) -> None:
        """Raise Refused for strengths or weights that cannot be read."""
        _read(asked)

    def check(self) -> None:
        """Refuse strengths beyond 0 to 1, and weights for other references."""
        super().check()
        _check(self.rules)
        _check_weights(self.weights, self.weights)
        if self.weights and len(self.weights) != len(self.latent):
            count = f"{len(self.latent)} reference{'s' * (len(self.latent) > 1)}"
            raise ValueError(f"weights has {len(self.weights)} numbers for {count}; give one for each, or none")

    @property
    def neutral(self) -> bool:
        """Return whether no block has a strength."""
        return self.strength == 0.0 or not any(rule.strength for rule in self.rules)

    @property
    def label(self) -> str:
        """Describe it."""
        count, adain = len(self.latent), " with AdaIN" if self.adain else ""
        strengths = "" if self.rules == (StrengthRule(1.0),) else f", {len(self.rules)} strengths"
        return f"style of {count} reference{'s' * (count > 1)} {self.how}{adain}{strengths}{self.times}"

    def targets(self, address: Address, model: Patcher) -> Targets:
        """Return the blocks of its address that some rule gives a strength; raises AddressError like `select`."""
        for rule in self.rules:
            check_address(rule.where.address, model)
        strengths = self._strengths(model)
        return tuple((block, kind) for block, kind in targets(address, model) if strengths.ever(block))

    def check_on(self, model: Patcher) -> None:
        """Refuse strengths that are all for other blocks than those of its address, and tell of some that are."""
        blocks = {block for block, _ in targets(self.address.narrowed("self"), model)}
        some = [rule for rule in self.rules if rule.strength]
        lost = [
            str(rule.where) for rule in some if not any(_takes(meant_in(rule.where.address, model), b) for b in blocks)
        ]
        if not lost or self.neutral:
            return
        told = f"{', '.join(lost)}: none of the blocks '{self.address}' is there, and others see no reference"
        if len(lost) == len(some):
            raise Refused(f"strengths: {told}; write these blocks in blocks too", "strengths", "blocks")
        log.warning("%s: strengths: %s", self.label, told)

    def places(self, gate: Gate, host: Host, model: Patcher) -> Iterable[Place]:
        """Return the run of the references, and the layers that keep and use their tokens; see Reference."""
        self.check_channels(model)
        strengths = self._strengths(model)
        styled = Styled(self, strengths)
        return [
            WrapModel(gate, ReferencePass(self, strengths.within(gate.blocks))),
            Wrap("attn1", gate, self.keep, self.not_recording, counted=False),
            Wrap("attn1", gate, styled, styled.idle),
        ]

    def keep(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Keep the keys, values and result while the references run."""
        out = inner(q, k, v)
        if site.block is not None:
            kept = (k, v, out) if self.adain else (k, v)
            site.options[RECORDING].kept[site.block] = site.lasting(lambda: tuple(x.clone() for x in kept))
        return out

    def styled(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner, kept: Kept) -> Tensor:
        """Return the attention (b, h, n, d) to each reference, mixed by the weights."""
        weights = self.weights or (1.0,) * len(self.latent)
        mixed = torch.zeros_like(q)
        for place, weight in enumerate(weights):
            own_k, own_v, *result = (x[place] for x in kept)
            seen = inner(q, own_k, own_v) if self.how == INSTEAD else attend_also(inner, q, k, v, own_k, own_v)
            mixed += (normalised(seen, result[0]) if self.adain else seen) * (weight / sum(weights))
        return mixed

    def shares(self, site: Site, strength: float, places: Sequence[int], q: Tensor) -> Tensor:
        """Return how much of the style each token gets: (b, 1, n or 1, 1)."""
        chunks = len(site.chunks)
        sides = q.new_tensor([strength if chunk in places else 0.0 for chunk in range(chunks)])
        rows = sides.repeat_interleave(site.batch // chunks)[:, None, None, None]
        return rows if self.mask is None else rows * self._inside(site, self.mask.to(q.device)).to(q.dtype)

    def _inside(self, site: Site, mask: Tensor) -> Tensor:
        placed = mask.float().clamp(0.0, 1.0)
        return site.once(f"inside {site.layout} {mask.device}", lambda: at_tokens(site, placed)[:, None, :, None])

    def _strengths(self, model: Patcher) -> Strengths:
        rules = ((meant_in(rule.where.address, model), rule) for rule in self.rules)
        return Strengths(tuple((address, rule.where.schedule, rule.strength) for address, rule in rules))


@dataclass(frozen=True)
class Strengths:
    """The strengths of blocks: of the first rule that takes a block at the time of a call."""

    rules: tuple[tuple[Address, Schedule, float], ...]

    def ever(self, block: BlockId) -> bool:
        """Return whether a block has a strength at some time."""
        return any(strength for _, strength in self.of(block))

    def now(self, site: Site) -> float:
        """Return the strength of the block of a call."""
        return strength_now(self.of(site.block), site.options)

    def of(self, block: BlockId | None) -> Timed:
        """Return the rules that can take a block, in order."""
        return tuple((schedule, strength) for address, schedule, strength in self.rules if _takes(address, block))

    def within(self, blocks: Iterable[BlockId]) -> Acting:
        """Return when any of some blocks has a strength."""
        return Acting(frozenset(map(self.of, blocks)))


@dataclass(frozen=True)
class Acting:
    """Whether any of some rules gives a strength at the time of a call."""

    rules: frozenset[Timed]

    def __call__(self, options: TransformerOptions) -> bool:
        return any(strength_now(mine, options) for mine in self.rules)


def _takes(address: Address, block: BlockId | None) -> bool:
    return block is not None and address.matches(block.type, block.number, block.inner, "self")


@dataclass(frozen=True)
class Styled:
    """A layer of attn1: the attention to the references, in the strength of its block."""

    style: StyleTransfer
    strengths: Strengths

    def idle(self, site: Site, q: Tensor, k: Tensor) -> str | None:
        """Return whether there is nothing to attend to, or its block has no strength at the time of a call."""
        return "" if self.strengths.now(site) == 0.0 else self.style.unheard(site, q, k)

    def __call__(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        strength = site.weight * self.strengths.now(site)
        places = self.style.seen_by(site.chunks)
        if not places:
            return inner(q, k, v)
        kept = tuple(rows_of(x, places, len(site.chunks), site.batch) for x in kept_of(site))
        styled = self.style.styled(site, q, k, v, inner, kept)
        if strength == 1.0 and len(places) == len(site.chunks) and self.style.mask is None:
            return styled
        return torch.lerp(inner(q, k, v), styled, self.style.shares(site, strength, places, q))


def _read(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return rules and weights as a node gives them; what is missing or not known yet is left out."""
    found: dict[str, Any] = {}
    if asked.get("strengths") is not None:
        try:
            found["rules"] = parse_strengths(asked["strengths"])
        except RuleError as error:
            raise Refused(f"strengths: {error}", "strengths") from None
        _check(found["rules"])
    if asked.get("weights"):
        found["weights"] = _weights(asked["weights"])
    return found


def _check(rules: Sequence[StrengthRule]) -> None:
    wrong = next((rule.strength for rule in rules if not 0.0 <= rule.strength <= 1.0), None)
    if wrong is not None:
        raise Refused(f"strengths: {wrong:g} is out of range; give strengths from 0 to 1", "strengths")
    cross = next((rule.where.address for rule in rules if rule.where.address.kind not in ("all", "self")), None)
    if cross is not None:
        raise Refused(
            f"strengths: '{cross}' says {cross.kind}, but references are seen in self-attention; leave it out",
            "strengths",
        )


def _weights(text: str) -> tuple[float, ...]:
    try:
        weights = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise Refused(
            f"weights: cannot read {text!r}; write a number for each reference, such as 2, 1", "weights"
        ) from None
    _check_weights(weights, text)
    return weights


def _check_weights(weights: Sequence[float], given: object) -> None:
    wrong = not all(one >= 0.0 for one in weights) or not 0.0 < sum(weights) < float("inf")
    if given and wrong:
        raise Refused(
            f"weights: {given!r}; give numbers from 0, one of them above, whose sum is a finite number", "weights"
        )
