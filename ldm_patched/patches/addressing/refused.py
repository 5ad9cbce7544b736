"""The error for a wrong value that a user gave."""

from __future__ import annotations


class Refused(ValueError):
    """A wrong value: which widgets it is about, the one to show it at first, and in words what to do about it."""

    def __init__(self, text: str, *widgets: str) -> None:
        super().__init__(text)
        self.widgets = widgets


LONGEST = 10_000  # characters of a text that is read: 70 blocks, one by one, take 1,000


def readable(text: str, widget: str) -> str:
    """Return a text that is short enough to be read at once; raises Refused."""
    if len(text) > LONGEST:
        raise Refused(f"{widget}: the text has {len(text)} characters; write {LONGEST} at most", widget)
    return text
