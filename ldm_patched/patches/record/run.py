"""Proof of effect: what attention calls one run made where, on which function, and which patches had a part in them."""

from __future__ import annotations

import functools
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from ..addressing.address import BlockId
from ..addressing.schedule import percent_of
from ..patcher import Patch, TransformerOptions
from .lane import Lane, Threads
from .plan import KEY, Entry, Plan
from .steps import StepCount
from .stopwatch import GpuSpan, Took
from .tally import Account, Call, Tally, Use

T = TypeVar("T")
AttentionId = tuple[BlockId | None, str | None]  # one attention of a model: its block and kind, where the model says
STATES = 64  # of overrides, whose ways a run keeps


class Fault(NamedTuple):
    """Attention calls of one step whose result was not finite: where, on which function, and what was done."""

    block: BlockId | None
    kind: str | None
    step: int
    backend: str
    outcome: str


LET_THROUGH, BLENDED, HELD_BACK = "let through", "blended", "held back"


class HeldCall(NamedTuple):
    """A group of calls of another pack's patch under a gate: of which entry, what, where, and what became of them.

    `outcome` is LET_THROUGH, BLENDED with what would have run without the patch, or HELD_BACK.
    """

    number: int
    name: str
    slot: str
    block: BlockId | None
    outcome: str


class UsedMask(NamedTuple):
    """A mask that was made of the attention to a word: the step from which it holds, its map and itself, (b, h, w)."""

    step: int
    heat: Tensor
    mask: Tensor


@dataclass(eq=False, repr=False)
class Run:
    """What happens during one sampling run; it travels in `transformer_options` by reference, whatever the host copies.

    Calls from several threads are counted exactly.

    Args:
        plan: what was on the model.
        percent_to_sigma: that of the model's sampling; None outside a sampler.
        placed: the (entry number, block) pairs that still had their slot when the run began; block None: in all.
        steps: which step a call belongs to.
        size: height and width of the latent; None outside a sampler.
        prompts: the name that the guider gives each prompt, by the prompt's uuid.
        pictures: rows of the latent; None outside a sampler.
        seen: self- and cross-attentions that the model entered, whatever came of them; where the blocks tell nothing
            themselves, all of them in each call of the model.
        preferred: the functions that the checkpoint keeps for its layers; None before the first call of the model.
        hidden: whether an override hides a function that a layer prefers and that nobody can tell from its call.
        in_front: the owner of what stood in front of this library's override; empty where nothing did.
        behind: the owner of the override behind which entries that are no longer placed are; empty where none is.
        forward: the owner of what was put in the place of the network's own forward; empty where nothing was.
        others: the names of the patches of others in the lists of attention, by slot.
        more_rows: attentions that got more rows of keys than of queries.
        tallies: attention calls that took the override, and the seconds they took, by group and step from 1; step 0
            where the model does not say.
        patched: uses of each entry (by number) in each block.
        sides: what the rows of its calls were that somebody asked about: 0 of the positive prompt, 1 of the negative.
        reached: the entries whose layers were asked at a time when they may act, whatever they did.
        foreign: calls of patches of others, by their identity.
        held: calls of patches of others under a gate.
        running: calls whose time the GPU has not told yet; `settle` waits for them.
        gathered: what an entry (by number) has summed up for after the run.
        changes: how far the patches moved what a block handed on, in each of its calls that was measured.
        masks: the mask that an entry (by number) last made of the attention to a word.
        faults: results that were not finite.
        downgraded: attentions that run an exact function for the rest of the run, and why.
        skips: entry number -> why it last did nothing where it should.
        steered: the entries that have changed what keys or values are made of, by slot and block.
        reads: (slot, block, foreign patch) -> whether the patch looks at the keys and values that it gets.
        overridden: (entry number, block) -> the owner of a foreign patch that left out what the entry had changed.
        notes: what methods had to assume, and what further prompts cost, as lines of the report.
        sigmas: those of its calls.
        ways: what overrides run for the calls of a kind, by the state of the override: windows that are open and the
            like. An override that has it stands beside them, since the state names its parts by their ids.
        fallbacks: why functions did not run that were asked for.
        memories: entry number -> what it keeps during the run.
    """

    plan: Plan = field(default_factory=Plan)
    percent_to_sigma: Callable[[float], float] | None = None
    placed: frozenset[tuple[int, BlockId | None]] = frozenset()
    steps: StepCount = field(default_factory=StepCount)
    size: tuple[int, ...] | None = None
    prompts: dict[Hashable, str] = field(default_factory=dict)
    pictures: int | None = None
    seen: Counter[tuple[BlockId | None, str]] = field(default_factory=Counter)
    preferred: Mapping[AttentionId, Callable[..., Tensor]] | None = None
    hidden: bool = False
    in_front: str = ""
    behind: str = ""
    forward: str = ""
    others: Mapping[str, str] = field(default_factory=dict)
    more_rows: set[AttentionId] = field(default_factory=set)
    tallies: defaultdict[Call, dict[int, Tally]] = field(default_factory=lambda: defaultdict(dict))
    patched: defaultdict[Use, int] = field(default_factory=lambda: defaultdict(int))
    sides: set[int] = field(default_factory=set)
    reached: set[int] = field(default_factory=set)
    foreign: defaultdict[int, Tally] = field(default_factory=lambda: defaultdict(Tally))
    held: Counter[HeldCall] = field(default_factory=Counter)
    running: deque[tuple[Tally, GpuSpan]] = field(default_factory=deque)
    gathered: dict[int, dict[Any, Any]] = field(default_factory=dict)
    changes: defaultdict[BlockId | None, list[float]] = field(default_factory=lambda: defaultdict(list))
    masks: dict[int, UsedMask] = field(default_factory=dict)
    faults: Counter[Fault] = field(default_factory=Counter)
    downgraded: dict[AttentionId, str] = field(default_factory=dict)
    skips: dict[int, str] = field(default_factory=dict)
    steered: defaultdict[tuple[str, BlockId | None], set[int]] = field(default_factory=lambda: defaultdict(set))
    reads: dict[Hashable, bool] = field(default_factory=dict)
    overridden: dict[tuple[int, BlockId | None], str] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)
    sigmas: set[float] = field(default_factory=set)
    ways: dict[Hashable, tuple[object, dict[Hashable, Any]]] = field(default_factory=dict)
    fallbacks: set[str] = field(default_factory=set)
    memories: dict[int, dict[str, Any]] = field(default_factory=dict)
    dropped: bool = False  # what was gathered had to make room for later runs

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = Threads()
        self._percents: dict[float, float] = {}

    def __deepcopy__(self, memo: dict[int, object]) -> Run:
        """Stay one object in options that are copied through and through."""
        return self

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Return what was on the model."""
        return self.plan.entries

    def enter(self, kind: str, block: BlockId | None) -> None:
        """Note that this thread begins the `self`- or `cross`-attention of a block."""
        self._threads.lane.kind = kind
        with self._lock:
            self.seen[block, kind] += 1

    def enter_model(self) -> None:
        """Note that this thread begins a call of the model."""
        lane = self._threads.lane
        lane.block = None
        lane.ways.clear()
        with self._lock:
            self.seen.update((block, kind) for block in self.plan.blocks for kind in self.plan.kinds)

    def kind_in(self, block: BlockId, as_many: bool) -> str | None:
        """Return the kind of the attention call that a block makes now; None where the model does not say.

        `as_many` says that there are as many keys as queries. A block that calls self- and then cross-attention may
        have its self-attention taken by another node, so its first call is that only if its tokens look like it.
        """
        lane = self._threads.lane
        if not self.plan.kinds:
            return lane.kind
        first, *others = self.plan.kinds
        is_first = lane.block != block and as_many
        lane.block = block
        return first if is_first or not others else others[0]

    # Counting

    @property
    def calls(self) -> Counter[Call]:
        """Return how often each group of calls ran, over all steps."""
        groups = list(self.tallies.items())
        return Counter({call: sum(tally.count for tally in list(steps.values())) for call, steps in groups})

    @property
    def last_step(self) -> int:
        """Return the last step in which attention calls were counted; 0 where there was none."""
        return max((step for steps in list(self.tallies.values()) for step in list(steps)), default=0)

    def count_call(self, account: Account, step: int = 0, took: Took = 0.0) -> None:
        """Count one attention call on its account, and the uses that it is."""
        with self._lock:
            tallies = account.tallies
            if tallies is None:
                tallies = account.tallies = self.tallies[account.call]
            tally = tallies.get(step)
            if tally is None:
                tally = tallies[step] = Tally()
            self._add(tally, took)
            for use in account.uses:
                self.patched[use] += 1

    def count_fault(self, fault: Fault) -> None:
        """Count one result that was not finite."""
        with self._lock:
            self.faults[fault] += 1

    def downgrade(self, attention: AttentionId, reason: str) -> None:
        """Let an attention run an exact function from now on."""
        with self._lock:
            self.downgraded[attention] = reason

    def count_patch(self, number: int, block: BlockId | None) -> None:
        """Count one use of a patch in a block."""
        with self._lock:
            self.patched[number, block] += 1

    def count_held(self, call: HeldCall) -> None:
        """Count one call of another pack's patch under a gate."""
        with self._lock:
            self.held[call] += 1

    def holds(self, number: int) -> bool:
        """Return whether an entry held or let through a call of another pack's patch."""
        return any(held.number == number for held in self.held)

    def count_change(self, block: BlockId | None, change: float) -> None:
        """Note how far the patches moved what a block handed on in one call."""
        with self._lock:
            self.changes[block].append(change)

    def gather(self, number: int, key: Hashable, new: T, add: Callable[[T, T], T]) -> None:
        """Add to what an entry keeps for after the run."""
        with self._lock:
            kept = self.gathered.setdefault(number, {})
            kept[key] = add(kept[key], new) if key in kept else new

    def count_foreign(self, patch: Patch, took: Took) -> None:
        """Count one call of a patch that is not this library's."""
        with self._lock:
            self._add(self.foreign[id(patch)], took)

    def _add(self, tally: Tally, took: Took) -> None:
        tally.count += 1
        if isinstance(took, float):
            tally.seconds += took
        else:
            self.running.append((tally, took))
            self._take_times(wait=False)  # events would pile up over a long run

    def _take_times(self, wait: bool) -> None:
        while self.running and (wait or self.running[0][1].over):
            tally, span = self.running.popleft()
            tally.seconds += span.seconds()

    def settle(self) -> None:
        """Wait until the times of all calls are known, and forget what only the run itself needs."""
        with self._lock:
            self._take_times(wait=True)
            self.memories.clear()
            self.ways.clear()
            self.reads.clear()
            self._threads = Threads()

    def drop_gathered(self) -> None:
        """Forget what was gathered."""
        with self._lock:
            self.gathered.clear()
            self.dropped = True

    # Choices and memory

    def ways_in(self, state: Hashable, override: object) -> dict[Hashable, Any]:
        """Return the ways that are kept for a state of an override."""
        with self._lock:
            if len(self.ways) >= STATES and state not in self.ways:
                self.ways.clear()  # options that are copied through and through have other parts in each call
            return self.ways.setdefault(state, (override, {}))[1]

    def falls_back(self, reason: str) -> bool:
        """Note why a function does not run; return whether it is said for the first time."""
        with self._lock:
            first = reason not in self.fallbacks
            self.fallbacks.add(reason)
        return first

    def memory(self, number: int) -> dict[str, Any]:
        """Return what an entry keeps during the run, one dict for all threads.

        What belongs to one device or one call has to be told apart in it.
        """
        with self._lock:
            return self.memories.setdefault(number, {})

    # Time

    def percent(self, options: TransformerOptions) -> float:
        """Return how far the run is, 0..1, by the sigma of the current call; the tensor is read once a step."""
        sigma = self.lane(options).sigma
        return 0.0 if sigma is None else self._percent_at(sigma)

    def step(self, options: TransformerOptions) -> int:
        """Return the step of the current call, from 1; 0 where the options do not say."""
        return self.lane(options).step

    @property
    def percents(self) -> tuple[float, ...]:
        """Return how far the run was at each of its sigmas."""
        return tuple(self._percent_at(sigma) for sigma in self.sigmas)

    def _percent_at(self, sigma: float) -> float:
        """Return how far the run is at a sigma: dozens of questions to the sampling of the model, kept."""
        if self.percent_to_sigma is None:
            return 0.0
        if sigma not in self._percents:
            self._percents[sigma] = percent_of(sigma, self.percent_to_sigma)
        return self._percents[sigma]

    def lane(self, options: TransformerOptions) -> Lane:
        """Return what this thread does, in the step of the current call."""
        lane: Lane = self._threads.lane
        sigmas: Tensor | None = options.get("sigmas")
        if lane.sigmas is not sigmas:
            lane.sigma, lane.step = self._read(sigmas, options.get("sample_sigmas"))
            lane.sigmas = sigmas
            lane.ways.clear()
        return lane

    def _read(self, sigmas: Tensor | None, schedule: Tensor | None) -> tuple[float | None, int]:
        if sigmas is None:
            return None, 0
        with self._lock:
            sigma = float(sigmas.flatten()[0])
            self.sigmas.add(sigma)
            return sigma, self.steps.of(sigmas, sigma, schedule)


def run_of(options: TransformerOptions) -> Run | None:
    """Return the run that a call of the model belongs to; None for a call outside one."""
    found = options.get(KEY)
    return found if isinstance(found, Run) else None


def current_block(options: TransformerOptions) -> BlockId | None:
    """Return the block that an attention call comes from, where the model says."""
    block = options.get("block")
    if block is not None:
        return _block_id(block[0], block[1], options.get("block_index", 0))
    index = options.get("block_index")
    if index is None:
        return None
    return _block_id(options.get("block_type", "block"), index, 0)


@functools.lru_cache(4096)
def _block_id(type: str, number: int, inner: int) -> BlockId:
    return BlockId(type, number, inner)
