"""Attention Patchbay: ComfyUI's door to the nodes, and a script's to `api.py`. It imports nothing until it is asked."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import *  # noqa: F403

WEB_DIRECTORY, __version__ = "./web", "0.1.0"
__all__ = ["blocks", "capture", "encode", "heatmaps", "load", "maps", "methods"]  # noqa: F405
__all__ += ["__version__", "patch", "report", "run", "sample", "tune", "unpatch"]  # noqa: F405


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".api", __name__), name)


async def comfy_entrypoint() -> Any:
    """Return the extension that lists the nodes; ComfyUI would log an error here without its traceback."""
    try:
        from .nodes.extension import PatchbayExtension
    except Exception:
        logging.exception("Attention Patchbay cannot be loaded")
        raise
    return PatchbayExtension()
