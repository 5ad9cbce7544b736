"""What attention calls a model makes: shapes, dtypes and masks by block and kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...ldm.modules.backends.registry import AttentionCall
from ..addressing.where import Where
from ..engine.attach import attach
from ..engine.router import SLOT
from ..patcher import Patcher
from ..record.run import AttentionId, current_block, run_of
from .rule import Rule


class Observer:
    """An override that notes the first call of each attention, and runs what was there before."""

    def __init__(self, previous: Callable[..., Tensor]) -> None:
        self.previous = previous
        self.calls: dict[AttentionId, AttentionCall] = {}

    def __call__(
        self, func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Run one attention call; the arguments are those of every attention function."""
        options = kwargs.get("transformer_options") or {}
        run = run_of(options)
        attention = current_block(options), None if run is None else run.kind
        if attention not in self.calls:
            self.calls[attention] = AttentionCall.of(q, k, v, heads, *args, **kwargs)
        return self.previous(func, q, k, v, heads, *args, **kwargs)


def observed(model: Patcher) -> tuple[Patcher, Observer]:
    """Return a clone of a model patcher that notes its attention calls, and where they are noted."""
    clone = attach(model, Rule("auto", Where()))
    options = clone.model_options["transformer_options"]
    options[SLOT] = observer = Observer(options[SLOT])
    return clone, observer
