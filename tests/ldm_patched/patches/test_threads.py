"""Patched models in several threads, as a host with several devices runs them: one clone each, or halves of one run."""

from __future__ import annotations

import copy
import functools
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.attention import optimized_attention
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.router import Route, Router
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.methods.smoothed_guidance import SmoothedGuidance
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.reading.manage import put
from attention_patchbay.ldm_patched.patches.record.plan import KEY, Entry
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.patches.routing.rule import Rule

from . import models
from .models import HALF, ZERO, last_run, patcher

STEPS = 4  # a window of half a run has two
run = functools.partial(models.run, steps=STEPS)

VALUES = [
    ZERO,
    HALF,
    AttentionPatch("attn2.k", "mean", strength=0.5, where=Where(schedule=Schedule(0.0, 0.7, "linear"))),
    Rule("flash", Where(parse("all self"))),
    Rule("basic", Where(parse("output:1 cross"))),
    SmoothedGuidance(scale=1.0, where=Where(parse("middle, input:3"), Schedule(0.0, 0.6)), blur=2.0),
]


@pytest.fixture(autouse=True)
def quick_switching() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(*jobs: Callable[[], Any]) -> list[Any]:
    """Run jobs at the same time in a thread each; return their results."""
    results: list[Any] = [None] * len(jobs)
    errors: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def work(index: int) -> None:
        try:
            start.wait()
            results[index] = jobs[index]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def patched() -> ModelPatcher:
    model = patcher()
    for value in VALUES:
        model = put(model, value)
    return model


def counts(model: Any) -> tuple[Any, ...]:
    recorder = last_run(model)
    assert recorder is not None
    said = re.sub(r" +\d+ %", "", report.text(recorder))  # shares of time differ from run to run
    return recorder.calls, recorder.seen, recorder.patched, recorder.placed, re.sub(" +", " ", said)


@pytest.mark.parametrize("devices", [True, False], ids=["a network each", "one network"])
def test_clones_sample_at_once_as_they_do_alone(devices: bool) -> None:
    model = patched()
    alone = model.clone()
    wanted = run(alone)
    clones = [model.clone() for _ in range(3)]
    for clone in clones if devices else []:
        clone.model = copy.deepcopy(model.model)
    for out in together(*[lambda clone=clone: run(clone) for clone in clones]):
        assert torch.equal(out, wanted)
    assert all(counts(clone) == counts(alone) for clone in clones)


def halves(models: Sequence[Any], at_once: bool) -> Callable[..., list[torch.Tensor]]:
    """Return a CALC_COND_BATCH wrapper that gives each side of the guidance to a network of its own."""

    def wrapper(
        executor: Any, model: Any, conds: Any, x: torch.Tensor, sigma: torch.Tensor, options: dict[str, Any]
    ) -> list[torch.Tensor]:
        def side(index: int) -> torch.Tensor:
            own = copy.copy(options["transformer_options"])
            own["multigpu_thread_device"] = own["sample_sigmas"].device
            mine = [cond if place == index else None for place, cond in enumerate(conds)]
            with torch.no_grad():
                return executor(models[index], mine, x, sigma, {**options, "transformer_options": own})[index]

        jobs = [lambda index=index: side(index) for index in range(len(conds))]
        return together(*jobs) if at_once else [job() for job in jobs]

    return wrapper


def test_halves_of_the_conditionings_run_at_once_as_one_after_the_other() -> None:
    results = []
    for at_once in (False, True):
        model = patched()
        networks = [model.model, copy.deepcopy(model.model)]
        model.add_wrapper("calc_cond_batch", halves(networks, at_once))
        results.append((run(model), *counts(model)))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]
    assert set(results[1][2].values()) == {STEPS * 2 + 2}  # both sides, and the pass of the guidance in its two steps
    whole = run(patched())
    assert (results[0][0] - whole).abs().max() < 1e-4 * whole.abs().max()


def test_a_fallback_is_logged_once_whatever_the_threads(caplog: pytest.LogCaptureFixture) -> None:
    """Every shape is another kind of call: what is kept for them grows while other threads look through it."""
    recorder = Run()
    router = Router((Route("flash", Entry("flash"), None),))

    def work(thread: int) -> None:
        for tokens in range(1, 200):
            x = torch.zeros(1, tokens, 8 * (thread + 1))
            router(optimized_attention, x, x, x, 1, transformer_options={KEY: recorder})

    with caplog.at_level(logging.WARNING):
        together(*[lambda thread=thread: work(thread) for thread in range(4)])
    ((_, kept),) = recorder.ways.values()
    assert len(kept) == recorder.calls.total() == 4 * 199
    assert len([message for message in caplog.messages if "flash" in message]) == 1
