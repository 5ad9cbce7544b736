"""Random choices that come out the same in every run and host: seeded by the number of the step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def step_number(options: Mapping[str, Any], memory: dict[str, Any]) -> int:
    """Return the step of the current call, 0 where the host does not tell; the sigma is read once a step.

    It is the place in the run's schedule nearest to the sigma, so the extra calls of a second-order sampler need no
    counting. `memory` is what a patch keeps during the run.
    """
    sigma: Tensor | None = options.get("sigmas")
    schedule: Tensor | None = options.get("sample_sigmas")
    if sigma is None or schedule is None:
        return 0
    known = memory.get("step")
    if known is None or known[0] is not sigma:
        now = float(sigma.flatten()[0])
        known = sigma, int((schedule - now).abs().argmin())
        memory["step"] = known  # one assignment: threads of several devices may share the memory
    return known[1]


def step_generator(step: int) -> torch.Generator:
    """Return a generator on the CPU, the same for each call of a step; torch's global one is left alone."""
    return torch.Generator().manual_seed(step)
