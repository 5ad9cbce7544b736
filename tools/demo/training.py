"""What both demo trainings share: a time budget, a learning-rate curve, and atomic checkpoints."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)


@dataclass
class Budget:
    """Seconds a training may take, counted over all its runs."""

    seconds: float
    spent: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Count the seconds of this run and the ones before it."""
        return self.spent + time.monotonic() - self._since

    def share(self) -> float:
        """Give the share of the budget that is used up, 0..1."""
        return min(1.0, self.elapsed() / self.seconds)


def learning_rate(peak: float, step: int, share: float, warmup: int = 100, hold: float = 0.7) -> float:
    """Warm up over the first steps, hold, then fall linearly to a hundredth of the peak."""
    fall = 1.0 - 0.99 * max(0.0, share - hold) / (1.0 - hold)
    return peak * min(1.0, (step + 1) / warmup) * fall


def save_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file beside its final path and move it there, so that a reader never sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@dataclass
class Run:
    """One resumable training: what is trained, its state file, and the loop."""

    name: str
    state: dict[str, Any]  # name -> object with state_dict / load_state_dict
    optimizer: torch.optim.Optimizer
    directory: Path
    minutes: float
    peak: float
    step: int = 0

    def __post_init__(self) -> None:
        self.budget = Budget(self.minutes * 60.0)
        self.state["optimizer"] = self.optimizer

    @property
    def path(self) -> Path:
        """Give the place of the state file."""
        return self.directory / f"{self.name}.pt"

    def resume(self) -> bool:
        """Continue from the state file if there is one."""
        if not self.path.exists():
            return False
        saved = torch.load(self.path, weights_only=True)
        for name, part in self.state.items():
            part.load_state_dict(saved[name])
        self.step, self.budget.spent = saved["step"], saved["seconds"]
        log.info("%s: resumed at step %d after %.0f s", self.name, self.step, self.budget.spent)
        return True

    def save(self) -> None:
        """Write the state file."""
        saved = {name: part.state_dict() for name, part in self.state.items()}
        saved |= {"step": self.step, "seconds": self.budget.elapsed()}
        self.directory.mkdir(parents=True, exist_ok=True)
        save_atomic(self.path, lambda partial: torch.save(saved, partial))

    def report(self, loss: float, pace: float) -> None:
        """Log the progress."""
        left = self.budget.seconds - self.budget.elapsed()
        log.info("%s step %d: loss %.5f, %.3f s a step, %.0f s left", self.name, self.step, loss, pace, left)

    def loop(self, loss_of: Callable[[], Tensor], after: Callable[[], None], every: int = 200) -> None:
        """Take steps until the budget is spent; log and save every so many steps, and on Ctrl-C."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        running, since = 0.0, time.monotonic()
        try:
            while self.budget.share() < 1.0:
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate(self.peak, self.step, self.budget.share())
                self.optimizer.zero_grad(set_to_none=True)
                loss = loss_of()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                self.optimizer.step()
                self.step += 1
                running += float(loss.detach())
                after()
                if self.step % every == 0:
                    self.report(running / every, (time.monotonic() - since) / every)
                    running, since = 0.0, time.monotonic()
                    self.save()
        finally:
            self.save()
