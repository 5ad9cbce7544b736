"""The columns of the table: what is put on a model, from nothing to tuned rules with fewer tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from attention_patchbay.ldm_patched.ldm.modules.backends.kernel import EXACT
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.key_value_downsampling import KeyValueDownsampling
from attention_patchbay.ldm_patched.patches.methods.tiled_attention import TiledAttention
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging
from attention_patchbay.ldm_patched.patches.record.run import AttentionId
from attention_patchbay.ldm_patched.patches.routing.observe import Observer, observed
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from attention_patchbay.ldm_patched.patches.routing.rules import attach_rules, rules_text
from attention_patchbay.ldm_patched.patches.routing.tuned_rules import write_rules
from attention_patchbay.ldm_patched.patches.routing.tuning import Tuned, tune
from attention_patchbay.ldm_patched.patches.routing.tuning_store import TuningStore
from attention_patchbay.nodes._host import HOST
from table_rows import Row, sample

LOOSE = 0.05  # of unit-normal inputs: quantised kernels keep it
TUNING_SECONDS = 2.0  # for each call
MERGING, TILES, KEYS = TokenMerging(0.5), TiledAttention(256, swap=1), KeyValueDownsampling(2)


class Column(NamedTuple):
    """What is put on a model: `functions` says how they are chosen ("", "single", "exact" or "loose")."""

    text: str
    functions: str = ""
    methods: tuple[Any, ...] = ()


COLUMNS: dict[str, Column] = {
    "default": Column("the host's default"),
    "neutral": Column("a node that changes nothing", "", (TiledAttention(0),)),
    "single": Column("the best single exact function", "single"),
    "tuned": Column("tuned, exact functions", "exact"),
    "tuned-loose": Column(f"tuned, error up to {LOOSE}", "loose"),
    "merging": Column("token merging 0.5", "", (MERGING,)),
    "tiles": Column("tiles of 256 pixels", "", (TILES,)),
    "keys": Column("keys and values / 2", "", (KEYS,)),
    "tuned-merging": Column("tuned, exact functions, with token merging 0.5", "exact", (MERGING,)),
    "tuned-tiles": Column("tuned, exact functions, with tiles of 256 pixels", "exact", (TILES,)),
    "tuned-keys": Column("tuned, exact functions, with keys and values / 2", "exact", (KEYS,)),
}


def column(name: str) -> Column:
    """Return a column by its name; a function's name stands for that function everywhere."""
    return COLUMNS[name] if name in COLUMNS else Column(f"{name} everywhere", name)


@dataclass
class Columns:
    """The columns of one model; what was measured for a call is kept in `store`."""

    row: Row
    model: Any
    dtype: torch.dtype
    store: TuningStore
    say: Callable[[str], None]

    def put(self, name: str) -> tuple[Any, str]:
        """Return a clone of the model with what a column puts on it, and the rules among that as text.

        Raises AddressError or RuntimeError where the model or the host has no place for a method.
        """
        wanted, model = column(name), self.with_methods(name)
        if not wanted.functions:
            return model, ""
        rules = self._rules(model, wanted.functions)
        return attach_rules(model, rules, HOST), rules_text(rules)

    def with_methods(self, name: str) -> Any:
        """Return a clone of the model with the methods of a column alone."""
        model = self.model
        for method in column(name).methods:
            # by default they leave out a middle that transformers have not
            model = attach(model, replace(method, where=Where.of("all")) if self.row.config else method, HOST)
        return model

    def _rules(self, model: Any, functions: str) -> tuple[Rule, ...]:
        if functions not in ("single", "exact", "loose"):
            return (Rule(functions),)
        calls = Observer()
        sample(self.row, observed(model, calls), 1)
        tuned = self._tuned(calls)
        bound = LOOSE if functions == "loose" else EXACT[self.dtype]
        if functions == "single":
            return (Rule(best_single(calls.counts, calls.calls, tuned, bound)),)
        return write_rules(calls.calls, tuned.values(), bound)

    def _tuned(self, calls: Observer) -> dict[Any, Tuned]:
        known = self.store.load()
        for call in dict.fromkeys(calls.calls.values()):
            if call not in known:
                self.say(f"tuning {call}")
                known[call] = tune(call, TUNING_SECONDS, lambda: None)
                self.store.save([known[call]])
        return {call: known[call] for call in calls.calls.values()}


def best_single(
    counts: Mapping[AttentionId, int], calls: Mapping[AttentionId, Any], tuned: Mapping[Any, Tuned], bound: float
) -> str:
    """Return the function with the least time for all calls of a step among those within the bound.

    Where it cannot run a call, or not within the bound, that of `auto` counts, as there it would run.
    """
    names = {timing.backend for one in tuned.values() for timing in one.timings}

    def seconds(name: str) -> float:
        total = 0.0
        for attention, call in calls.items():
            times = {timing.backend: timing.seconds for timing in tuned[call].timings}
            total += counts[attention] * times.get(name, times.get(registry.select(call).backend.name, 0.0))
        return total

    exact = [n for n in names if all(t.error <= bound for o in tuned.values() for t in o.timings if t.backend == n)]
    return min(sorted(exact), key=seconds, default="auto")
