"""What attention calls a model makes: shapes, dtypes and masks by block and kind."""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from ...ldm.modules.backends.registry import AttentionCall
from ..addressing.where import Where
from ..engine.attach import attach
from ..engine.choice import Arguments, Choice
from ..engine.router import SLOT
from ..patcher import Patcher
from ..record.run import AttentionId, Run
from .rule import Rule


class Observer:
    """A watch that notes the first call of each attention, and how many there are; it leaves every result as it is."""

    number = None  # it is no entry

    def __init__(self) -> None:
        self.calls: dict[AttentionId, AttentionCall] = {}
        self.counts: Counter[AttentionId] = Counter()

    def takes(self, attention: AttentionId) -> bool:
        """Return True: every attention is noted."""
        return True

    def replaced(self, attention: AttentionId, run: Run) -> Choice | None:
        """Return None: every call runs what it would."""
        return None

    def passes(self, out: Tensor) -> bool:
        """Return False: every call is noted."""
        return False

    def settle(
        self, out: Tensor, choice: Choice, attention: AttentionId, step: int, run: Run, again: Arguments
    ) -> Tensor:
        """Note a call and return its result."""
        self.counts[attention] += 1
        if attention not in self.calls:
            self.calls[attention] = AttentionCall.of(*again.args, **again.kwargs)
        return out


def observed(model: Patcher, observer: Observer) -> Patcher:
    """Return a clone of a model patcher that shows its attention calls to an observer."""
    clone = attach(model, Rule("auto", Where()))
    options = clone.model_options["transformer_options"]
    options[SLOT] = options[SLOT].with_watch(observer)
    return clone
