"""The error for a wrong value that a user gave."""

from __future__ import annotations


class Refused(ValueError):
    """A wrong value: which widgets it is about, the one to show it at first, and in words what to do about it."""

    def __init__(self, text: str, *widgets: str) -> None:
        super().__init__(text)
        self.widgets = widgets
