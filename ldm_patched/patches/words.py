"""Where the words of a prompt stand in its context."""

from __future__ import annotations

from typing import Any

from .alignment import token_ids


def locate(clip: Any, prompt: str, words: str) -> tuple[int, ...]:
    """Return the positions in the context of words or phrases, separated by commas, wherever the prompt has them.

    Raises ValueError for words that the prompt lacks.
    """
    ids = token_ids(clip, prompt)
    positions: set[int] = set()
    for phrase in filter(None, (part.strip() for part in words.split(","))):
        wanted = _content(clip, phrase)
        starts = [i for i in range(len(ids) - len(wanted) + 1) if wanted and ids[i : i + len(wanted)] == wanted]
        if not starts:
            raise ValueError(f"the prompt {prompt!r} has no {phrase!r}; write the words as they stand in it")
        positions.update(start + i for start in starts for i in range(len(wanted)))
    if not positions:
        raise ValueError("no words are given; write some of the prompt's, separated by commas")
    return tuple(sorted(positions))


def _content(clip: Any, text: str) -> tuple[int, ...]:
    """Return the tokens of a text without start, end and padding."""
    start, end = token_ids(clip, "")[:2]
    ids = token_ids(clip, text)
    return ids[1 : ids.index(end, 1)] if ids[0] == start else ids
