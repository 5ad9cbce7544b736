"""Every attention function held against float64 on the tensors of a model's own calls, by attention and step."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...ldm.modules.backends.basic import attention_basic
from ...ldm.modules.backends.registry import AttentionCall
from ..addressing.schedule import Schedule
from ..engine.choice import Arguments, Choice
from ..engine.given import given
from ..record.run import AttentionId, Run
from .observe import Observer
from .tuning import Check, candidates, sampled

log = logging.getLogger(__name__)
SETTINGS = ("scale", "attn_precision", "low_precision_attention")


@dataclass
class StepErrors:
    """The largest errors in each step of a run, and how far the run was there (0..1)."""

    percents: dict[int, float] = field(default_factory=dict)
    errors: defaultdict[tuple[AttentionId, int], dict[str, float]] = field(default_factory=lambda: defaultdict(dict))

    def note(self, attention: AttentionId, step: int, percent: float, errors: Mapping[str, float]) -> None:
        """Keep the errors of a call; of several in a step the largest counts."""
        self.percents.setdefault(step, percent)
        known = self.errors[attention, step]
        known.update({name: max(error, known.get(name, 0.0)) for name, error in errors.items()})

    def windows(self, attention: AttentionId) -> Iterator[tuple[Schedule, dict[str, float]]]:
        """Yield each part of the run between two steps with the larger of the errors at both."""
        steps = sorted(step for known, step in self.errors if known == attention)
        ends = [round(self.percents[step], 4) for step in steps[1:]] + [1.0]
        begin = 0.0
        for place, (step, end) in enumerate(zip(steps, ends, strict=True)):
            here = self.errors[attention, step]
            after = self.errors[attention, steps[min(place + 1, len(steps) - 1)]]
            yield Schedule(begin, end), {name: max(here[name], after[name]) for name in here.keys() & after.keys()}
            begin = end

    def worst(self) -> dict[str, tuple[float, AttentionId, int]]:
        """Return the largest error of each function, with its attention and step."""
        found: dict[str, tuple[float, AttentionId, int]] = {}
        for (attention, step), errors in self.errors.items():
            for name, error in errors.items():
                if name not in found or error > found[name][0]:
                    found[name] = error, attention, step
        return found

    def text(self) -> str:
        """Return the largest errors for reading."""
        lines = [f"largest error on the model's own tensors, {len(self.percents)} steps, in units of their values:"]
        for name, (error, (block, kind), step) in sorted(self.worst().items(), key=lambda item: item[1][0]):
            lines.append(f"  {name:<18} {error:.1e}   {block or 'a block'} {kind or ''}, step {step}")
        return "\n".join(lines)


class Recorder(Observer):
    """A watch that also runs every function on each call of a run, and notes how far each is from float64."""

    def __init__(self, check: Check) -> None:
        super().__init__()
        self.found = StepErrors()
        self._check = check

    def settle(
        self, out: Tensor, choice: Choice, attention: AttentionId, step: int, run: Run, again: Arguments
    ) -> Tensor:
        """Note a call and its errors, and return its result."""
        self._check()
        percent = run.percent(again.kwargs.get("transformer_options") or {})
        self.found.note(attention, step, percent, errors_of(again))
        return super().settle(out, choice, attention, step, run, again)


def errors_of(call: Arguments) -> dict[str, float]:
    """Return the largest error of each function on a call's own tensors, in units of the root mean square of v.

    So it means what the error on unit-normal tensors means. A function that fails is left out, with a warning.
    """
    q, k, v, heads, mask, _, others = given(*call)
    settings = {name: others[name] for name in SETTINGS if others.get(name) is not None}
    split = {"mask": mask, "skip_reshape": True, "skip_output_reshape": True, **settings}
    about = AttentionCall.of(q, k, v, heads, **split)
    rows = sampled(q.shape[2]).to(q.device)
    some = mask if mask is None or mask.shape[2] == 1 else mask[:, :, rows]
    truth = attention_basic(*(x.double() for x in (q[:, :, rows], k, v)), heads, **{**split, "mask": _double(some)})
    unit = v.double().square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    found = {}
    for backend in candidates(about):
        try:
            out = backend.function(q, k, v, heads, **split)
        except Exception as error:  # a kernel may be built wrongly; what runs tells which can be used
            log.warning("Attention Patchbay: %s failed on %s and is left out: %s", backend.name, about, error)
        else:
            distance = (out[:, :, rows].double() - truth).abs().nan_to_num(nan=float("inf")).max()
            found[backend.name] = (distance / unit).item()
    return found


def _double(mask: Tensor | None) -> Tensor | None:
    return mask.double() if mask is not None and mask.is_floating_point() else mask
