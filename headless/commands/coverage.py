"""How much of what image workflows use runs in the embedded host: `patchbay nodes --coverage`."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

LIST = Path(__file__).with_name("core_nodes.json")  # made by tools/core_nodes.py


class Coverage(NamedTuple):
    """The most used core nodes with the number of ComfyUI's templates that have each, by whether they run here."""

    made: str
    here: dict[str, int]
    missing: dict[str, int]

    @property
    def share(self) -> float:
        """Return the share of the nodes that run here."""
        return len(self.here) / (len(self.here) + len(self.missing))

    def text(self) -> str:
        """Return the coverage for people."""
        total = len(self.here) + len(self.missing)
        lines = [f"{len(self.here)} of the {total} most used core nodes of image workflows run here ({self.share:.1%})"]
        lines += [f"  missing: {name} (in {count} templates)" for name, count in self.missing.items()]
        return "\n".join([*lines, f"list: {self.made}"])


def coverage(known: Collection[str]) -> Coverage:
    """Return the coverage of a host that knows these nodes."""
    data = json.loads(LIST.read_text())
    nodes = data["workflows"]
    here = {name: count for name, count in nodes.items() if name in known}
    return Coverage(data["made"], here, {name: count for name, count in nodes.items() if name not in known})
