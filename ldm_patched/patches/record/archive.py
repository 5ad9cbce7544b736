"""The runs of this process that can still be asked for, each by the latent that it gave."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .plan import Plan
from .run import Run

MOST_RUNS = 64
MOST_GATHERED = 256 * 2**20  # bytes of captures in all runs together
DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # in which hosts hand latents on


class GoneError(ValueError):
    """The run of a latent is not known, or its captures were dropped; the text says what may have happened."""


class Archive:
    """The last runs with their results; old ones are dropped, their captures before them."""

    def __init__(self, most_runs: int = MOST_RUNS, most_gathered: int = MOST_GATHERED) -> None:
        self.most_runs = most_runs
        self.most_gathered = most_gathered
        self._runs: OrderedDict[int, tuple[Run, frozenset[str]]] = OrderedDict()
        self._next = 0
        self._lock = threading.Lock()

    def keep(self, run: Run, results: Iterable[Tensor]) -> None:
        """Keep a run that has ended, to be found by any of its results in any dtype."""
        prints = frozenset(fingerprint(result, dtype) for result in results for dtype in DTYPES)
        with self._lock:
            self._runs[self._next] = run, prints
            self._next += 1
            self._trim()

    def _trim(self) -> None:
        while len(self._runs) > self.most_runs:
            self._runs.popitem(last=False)
        held = [(run, sum(_bytes(run.gathered))) for run, _ in self._runs.values()]
        total = sum(size for _, size in held)
        for run, size in held[:-1]:  # the newest keeps what it has gathered
            if total <= self.most_gathered:
                break
            if size:
                run.drop_gathered()
                total -= size

    def find(self, samples: Tensor, plan: Plan | None) -> Run:
        """Return the newest run of a model with these entries that gave a latent.

        Raises GoneError, which says why there is none.
        """
        return self.runs(samples, plan)[0]

    def runs(self, samples: Tensor, plan: Plan | None) -> list[Run]:
        """Return all runs of a model with these entries that gave a latent, the newest first, and at least one.

        Raises GoneError, which says why there is none.
        """
        wanted = fingerprint(samples, samples.unbind()[0].dtype if _is_nested(samples) else samples.dtype)
        with self._lock:
            found = [run for run, prints in reversed(self._runs.values()) if wanted in prints]
        entries = () if plan is None else plan.entries
        same = [run for run in found if run.entries == entries]
        if same:
            return same
        if found:
            raise GoneError(
                "this latent was sampled with other patches than this model has; link the model that the sampler got"
            )
        raise GoneError(
            "no run is known that gave this latent: it was not sampled with this model since the program started, it "
            f"was changed after the sampler, or its run is gone (the last {self.most_runs} are kept)"
        )

    def clear(self) -> None:
        """Forget all runs."""
        with self._lock:
            self._runs.clear()


ARCHIVE = Archive()


def _is_nested(samples: Tensor) -> bool:
    return bool(getattr(samples, "is_nested", False))


def fingerprint(samples: Tensor, dtype: torch.dtype) -> str:
    """Return what tells a latent from others, by its numbers rounded to `dtype`; parts of a nested one in a row."""
    # ComfyUI's pack_latents lays the parts of each row behind one another
    flat = torch.cat([part.flatten(1) for part in samples.unbind()], 1) if _is_nested(samples) else samples
    numbers: Tensor = flat.detach().cpu().to(dtype).contiguous()
    return hashlib.sha256(numbers.view(torch.uint8).numpy().tobytes()).hexdigest()


def _bytes(kept: object) -> Iterator[int]:
    if isinstance(kept, Tensor):
        yield kept.nbytes
    elif isinstance(kept, dict):
        for value in kept.values():
            yield from _bytes(value)
    elif isinstance(kept, (tuple, list)):
        for value in kept:
            yield from _bytes(value)
