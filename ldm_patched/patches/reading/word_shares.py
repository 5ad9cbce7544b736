"""What each word of a prompt gets of the attention of a run, and what it brings to the results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..methods.capture import Capture, Word
from ..patcher import Patcher
from .maps import Gathered, captured
from .report import Row, layout

FAINT = 0.3  # of what the first word brings; the help page says how often such a word does nothing
WIDTH = 20  # letters of the longest bar


def word_shares(model: Patcher, samples: Tensor) -> list[Row]:
    """Return a row for each captured word of the run that gave a latent, in the order of the prompt, as plain values.

    `share` is the part of attention that it gets, `brings` the norm of what it adds to a result of attention relative
    to the norm of that result, both the mean over queries, pictures and calls; `relative` is the latter to the word
    that brings most, and `faint` whether it is little. Raises ValueError where no words were captured.
    """
    found = [one for one in captured(model, samples) if isinstance(one.listener, Capture) and one.shares]
    if not found:
        raise ValueError("no words were captured on this model; put Capture Attention with words before the sampler")
    return [row for one in found for row in _rows(one, one.listener)]


def _rows(found: Gathered, capture: Any) -> list[Row]:
    words: list[Word] = [*capture.words, *capture.others]
    calls = sum(sums.calls for sums in found.shares)
    means = torch.stack([sums.attention.mean(1) for sums in found.shares]).sum(0) / calls  # (words, 2)
    most = float(means[:, 1].max())
    rows = []
    for word, (share, brings) in zip(words, means.tolist(), strict=True):
        relative = brings / most if most else 0.0
        more: Row = {"share": share, "brings": brings, "relative": relative, "faint": relative < FAINT}
        rows.append(
            (word.positions[0], {"word": word.text, "tokens": len(word.positions), "side": capture.side} | more)
        )
    return [row for _, row in sorted(rows, key=lambda one: one[0])]


def text(rows: list[Row]) -> str:
    """Return the rows for reading."""
    lines = [["word", "tokens", "share", "brings", ""]]
    for row in rows:
        bar = "little" if row["faint"] else "#" * max(1, round(WIDTH * row["relative"]))
        lines.append(
            [row["word"], str(row["tokens"]), *(f"{100 * row[name]:.1f} %" for name in ("share", "brings")), bar]
        )
    return "\n".join(layout(lines))
