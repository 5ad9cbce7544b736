"""Which attention function runs each call: an ordered list of rules in the override slot of a model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...ldm.modules.backends import registry
from ..patcher import TransformerOptions
from ..record.plan import Entry
from ..record.run import AttentionId, Call, Run, current_block, run_of
from ..record.stopwatch import since, start
from .gate import curve_weight
from .held import Held, override_now
from .owner import owner
from .preferred import preferred
from .rows import ROWS, Rows
from .stack import Attend, default_attend
from .text_view import TextView
from .tokens import TOKENS
from .views import View, view

SLOT = "optimized_attention_override"
log = logging.getLogger(__name__)


class Route(NamedTuple):
    """A rule on one model: its backend, its entry, and the (block, kind) pairs it takes; None for every call."""

    backend: str
    entry: Entry
    attentions: frozenset[AttentionId] | None

    def takes(self, attention: AttentionId, options: TransformerOptions) -> bool:
        """Return whether the current attention call belongs to the rule."""
        mine = self.attentions is None or attention in self.attentions
        return mine and curve_weight(self.entry.schedule, options) > 0.0


class Watch(Protocol):
    """What looks at the results of attention calls."""

    def replaced(self, attention: AttentionId, run: Run) -> Choice | None:
        """Return the function that has to run a call in place of any other; None where there is none."""
        ...

    def takes(self, attention: AttentionId) -> bool:
        """Return whether it looks at the results of an attention."""
        ...

    def settle(
        self, out: Tensor, choice: Choice, attention: AttentionId, step: int, run: Run, again: Arguments
    ) -> Tensor:
        """Return the result of a call, or a better one computed again."""
        ...


class Arguments(NamedTuple):
    """The arguments of an attention function."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Choice(NamedTuple):
    """What runs a call: name and function, why it is not the one asked for, and who chose.

    Args:
        rule: the entry of the rule that chose; None where no rule did.
        preferred: the checkpoint chose.
        contained: q, k and v may stay in their containers.
    """

    name: str
    function: Callable[..., Tensor]
    fallback: str = ""
    rule: int | None = None
    preferred: bool = False
    contained: bool = False


class Container(Protocol):
    """What ComfyUI from 0.40 on hands q, k and v in: who takes the tensor out leaves none, so it is freed early."""

    def peek(self) -> Tensor:
        """Return the tensor."""
        ...

    def take(self) -> Tensor:
        """Return the tensor and forget it."""
        ...


class Here(NamedTuple):
    """The call that is made now: its options, its run and its attention, and what looks at its result."""

    options: TransformerOptions
    run: Run | None
    attention: AttentionId
    watch: Watch | None


@dataclass(frozen=True)
class Router:
    """The override of one model: the first rule that takes a call chooses the function.

    For a call that no rule takes, what would have run without this runs: the override that was there before, else the
    function that the checkpoint prefers, else the host's own. Another node makes another router.
    """

    routes: tuple[Route, ...] = ()
    previous: Callable[..., Tensor] | None = None
    watch: Watch | None = None
    attend: Attend = default_attend
    held: Held | None = None  # that override, where it is under a gate

    def __call__(
        self, func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Run one attention call; the arguments are those of every attention function, `func` is the host's choice."""
        given = Arguments((q, k, v, heads, *args), kwargs)
        here = self._here(given)
        seen = view(here.options, here.attention, *given)
        if seen is not None:
            return self._entered(seen, func, here)
        return self._run(self._choice(func, here, given), here, given)

    def container_function(
        self, q: Container, k: Container, v: Container, heads: int, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Run one call with q, k and v in containers; ComfyUI does not say which function is its own choice here.

        They are handed on as they are, or emptied for a function that takes tensors.
        """
        shown = Arguments((q.peek(), k.peek(), v.peek(), heads, *args), kwargs)
        here = self._here(shown)
        seen = view(here.options, here.attention, *shown)
        if seen is not None:
            return self._entered(seen, self.attend, here)
        choice = self._choice(self.attend, here, shown)
        del shown  # the kernel frees the tensors only if nobody else holds them
        if choice.contained and here.watch is None:
            return self._run(choice, here, Arguments((q, k, v, heads, *args), kwargs), q.peek().device)
        return self._run(choice, here, Arguments((q.take(), k.take(), v.take(), heads, *args), kwargs))

    def _entered(self, seen: View | TextView, func: Callable[..., Tensor], here: Here) -> Tensor:
        """Run the layers of a transformer's call; each attention that they make is chosen for itself."""
        further = here.options.get(ROWS)

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            split = {"mask": mask, "skip_reshape": True, "skip_output_reshape": True}
            # the layers have run: another router further in, behind an override of others, is not to run them again
            inside = {**here.options, **(further.lists(len(q)) if isinstance(further, Rows) else {}), TOKENS: None}
            given = Arguments((q, k, v, seen.call.heads), {**seen.call.others, **split, "transformer_options": inside})
            now = here._replace(options=inside)
            return self._run(self._choice(func, now, given), now, given)

        return seen.out(attend)

    def _run(self, choice: Choice, here: Here, given: Arguments, device: torch.device | None = None) -> Tensor:
        options, run, attention, watch = here
        if run is None:
            return choice.function(*given.args, **given.kwargs)
        before, begin = run.calls_here, start(given.args[0].device if device is None else device)
        out = choice.function(*given.args, **given.kwargs)
        took, step = since(begin), run.step(options)
        if run.calls_here == before:  # else another router, behind an override of others, got the call and counted it
            run.count_call(Call(*attention, choice.name, choice.fallback, choice.rule, choice.preferred), step, took)
        return out if watch is None else watch.settle(out, choice, attention, step, run, given)

    def _here(self, given: Arguments) -> Here:
        """Return what is known of a call, and mark that it is inside of an override."""
        kwargs, (q, k, *_) = given.kwargs, given.args
        options = kwargs.get("transformer_options") or {}
        kwargs["_inside_attn_wrapper"] = True  # a wrapped function would come back here without it
        run, block = run_of(options), current_block(options)
        # outside the blocks, as in the refiners of some transformers, the kind is that of the block before
        kind = run.kind_in(block, q.shape[-2] == k.shape[-2]) if run is not None and block is not None else None
        watched = self.watch is not None and run is not None and self.watch.takes((block, kind))
        return Here(options, run, (block, kind), self.watch if watched else None)

    def _choice(self, func: Callable[..., Tensor], here: Here, given: Arguments) -> Choice:
        options, run, attention, watch = here
        replaced = watch.replaced(attention, run) if watch is not None and run is not None else None
        if replaced is not None:
            return replaced
        for route in self.routes:
            if route.takes(attention, options):
                q, k, v, heads, *rest = given.args
                kwargs = {**given.kwargs, "mask": rest[0]} if rest else given.kwargs
                return Choice(*choose(route.backend, run, q, k, v, heads, kwargs), route.entry.number)
        previous = self.previous
        if self.held is not None:
            previous = override_now(self.held, attention, options, given.args[0])
        if previous is not None:
            return _before(previous, func)
        # an override of others hides what layers prefer, also where it hands the call on to this one
        if run is not None and not (run.in_front or run.behind):
            own = preferred(run.preferred or {}, attention, options)
            if own is not None:
                return Choice(function_name(own), own, preferred=True, contained=True)
        return Choice(function_name(func), func, contained=True)

    # Another router for each change

    def with_rule(self, route: Route) -> Router:
        """Return a router that asks a rule before those it has."""
        return replace(self, routes=(route, *self.routes))

    def with_watch(self, watch: Watch | None) -> Router:
        """Return a router with a watch in place of the one it had."""
        return replace(self, watch=watch)


def _before(previous: Callable[..., Tensor], func: Callable[..., Tensor]) -> Choice:
    """Return what runs a call through the override that was there before; `func` is the host's choice."""
    contained = getattr(previous, "container_function", None)
    return Choice(owner(previous), contained or partial(previous, func), contained=contained is not None)


def choose(
    wanted: str,
    run: Run | None,
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
    choice = None if run is None else run.choices.get(key)
    if choice is None:
        call = registry.AttentionCall.of(q, k, v, heads, **kwargs)
        selection = registry.select(call, wanted)
        fallback = ""
        if wanted not in ("auto", selection.backend.name):
            fallback = f"{wanted}: {'; '.join(dict(selection.skipped)[wanted])}"
        choice = selection.backend.name, selection.backend.function, fallback
        first = run is None or run.remember(key, choice)
        if fallback and first:
            log.warning("Attention Patchbay: %s. Running %s instead.", fallback, selection.backend.name)
    return choice


def function_name(func: Callable[..., Tensor]) -> str:
    """Return the short name of an attention function."""
    func = getattr(func, "func", func)  # of a partial, as a preference with settings is one
    name: str = getattr(func, "__name__", type(func).__name__)
    return name.removeprefix("attention_")
