"""A small random UNet in our own patcher, and one sampling run of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.reading import report
from attention_patchbay.ldm_patched.patches.record.archive import ARCHIVE
from attention_patchbay.ldm_patched.patches.record.plan import plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.sampling import samplers
from attention_patchbay.ldm_patched.sampling.model_base import MODEL_CLASSES, ModelConfig
from torch import Tensor

from ...unets import UNET, draw

BLOCKS = ["input:1", "input:3", "input:3.1", "middle", "output:0", "output:0.1", "output:1", "output:1.1", "output:2"]
BLOCKS += ["output:3"]
STEPS = 2
ZERO = AttentionPatch("attn1.out", "zero", where=Where(parse("middle")))
IDENTITY = AttentionPatch("attn1.out", "identity", where=Where(parse("input:3")))
HALF = AttentionPatch("attn1.out", "identity", strength=0.5, where=Where(parse("input:3")))


@functools.cache
def network() -> Any:
    torch.manual_seed(0)
    return MODEL_CLASSES["sd1"](ModelConfig("sd1", UNET), operations=plain)


def patcher() -> ModelPatcher:
    """Return another patcher of the one network, whose weights no test may change."""
    return ModelPatcher(network(), "cpu", "cpu")


def conditioning(seed: int) -> list[list[Any]]:
    return [[draw(seed, 1, 7, 16), {}]]


def run(model: Any, steps: int = STEPS) -> Tensor:
    """Sample 8x8 latents with cfg 4: cond and uncond share each of the `steps` model calls."""
    noise = draw(0, 1, 4, 8, 8)
    return samplers.sample(model, noise, conditioning(1), conditioning(2), 4.0, steps, "euler", "normal", 1.0, seed=0)


def calls(model: Any) -> dict[tuple[str, str, str], int]:
    """Return the counted calls as (block, kind, function) -> count."""
    return {(row["block"], row["attention"], row["function"]): row["calls"] for row in report.table(last_run(model))}


def last_run(model: Any) -> Run:
    """Return the record of the last run of a model with the same patches."""
    kept = [run for run, _ in ARCHIVE._runs.values() if run.plan == plan_of(model)]
    return kept[-1]


@contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Check that a model's options are the same objects in the same containers afterwards."""
    before = snapshot(model.model_options)
    yield
    assert snapshot(model.model_options) == before


def snapshot(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: snapshot(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [snapshot(entry) for entry in value]
    return id(value)
