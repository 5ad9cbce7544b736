"""Proof of effect: what attention calls ran where, on which function, and which patches had a part in them."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from .schedule import Schedule, percent_of
from .stopwatch import GpuSpan, Took
from .targets import BlockId

KEY = "patchbay"


@dataclass(frozen=True)
class Entry:
    """What one node attached.

    Args:
        name: one line to show.
        slot: its main place on the model, to show.
        targets: the blocks and kinds of attention it is meant for, kind None where the model tells none; no targets
            where it fits any call.
        number: place in the order of the graph, from 1.
        neutral: its settings change nothing, so it was not put anywhere.
        value: the method or rule itself, to attach it to another model.
    """

    name: str
    slot: str = ""
    targets: tuple[tuple[BlockId, str | None], ...] = ()
    schedule: Schedule = Schedule()
    number: int = 1
    neutral: bool = False
    value: Any = None


class Call(NamedTuple):
    """A group of equal attention calls: where, self or cross, which function, why not the one asked for, whose rule.

    `rule` is the number of the entry whose rule chose the function.
    """

    block: BlockId | None
    kind: str | None
    backend: str
    fallback: str = ""
    rule: int | None = None


class Fault(NamedTuple):
    """Attention calls of one step whose result was not finite: where, on which function, and what was done."""

    block: BlockId | None
    kind: str | None
    step: int
    backend: str
    outcome: str


@dataclass
class Tally:
    """How many calls there were, and how long they took."""

    count: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class Recorder:
    """Count what happens during one sampling run of one model.

    One instance belongs to one clone of a model; it travels in `transformer_options` by reference, whatever the host
    copies. Calls from several threads are counted exactly.

    Args:
        blocks: heads and head dim of each transformer block of the model.
        seen: self- and cross-attentions that the model entered, whatever came of them.
        tallies: attention calls that took the override, and the seconds they took, by step from 1; 0 where the model
            does not say.
        faults: results that were not finite.
        downgraded: attentions that run an exact function for the rest of the run, and why.
        patched: uses of each entry (by number) in each block.
        foreign: calls of patches of others, by their identity.
        running: calls whose time the GPU has not told yet; `settle` waits for them.
        gathered: what an entry (by number) has summed up for after the run.
        placed: the (entry number, block) pairs that still had their slot when the run began; block None: in all.
        first_kind: the kind of attention that a run begins with, where the model tells of the next one after each.
    """

    entries: tuple[Entry, ...] = ()
    blocks: Mapping[BlockId, tuple[int, int]] = field(default_factory=dict)
    seen: Counter[tuple[BlockId | None, str]] = field(default_factory=Counter)
    tallies: dict[tuple[Call, int], Tally] = field(default_factory=dict)
    patched: Counter[tuple[int, BlockId | None]] = field(default_factory=Counter)
    foreign: dict[int, Tally] = field(default_factory=dict)
    running: deque[tuple[Tally, GpuSpan]] = field(default_factory=deque)
    gathered: dict[int, dict[Any, Any]] = field(default_factory=dict)
    faults: Counter[Fault] = field(default_factory=Counter)
    downgraded: dict[tuple[BlockId | None, str | None], str] = field(default_factory=dict)
    skips: dict[int, str] = field(default_factory=dict)  # entry number -> why it last did nothing where it should
    placed: frozenset[tuple[int, BlockId | None]] = frozenset()
    percents: dict[float, float] = field(default_factory=dict)  # sigma -> how far the run is there
    choices: dict[tuple, tuple[str, Callable[..., Tensor], str]] = field(default_factory=dict)
    memories: dict[int, dict[str, Any]] = field(default_factory=dict)  # entry number -> what it keeps during the run
    runs: int = 0
    percent_to_sigma: Callable[[float], float] | None = None
    first_kind: str | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._thread = threading.local()

    def __deepcopy__(self, memo: dict) -> Recorder:
        """Stay one object in options that are copied through and through."""
        return self

    def fork(self) -> Recorder:
        """Return an empty recorder of the same entries, for a clone of the model."""
        return Recorder(self.entries, self.blocks, percent_to_sigma=self.percent_to_sigma, first_kind=self.first_kind)

    def start(self, percent_to_sigma: Callable[[float], float], placed: frozenset[tuple[int, BlockId | None]]) -> None:
        """Forget the last run before the next."""
        with self._lock:
            for counts in (self.seen, self.tallies, self.patched, self.faults, self.downgraded):
                counts.clear()
            for kept in (self.foreign, self.gathered, self.skips, self.percents, self.choices, self.memories):
                kept.clear()
            self.running.clear()
            self._thread = threading.local()
            self.percent_to_sigma = percent_to_sigma
            self.placed = placed
            self.runs += 1

    def enter(self, kind: str, block: BlockId | None) -> None:
        """Note that this thread begins the `self`- or `cross`-attention of a block."""
        self._thread.kind = kind
        with self._lock:
            self.seen[block, kind] += 1

    @property
    def kind(self) -> str | None:
        """Tell whether this thread is in `self`- or `cross`-attention; None where the model does not say."""
        return getattr(self._thread, "kind", self.first_kind)

    @property
    def calls(self) -> Counter[Call]:
        """Return how often each group of calls ran, over all steps."""
        counts: Counter[Call] = Counter()
        for (call, _), tally in self.tallies.items():
            counts[call] += tally.count
        return counts

    def count_call(self, call: Call, step: int = 0, took: Took = 0.0) -> None:
        """Count one attention call, and one use of the rule that chose its function."""
        with self._lock:
            self._add(self.tallies.setdefault((call, step), Tally()), took)
            if call.rule is not None:
                self.patched[call.rule, call.block] += 1

    def count_fault(self, fault: Fault) -> None:
        """Count one result that was not finite."""
        with self._lock:
            self.faults[fault] += 1

    def downgrade(self, cell: tuple[BlockId | None, str | None], reason: str) -> None:
        """Let an attention run an exact function from now on."""
        with self._lock:
            self.downgraded[cell] = reason

    def count_patch(self, number: int, block: BlockId | None) -> None:
        """Count one use of a patch in a block."""
        with self._lock:
            self.patched[number, block] += 1

    def gather(self, number: int, key: Any, new: Any, add: Callable[[Any, Any], Any]) -> None:
        """Add to what an entry keeps for after the run."""
        with self._lock:
            kept = self.gathered.setdefault(number, {})
            kept[key] = add(kept[key], new) if key in kept else new

    def count_foreign(self, patch: Callable[..., Any], took: Took) -> None:
        """Count one call of a patch that is not this library's."""
        with self._lock:
            self._add(self.foreign.setdefault(id(patch), Tally()), took)

    def _add(self, tally: Tally, took: Took) -> None:
        tally.count += 1
        if isinstance(took, GpuSpan):
            self.running.append((tally, took))
            self._take_times(wait=False)
        else:
            tally.seconds += took

    def _take_times(self, wait: bool) -> None:
        while self.running and (wait or self.running[0][1].over):
            tally, span = self.running.popleft()
            tally.seconds += span.seconds()

    def settle(self) -> None:
        """Wait until the times of all calls are known."""
        with self._lock:
            self._take_times(wait=True)

    def remember(self, kind: tuple, choice: tuple[str, Callable[..., Tensor], str]) -> bool:
        """Keep the function chosen for a kind of call; tell whether this fallback is the first for its reason."""
        with self._lock:
            first = choice[2] not in {fallback for _, _, fallback in self.choices.values()}
            self.choices[kind] = choice
        return first

    def memory(self, number: int) -> dict[str, Any]:
        """Return what an entry keeps during the run, one dict for all threads.

        What belongs to one device or one call has to be told apart in it.
        """
        with self._lock:
            return self.memories.setdefault(number, {})

    def percent(self, options: Mapping[str, Any]) -> float:
        """Return how far the run is, 0..1, by the sigma of the current call; the tensor is read once a step."""
        return self._now(options)[0]

    def step(self, options: Mapping[str, Any]) -> int:
        """Return the step of the current call, from 1; 0 where the options do not say."""
        return self._now(options)[1]

    def _now(self, options: Mapping[str, Any]) -> tuple[float, int]:
        sigmas: Tensor | None = options.get("sigmas")
        if sigmas is None or self.percent_to_sigma is None:
            return 0.0, 0
        cached = getattr(self._thread, "now", None)
        if cached is not None and cached[0] is sigmas:
            return cached[1]
        sigma = float(sigmas.flatten()[0])
        if sigma not in self.percents:
            self.percents[sigma] = percent_of(sigma, self.percent_to_sigma)
        now = self.percents[sigma], _step(sigma, options.get("sample_sigmas"))
        self._thread.now = (sigmas, now)
        return now


def _step(sigma: float, schedule: Tensor | None) -> int:
    """Return which of a run's falling sigmas a step at `sigma` started from, counted from 1."""
    if schedule is None:
        return 0
    return max(1, int((schedule >= sigma * (1.0 - 1e-5)).sum()))


def current_block(options: Mapping[str, Any]) -> BlockId | None:
    """Return the block that an attention call comes from, where the model says."""
    block = options.get("block")
    if block is not None:
        return BlockId(block[0], block[1], options.get("block_index", 0))
    index = options.get("block_index")
    if index is None:
        return None
    return BlockId(options.get("block_type", "block"), index)


@dataclass(frozen=True)
class Marker:
    """An attn1_patch or attn2_patch of a UNet that changes nothing but notes which attention comes next."""

    kind: str

    def __call__(
        self, n: Tensor, context: Tensor | None, value: Tensor | None, extra_options: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        recorder: Recorder | None = extra_options.get(KEY)
        if recorder is not None:
            recorder.enter(self.kind, current_block(extra_options))
        return n, context, value
