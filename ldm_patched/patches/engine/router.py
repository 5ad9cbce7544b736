"""Which attention function runs each call: an ordered list of rules in the override slot of a model."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..patcher import TransformerOptions
from ..record.lane import Lane
from ..record.plan import Entry
from ..record.run import AttentionId, Run, current_block, run_of
from ..record.stopwatch import since, start
from ..record.tally import Account, Call
from .choice import Arguments, Choice, chosen, function_name, through
from .gate import curve_weight
from .held import Held, override_now
from .preferred import TOLD, preferred
from .rows import ROWS, Rows
from .stack import Attend, default_attend
from .text_view import TextView
from .tokens import TOKENS
from .views import View, view

SLOT = "optimized_attention_override"


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

    @property
    def number(self) -> int | None:
        """Return the entry whose uses the calls are that it looks at; None for none."""
        ...

    def replaced(self, attention: AttentionId, run: Run) -> Choice | None:
        """Return the function that has to run a call in place of any other; None where there is none."""
        ...

    def takes(self, attention: AttentionId) -> bool:
        """Return whether it looks at the results of an attention."""
        ...

    def passes(self, out: Tensor) -> bool:
        """Return whether a result can be returned as it is, without a further look."""
        ...

    def settle(
        self, out: Tensor, choice: Choice, attention: AttentionId, step: int, run: Run, again: Arguments
    ) -> Tensor:
        """Return the result of a call that did not pass, or a better one computed again."""
        ...


class Container(Protocol):
    """What ComfyUI from 0.40 on hands q, k and v in: who takes the tensor out leaves none, so it is freed early."""

    def peek(self) -> Tensor:
        """Return the tensor."""
        ...

    def take(self) -> Tensor:
        """Return the tensor and forget it."""
        ...


# A call that is made now: its options, its run and what this thread does in it, and its attention
Here = tuple[TransformerOptions, Run | None, Lane | None, AttentionId]


@dataclass(eq=False, slots=True)
class Way:
    """What the calls of one kind run in a run, and who looks at their results.

    Args:
        func: the host's choice that it was chosen for; None where that does not matter.
        account: where they are counted.
        gpu: their device, where it has a clock of its own.
    """

    func: Callable[..., Tensor] | None
    choice: Choice
    watch: Watch | None
    account: Account
    gpu: torch.device | None


@dataclass(frozen=True, eq=False)
class Router:
    """The override of one model: the first rule that takes a call chooses the function.

    For a call that no rule takes, what would have run without this runs: the override that was there before, else the
    function that the checkpoint prefers, else the host's own. Another node makes another router. What was chosen is
    kept in the run for the next call of the kind.
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
        given = (q, k, v, heads, *args)
        here = _here(q, k, kwargs)
        if TOKENS in here[0]:
            seen = view(here[0], here[3], given, kwargs)
            if seen is not None:
                return self._entered(seen, func, here)
        return _made(self._way(func, here, given, kwargs), here, given, kwargs)

    def container_function(
        self, q: Container, k: Container, v: Container, heads: int, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Run one call with q, k and v in containers; ComfyUI does not say which function is its own choice here.

        They are handed on as they are, or emptied for a function that takes tensors.
        """
        shown = (q.peek(), k.peek(), v.peek(), heads, *args)
        here = _here(shown[0], shown[1], kwargs)
        seen = view(here[0], here[3], shown, kwargs)
        if seen is not None:
            return self._entered(seen, self.attend, here)
        way = self._way(self.attend, here, shown, kwargs)
        del shown  # the kernel frees the tensors only if nobody else holds them
        if way.choice.contained and way.watch is None:
            return _made(way, here, (q, k, v, heads, *args), kwargs)
        return _made(way, here, (q.take(), k.take(), v.take(), heads, *args), kwargs)

    def _entered(self, seen: View | TextView, func: Callable[..., Tensor], here: Here) -> Tensor:
        """Run the layers of a transformer's call; each attention that they make is chosen for itself."""
        options, run, lane, attention = here
        further = options.get(ROWS)

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            split = {"mask": mask, "skip_reshape": True, "skip_output_reshape": True}
            # the layers have run: another router further in, behind an override of others, is not to run them again
            inside = {**options, **(further.lists(len(q)) if isinstance(further, Rows) else {}), TOKENS: None}
            given, kwargs = (q, k, v, seen.call.heads), {**seen.call.others, **split, "transformer_options": inside}
            now = (inside, run, lane, attention)
            return _made(self._way(func, now, given, kwargs), now, given, kwargs)

        return seen.out(attend)

    # The way of a call

    def _way(self, func: Callable[..., Tensor], here: Here, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Way:
        """Return what runs a call: what is kept for its kind, or else chosen now."""
        options, run, lane, attention = here
        if run is None or lane is None:
            return self._new_way(func, here, Arguments(args, kwargs))
        kept = lane.ways.get(self)
        if kept is None:
            kept = lane.ways[self] = run.ways_in(self._state(options, run), self)
        get, q, k, rest = kwargs.get, args[0], args[1], args[4:]
        mask = rest[0] if rest else get("mask")
        kind = (
            attention,
            args[3],
            q.shape,
            k.shape,
            q.dtype,
            q.device,
            q.requires_grad and torch.is_grad_enabled(),
            None if mask is None else mask.dtype,
            get("attn_precision"),
            get("scale"),
            get("enable_gqa"),
            get("low_precision_attention"),
            get("skip_reshape"),
            options.get(TOLD),
            rest and rest[1:],
        )
        way: Way | None = kept.get(kind)
        if (
            way is None
            or (way.func is not func and way.func is not None)
            or (way.watch is not None and attention in run.downgraded)
        ):
            way = self._new_way(func, here, Arguments(args, kwargs))
            if self.held is None or way.choice.rule is not None:
                kept[kind] = way
        return way

    def _state(self, options: TransformerOptions, run: Run) -> Hashable:
        """Return what a choice hangs on beside the kind of a call, for this router and others of the same parts."""
        is_open = tuple(curve_weight(route.entry.schedule, options) > 0.0 for route in self.routes)
        return id(self.routes), id(self.previous), id(self.watch), self.held is None, is_open, run.in_front

    def _new_way(self, func: Callable[..., Tensor], here: Here, call: Arguments) -> Way:
        _, run, _, attention = here
        watch = self.watch if run is not None and self.watch is not None and self.watch.takes(attention) else None
        replaced = watch.replaced(attention, run) if watch is not None and run is not None else None
        watch = watch if replaced is None else None
        choice = replaced or self._choice(func, here, call)
        group = Call(*attention, choice.name, choice.fallback, choice.rule, choice.preferred)
        device = call.args[0].device
        account = Account(group, None if watch is None else watch.number)
        asked = replaced is None and choice.rule is None and not choice.preferred
        return Way(func if asked else None, choice, watch, account, device if device.type == "cuda" else None)

    def _choice(self, func: Callable[..., Tensor], here: Here, call: Arguments) -> Choice:
        options, run, _, attention = here
        for route in self.routes:
            if route.takes(attention, options):
                return chosen(route.backend, route.entry, run, call)
        previous = self.previous
        if self.held is not None:
            previous = override_now(self.held, attention, options, call.args[0])
        if previous is not None:
            return through(previous, func)
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


def _here(q: Tensor, k: Tensor, kwargs: dict[str, Any]) -> Here:
    """Return what is known of a call, and mark that it is inside of an override."""
    kwargs["_inside_attn_wrapper"] = True  # a wrapped function would come back here without it
    options = kwargs.get("transformer_options") or {}
    run, block = run_of(options), current_block(options)
    if run is None:
        return options, None, None, (block, None)
    lane = run.lane(options)
    if block is None:  # as in the refiners of some transformers: the kind is that of the block before
        return options, run, lane, (None, None)
    kind = run.kind_in(block, q.shape[-2] == k.shape[-2]) if run.plan.kinds else lane.kind
    return options, run, lane, (block, kind)


def _made(way: Way, here: Here, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Make a call, count it, and return its result as who looks at it leaves it."""
    _, run, lane, attention = here
    choice, watch, account = way.choice, way.watch, way.account
    if run is None or lane is None:
        return choice.function(*args, **kwargs)
    before, begin = lane.calls, perf_counter() if way.gpu is None else start(way.gpu)
    out = choice.function(*args, **kwargs)
    took = perf_counter() - begin if isinstance(begin, float) else since(begin)
    if lane.calls == before:
        lane.calls += 1
        run.count_call(account, lane.step, took)
    else:  # another router, behind an override of others, got the call and counted it
        for use in account.uses:
            run.count_patch(*use)
    if watch is None or watch.passes(out):
        return out
    return watch.settle(out, choice, attention, lane.step, run, Arguments(args, kwargs))
