"""How long calls take: by the processor's clock, or on a CUDA GPU, which works behind the processor, by its events."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class GpuSpan:
    """The time between two events of a GPU, which may still lie ahead of it."""

    begin: torch.cuda.Event
    end: torch.cuda.Event

    @property
    def over(self) -> bool:
        """Return whether the GPU has come to the end."""
        return bool(self.end.query())

    def seconds(self) -> float:
        """Wait for the end and return the time."""
        self.end.synchronize()
        milliseconds: float = self.begin.elapsed_time(self.end)
        return milliseconds / 1e3


Start = float | tuple[torch.cuda.Event, torch.device]  # a time, or an event of a GPU
Took = float | GpuSpan


def start(device: torch.device | None) -> Start:
    """Begin to measure what a device does."""
    if device is None or device.type != "cuda" or torch.cuda.is_current_stream_capturing():  # graphs take no events
        return time.perf_counter()
    return _event(device), device


def since(begin: Start) -> Took:
    """Return the time that passed."""
    if isinstance(begin, float):
        return time.perf_counter() - begin
    event, device = begin
    return GpuSpan(event, _event(device))


def _event(device: torch.device) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event
