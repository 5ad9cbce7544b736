"""How long calls take: by the processor's clock, or on a CUDA GPU, which works behind the processor, by its events."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class GpuSpan:
    """The time between two events of a GPU, which may still lie ahead of it."""

    begin: Any
    end: Any

    @property
    def over(self) -> bool:
        """Tell whether the GPU has come to the end."""
        return self.end.query()

    def seconds(self) -> float:
        """Wait for the end and return the time."""
        self.end.synchronize()
        return self.begin.elapsed_time(self.end) / 1e3


Took = float | GpuSpan


class Stopwatch:
    """Measures from its making to `stop` what a device does meanwhile."""

    def __init__(self, device: torch.device | None) -> None:
        self.device = device if device is not None and device.type == "cuda" and not _capturing() else None
        self.start = time.perf_counter() if self.device is None else self._event()

    def stop(self) -> Took:
        """Return the time that passed."""
        if self.device is None:
            return time.perf_counter() - self.start
        return GpuSpan(self.start, self._event())

    def _event(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


def _capturing() -> bool:
    """Tell whether work is recorded for a CUDA graph, which takes no events that are timed."""
    return torch.cuda.is_current_stream_capturing()
