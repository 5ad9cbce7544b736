"""Foreign patches of a model: each of their calls is counted, without changing what they do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..patcher import TransformerOptions
from ..record.run import Run, run_of
from ..record.stopwatch import since, start
from .guest import watched
from .held import Held
from .marks import Mark
from .stack import KINDS, Stack


def counted(options: TransformerOptions) -> TransformerOptions:
    """Return the options of a model call whose foreign patches tell the run of each call."""
    run = run_of(options)
    if run is None:
        return dict(options)
    patches = options.get("patches", {})
    replaced = options.get("patches_replace", {})
    return {
        **options,
        "patches": {slot: [_counting(patch, run) for patch in some] for slot, some in patches.items()},
        "patches_replace": {
            slot: {address: _replacing(patch, slot, run) for address, patch in entries.items()}
            for slot, entries in replaced.items()
        },
    }


def _replacing(patch: Any, slot: str, run: Run) -> Any:
    """Return a patch in the place of an attention as one that is counted, and that may leave out what is ours."""
    counting = _counting(patch, run)
    if slot not in KINDS or isinstance(patch, Stack):
        return counting

    def call(q: Tensor, k: Tensor, v: Tensor, extra_options: TransformerOptions) -> Tensor:
        return watched(counting, slot, q, k, v, extra_options)

    return call


def _counting(patch: Any, run: Run) -> Any:
    if isinstance(patch, tuple):  # a class of layers and the function that runs them
        return (*patch[:-1], _counting(patch[-1], run))
    if isinstance(patch, Stack):
        return patch if patch.foreign is None else replace(patch, foreign=_counting(patch.foreign, run))
    if isinstance(patch, Held):
        below = None if patch.below is None else _counting(patch.below, run)
        return replace(patch, patch=_counting(patch.patch, run), below=below)
    if isinstance(patch, Mark) or hasattr(patch, "gate"):
        return patch

    def call(*args: Any, **kwargs: Any) -> Any:
        begin = start(_device(args))
        try:
            return patch(*args, **kwargs)
        finally:
            run.count_foreign(patch, since(begin))

    call.__wrapped__ = patch  # type: ignore[attr-defined]
    return call


def _device(args: tuple[Any, ...]) -> torch.device | None:
    """Return the device of the first tensor among the arguments; some slots get one dict with all of them."""
    values = (value for part in args for value in (part.values() if isinstance(part, dict) else (part,)))
    return next((value.device for value in values if isinstance(value, Tensor)), None)
