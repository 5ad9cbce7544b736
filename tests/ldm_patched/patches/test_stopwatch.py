"""Times of calls: by the processor's clock, and by a GPU's events, of which none is lost and none is kept for long."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.patches.record.stopwatch import GpuSpan, since, start
from attention_patchbay.ldm_patched.patches.record.tally import Account, Call

CALL = Call(None, "self", "basic")


@dataclass(eq=False)
class Gpu:
    """A GPU that works only when it is told to: its events happen one after the other, a second apart."""

    recorded: int = 0
    done: int = 0


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "stream of cuda:1"
            gpu.recorded += 1
            self.place = gpu.recorded

        def query(self) -> bool:
            return self.place <= gpu.done

        def synchronize(self) -> None:
            gpu.done = max(gpu.done, self.place)

        def elapsed_time(self, other: Any) -> float:
            assert self.query() and other.query()
            return 1000.0 * (other.place - self.place)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    return gpu


@pytest.mark.parametrize("device", [None, torch.device("cpu")], ids=str)
def test_the_clock_of_the_processor(device: torch.device | None) -> None:
    begin = start(device)
    time.sleep(0.01)
    took = since(begin)
    assert isinstance(took, float) and took >= 0.01


def span() -> GpuSpan:
    took = since(start(torch.device("cuda", 1)))
    assert isinstance(took, GpuSpan)
    return took


def test_what_the_gpu_has_done_is_added_on_the_way_and_the_rest_at_the_end(gpu: Gpu) -> None:
    run = Run()
    for _ in range(3):
        run.count_call(Account(CALL), 1, span())
    patch = print
    run.count_foreign(patch, span())
    tally = run.tallies[CALL][1]
    assert tally.count == 3 and tally.seconds == 0 and len(run.running) == 4
    gpu.done = 5
    run.count_call(Account(CALL), 1, span())
    assert tally.seconds == 2 and len(run.running) == 3
    run.settle()
    assert tally.count == tally.seconds == 4 and run.foreign[id(patch)].seconds == 1
    assert not run.running


def test_a_graph_that_is_captured_gets_no_events(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert isinstance(since(start(torch.device("cuda", 1))), float) and gpu.recorded == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_is_timed_by_what_it_does_and_not_by_the_start_of_it() -> None:
    x = torch.randn(8192, 8192, device="cuda")
    x @ x
    torch.cuda.synchronize()
    begin, watch = time.perf_counter(), start(x.device)
    for _ in range(10):
        x @ x
    took = since(watch)
    started = time.perf_counter() - begin
    assert isinstance(took, GpuSpan) and not took.over
    torch.cuda.synchronize()
    whole = time.perf_counter() - begin
    assert started < took.seconds() <= whole and took.over
