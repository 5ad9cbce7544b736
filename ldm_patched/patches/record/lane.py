"""What each thread of a run does."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..addressing.address import BlockId


@dataclass(eq=False, slots=True)
class Lane:
    """What one thread of a run does.

    Args:
        kind: the kind of the attention that it is in, where a patch told it.
        block: the block of its last call, where the order of calls tells the kind.
        calls: how many attention calls it has counted.
        sigmas: those of its prediction, with the sigma and the step that were read off them.
        ways: for this prediction, what each override runs for the calls of a kind.
    """

    kind: str | None = None
    block: BlockId | None = None
    calls: int = 0
    sigmas: Tensor | None = None
    sigma: float | None = None
    step: int = 0
    ways: dict[Any, dict[Hashable, Any]] = field(default_factory=dict)


class Threads(threading.local):
    """The lane of each thread, under the same name."""

    def __init__(self) -> None:
        self.lane = Lane()
