"""Keep results in a small folder and take them from it, until killed."""

from __future__ import annotations

import hashlib
import itertools
import random
import sys
from pathlib import Path

import torch
from attention_patchbay.headless.api.comfy_io import NodeOutput
from attention_patchbay.headless.engine.stored_results import StoredResults

KEYS, SIZE = 12, 20_000  # twice as many as the folder has room for


def name_of(key: object) -> str:
    """Return a name as results have it."""
    return hashlib.sha256(str(key).encode()).hexdigest()


def share(results: StoredResults, rounds: int | None) -> int:
    """Return how many results were there, in so many rounds; each holds what was kept under its name."""
    taken, chosen = 0, random.Random(0)
    for _ in itertools.count() if rounds is None else range(rounds):
        key = chosen.randrange(KEYS)
        found = results.get(name_of(key))
        if found is None:
            results.keep(name_of(key), NodeOutput([[torch.full((SIZE,), float(key)), {"of": key}]]))
        else:
            [[tensor, about]] = found.args[0]
            assert about == {"of": key} and torch.equal(tensor, torch.full((SIZE,), float(key)))
            taken += 1
    return taken


if __name__ == "__main__":
    share(StoredResults(Path(sys.argv[1]), 6 * 4 * SIZE), None)
