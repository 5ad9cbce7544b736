"""Settings of all tests."""

import gc
import os

import pytest
from hypothesis import settings

# A machine may be busy: how long an example takes is no property of the code
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
# With the objects of a thousand tests about, a full collection takes longer than a test
gc.set_threshold(100_000, 50, 100)


def pytest_collection_finish() -> None:
    """Leave what collecting made out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a ComfyUI where none is named."""
    if "COMFYUI_PATH" not in os.environ:
        for item in items:
            if item.get_closest_marker("comfyui"):
                item.add_marker(pytest.mark.skip(reason="COMFYUI_PATH names no ComfyUI checkout"))
