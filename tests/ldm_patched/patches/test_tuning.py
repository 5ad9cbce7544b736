"""Tuning: what is measured, which rules come of it, and what is kept."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import compiled_tiles, registry
from attention_patchbay.ldm_patched.ldm.modules.backends.registry import AttentionCall
from attention_patchbay.ldm_patched.patches.addressing.address import BlockId
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from attention_patchbay.ldm_patched.patches.routing.rules import rules_text
from attention_patchbay.ldm_patched.patches.routing.tuned_rules import attention_seconds, gain_text, write_rules
from attention_patchbay.ldm_patched.patches.routing.tuning import (
    Timing,
    Tuned,
    candidates,
    exact_rows,
    row_error,
    tensors,
    tune,
)
from attention_patchbay.ldm_patched.patches.routing.tuning_store import TuningStore, machine

CALL = AttentionCall(2, 4, 4, 96, 77, 16, torch.float32, "cpu")
CALLS = [
    CALL,
    dataclasses.replace(CALL, mask=torch.bool),
    dataclasses.replace(CALL, mask=torch.float32, scale=0.3),
    dataclasses.replace(CALL, kv_heads=2, enable_gqa=True),
    dataclasses.replace(CALL, dtype=torch.bfloat16, n_q=7),
]


def never() -> None:
    """Never stop."""


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_every_candidate_is_timed_and_its_error_measured(call: AttentionCall) -> None:
    tuned = tune(call, 0.05, never)
    tiled = {"cpu_bf16"} if call.dtype == torch.float32 else {"cpu_tiled"}
    compiled = {"cpu_tiled"} if compiled_tiles.missing() is None else set()
    assert {timing.backend for timing in tuned.timings} == {"sub_quad", "split", "pytorch"} | tiled | compiled
    assert [timing.seconds for timing in tuned.timings] == sorted(timing.seconds for timing in tuned.timings)
    for timing in tuned.timings:
        backend = registry.get(timing.backend)
        assert backend is not None and timing.seconds > 0 and timing.error < backend.tolerance[call.dtype]


def test_the_reference_is_attention_in_float64() -> None:
    call = CALLS[2]
    q, k, v, mask = tensors(call)
    assert mask is not None
    scores = q.double() @ k.double().transpose(-1, -2) * 0.3 + mask.double()
    whole = scores.softmax(-1) @ v.double()
    assert row_error(call, whole, exact_rows(call, q, k, v, mask)) < 1e-12
    wrong = whole.clone()
    wrong[1, 2, 0] += 0.5
    assert row_error(call, wrong, exact_rows(call, q, k, v, mask)) == pytest.approx(0.5)
    wrong[0, 0, -1, 0] = math.nan
    assert row_error(call, wrong, exact_rows(call, q, k, v, mask)) == math.inf


def test_the_host_can_stop_it() -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        tune(CALL, 1.0, stop)


def tuned(call: AttentionCall, **timings: tuple[float, float]) -> Tuned:
    found = (Timing(name, *values) for name, values in timings.items())
    return Tuned(call, tuple(sorted(found, key=lambda timing: timing.seconds)))


def test_rules_name_the_fastest_function_within_the_bound() -> None:
    long, short = CALL, dataclasses.replace(CALL, n_q=16, n_k=16)
    middle, first, second = BlockId("middle", 0), BlockId("input", 1), BlockId("output", 3, 1)
    calls = {(first, "self"): long, (second, "self"): long, (middle, "self"): short, (middle, "cross"): short}
    results = [
        tuned(long, split=(1.0, 1e-6), pytorch=(2.0, 1e-7), sage=(0.5, 1e-2)),
        tuned(short, pytorch=(1.0, 1e-7), split=(0.99, 1e-7)),
    ]
    assert rules_text(write_rules(calls, results, 1e-3)) == "input:1.0, output:3.1 self -> split\nall -> auto"
    assert rules_text(write_rules(calls, results, 1e-1)) == "input:1.0, output:3.1 self -> sage\nall -> auto"
    assert write_rules(calls, results, 1e-9) == (Rule("auto"),)


def test_what_rules_save_is_the_sum_over_the_calls_of_a_step() -> None:
    long, short = CALL, dataclasses.replace(CALL, n_q=16, n_k=16)
    calls = {(BlockId("input", 1), "self"): long, (BlockId("middle", 0), "self"): short}
    results = [
        tuned(long, split=(1.0, 1e-6), pytorch=(2.0, 1e-7)),
        tuned(short, pytorch=(1.0, 1e-7), split=(0.99, 1e-7)),  # within the margin: it stays with `auto`
    ]
    counts = dict(zip(calls, (3, 5), strict=True))
    assert attention_seconds(counts, calls, results, 1e-3) == (3 * 2.0 + 5 * 1.0, 3 * 1.0 + 5 * 1.0)
    assert attention_seconds(counts, calls, results, 1e-9) == (11.0, 11.0)
    assert gain_text(0.011, 0.008) == "attention in a step: 11 ms by auto, 8 by these rules"
    assert gain_text(math.inf, 1.0) == gain_text(0.0, 0.0) == ""


def test_a_model_without_blocks_gets_one_rule_or_none() -> None:
    other = dataclasses.replace(CALL, n_q=16)
    fast = [tuned(call, split=(1.0, 0.0), pytorch=(2.0, 0.0)) for call in (CALL, other)]
    calls = {(None, None): CALL, (None, "cross"): other}
    assert rules_text(write_rules(calls, fast, 1e-3)) == "all -> split\nall -> auto"
    mixed = [fast[0], tuned(other, split=(2.0, 0.0), pytorch=(1.0, 0.0))]
    assert write_rules(calls, mixed, 1e-3) == (Rule("auto"),)


def test_results_are_kept_for_this_machine_only(tmp_path: Path) -> None:
    results = [tuned(call, split=(1.0, 1e-6), pytorch=(2.0, math.inf)) for call in CALLS]
    store = TuningStore(tmp_path / "deep" / "tuning.json", machine("cpu"))
    assert store.load() == {}
    store.save(results[:2])
    store.save(results[2:])
    assert store.load() == {one.call: one for one in results}
    other = TuningStore(store.path, machine("cpu") | {"torch": "0.0"})
    assert other.load() == {}
    other.save(results[:1])
    assert len(store.load()) == len(CALLS) and len(other.load()) == 1
    assert [path.name for path in store.path.parent.iterdir()] == ["tuning.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99, "machines": {}}', "null"])
def test_a_file_that_cannot_be_read_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tuning.json"
    path.write_text(text)
    store = TuningStore(path, machine("cpu"))
    assert store.load() == {}
    store.save([tuned(CALL, split=(1.0, 0.0))])
    assert len(store.load()) == 1


def test_the_reference_function_is_no_candidate() -> None:
    assert "basic" not in {backend.name for backend in candidates(CALL)}


def test_a_function_that_fails_is_left_out_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no kernel image is available")

    own = dict(registry._registry) | {"split": dataclasses.replace(registry._registry["split"], function=fails)}
    monkeypatch.setattr(registry, "_registry", own)
    tuned = tune(CALL, 0.01, never)
    names = {timing.backend for timing in tuned.timings}
    assert "split" not in names and "pytorch" in names
    assert "split failed on" in caplog.text and "no kernel image" in caplog.text
