"""Which attention function runs each call: an ordered list of rules in the override slot of a model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ldm.modules.backends import registry
from .gate import current_weight
from .recorder import KEY, Call, Entry, Recorder, current_block
from .schedule import Schedule
from .sentinel import REPAIR, Watch, exact
from .stopwatch import since, start
from .targets import Address, BlockId

SLOT = "optimized_attention_override"
BACKENDS = ("auto", *registry.KNOWN)
Cell = tuple[BlockId | None, str | None]  # the block and the kind of an attention call, where the model says
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rule:
    """Run `backend` (a name of the registry, or `auto`) in the blocks of `address` during `schedule`.

    A backend that this machine lacks is a valid choice. Raises ValueError for a name that does not exist.
    """

    backend: str = "auto"
    address: Address = Address()
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS and registry.get(self.backend) is None:
            raise ValueError(f"unknown attention function {self.backend!r}; choose one of {', '.join(BACKENDS)}")

    @property
    def name(self) -> str:
        """Describe the rule in one line."""
        return f"backend {self.backend} on {self.address}{self.schedule.suffix}"


class Route(NamedTuple):
    """A rule on one model: its backend, its entry, and the (block, kind) pairs it takes; None for every call."""

    backend: str
    entry: Entry
    cells: frozenset[Cell] | None

    @classmethod
    def of(cls, rule: Rule, entry: Entry) -> Route:
        """Resolve a rule for the model of its entry."""
        if rule.address.everywhere:
            return cls(rule.backend, entry, None)
        cells: set[Cell] = set(entry.targets)
        if rule.address.kind == "all":
            cells |= {(block, None) for block, _ in entry.targets}
        return cls(rule.backend, entry, frozenset(cells))

    def takes(self, cell: Cell, recorder: Recorder | None, options: Mapping[str, Any]) -> bool:
        """Tell whether the current attention call belongs to the rule."""
        if self.cells is not None and cell not in self.cells:
            return False
        return current_weight(self.entry.schedule, recorder, options) > 0.0


class Choice(NamedTuple):
    """What runs a call: name and function, why it is not the one asked for, and the entry of the rule that chose."""

    name: str
    function: Callable[..., Tensor]
    fallback: str = ""
    rule: int | None = None


class Router:
    """The override of one model: the first rule that takes a call chooses the function.

    For a call that no rule takes, the override that was there before runs, else the host's own function. A router is
    never changed after it is made: another node makes another router.
    """

    def __init__(
        self,
        routes: tuple[Route, ...] = (),
        previous: Callable[..., Tensor] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.routes = routes
        self.previous = previous
        self.watch = watch

    def __call__(
        self, func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Run one attention call; the arguments are those of every attention function, `func` is the host's choice."""
        options = kwargs.get("transformer_options") or {}
        kwargs["_inside_attn_wrapper"] = True  # a wrapped function would come back here without it
        recorder: Recorder | None = options.get(KEY)
        block = current_block(options)
        # outside the blocks, as in the refiners of some transformers, the kind is that of the block before
        kind = recorder.kind if recorder is not None and block is not None else None
        choice = self._choice(func, options, recorder, (block, kind), (q, k, v, heads, *args), kwargs)
        if recorder is None:
            return choice.function(q, k, v, heads, *args, **kwargs)
        begin = start(q.device)
        out = choice.function(q, k, v, heads, *args, **kwargs)
        took, step = since(begin), recorder.step(options)
        recorder.count_call(Call(block, kind, choice.name, choice.fallback, choice.rule), step, took)
        if self.watch is not None and choice.name != REPAIR and self.watch.takes(block, kind):
            recorder.count_patch(self.watch.entry.number, block)
            again = partial(exact, q, k, v, heads, *args, **kwargs)
            return self.watch.settle(out, choice.name, (block, kind), step, recorder, again)
        return out

    def _choice(
        self,
        func: Callable[..., Tensor],
        options: Mapping[str, Any],
        recorder: Recorder | None,
        cell: Cell,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Choice:
        if recorder is not None and cell in recorder.downgraded:
            return Choice(REPAIR, exact, recorder.downgraded[cell])
        for route in self.routes:
            if route.takes(cell, recorder, options):
                q, k, v, heads, *rest = args
                kwargs = {**kwargs, "mask": rest[0]} if rest else kwargs
                return Choice(*choose(route.backend, recorder, q, k, v, heads, kwargs), route.entry.number)
        if self.previous is not None:
            return Choice(function_name(self.previous), partial(self.previous, func))
        return Choice(function_name(func), func)


def choose(
    wanted: str,
    recorder: Recorder | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    kwargs: Mapping[str, Any],
) -> tuple[str, Callable[..., Tensor], str]:
    """Return name and function of the backend for a call, and why it is not the wanted one.

    The choice is kept for the calls of the same kind in this run; a fallback is logged once a run for each reason.
    """
    get = kwargs.get
    mask = get("mask")
    settings = (get("scale"), get("enable_gqa"), get("low_precision_attention"), get("skip_reshape"))
    kind = (None if mask is None else mask.dtype, get("attn_precision"), q.requires_grad and torch.is_grad_enabled())
    key = (wanted, heads, q.shape, k.shape, q.dtype, q.device, kind, settings)
    choice = None if recorder is None else recorder.choices.get(key)
    if choice is None:
        call = registry.AttentionCall.of(q, k, v, heads, **kwargs)
        selection = registry.select(call, wanted)
        fallback = ""
        if wanted not in ("auto", selection.backend.name):
            fallback = f"{wanted}: {'; '.join(dict(selection.skipped)[wanted])}"
        choice = selection.backend.name, selection.backend.function, fallback
        first = recorder is None or recorder.remember(key, choice)
        if fallback and first:
            log.warning("Attention Patchbay: %s. Running %s instead.", fallback, selection.backend.name)
    return choice


def function_name(func: Callable[..., Tensor]) -> str:
    """Return the short name of an attention function or of a foreign override."""
    name = getattr(func, "__name__", type(func).__name__)
    return name.removeprefix("attention_")
