from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.patches.record.archive import ARCHIVE
from attention_patchbay.ldm_patched.patches.record.plan import plan_of
from attention_patchbay.ldm_patched.patches.record.run import Run
from attention_patchbay.ldm_patched.sampling import samplers
from attention_patchbay.ldm_patched.sampling.model_base import MODEL_CLASSES, ModelConfig
from torch import Tensor

from ..unets import FLAT, draw

NODES: dict[str, Any] = {name: cls for name, cls in catalog().items() if name.startswith("Patchbay")}


def last_run(model: Any) -> Run:
    """Return the record of the last run of a model with the same patches."""
    return [run for run, _ in ARCHIVE._runs.values() if run.plan == plan_of(model)][-1]


@pytest.fixture
def model() -> ModelPatcher:
    """Give a random UNet with the blocks input:1, middle, output:0 and output:1."""
    torch.manual_seed(0)
    return ModelPatcher(MODEL_CLASSES["sd1"](ModelConfig("sd1", FLAT), operations=plain), "cpu", "cpu")


@pytest.fixture
def run() -> Callable[..., Tensor]:
    """Give a function that samples a model in 3 steps, with one call of the network in each."""

    def sample(model: Any, pictures: int = 1, tokens: int = 7) -> Tensor:
        positive, negative = [[draw(1, 1, tokens, 16), {}]], [[draw(2, 1, tokens, 16), {}]]
        noise = draw(0, pictures, 4, 8, 8)
        return samplers.sample(model, noise, positive, negative, 4.0, 3, "euler", "normal", 1.0, seed=0)

    return sample
