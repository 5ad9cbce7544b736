"""A run that is stopped at any time leaves whole files alone, and its documented exit code."""

from __future__ import annotations

import os

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_signals_at_any_time() -> None:
    from .signalled import trials

    assert trials(3, 1).total() == 3
