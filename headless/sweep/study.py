"""What a sweep asks: which inputs its repeats set, what its noise floor is, and the models of its block axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Study:
    """What the table alone does not tell of a sweep.

    Args:
        seeds: the seeds that repeats set.
        text: the input that got the prompts of a file; empty without one.
        floor: the attention function that computed each baseline once more; empty for none.
        maps: for each axis made by `each(...)` the Block Map of its model, as plain values.
    """

    seeds: tuple[str, ...] = ()
    text: str = ""
    floor: str = ""
    maps: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def repeated(self) -> tuple[str, ...]:
        """Return the inputs that repeats set."""
        return (*self.seeds, self.text) if self.text else self.seeds

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def read(cls, found: Any) -> Study:
        """Return what `plain` gave; an empty one for anything else."""
        try:
            maps = {str(name): list(blocks) for name, blocks in found["maps"].items()}
            seeds = tuple(map(str, found["seeds"]))
            return cls(seeds, str(found["text"]), str(found["floor"]), maps)
        except (TypeError, KeyError, AttributeError):
            return cls()
