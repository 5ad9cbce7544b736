"""Attention Patchbay: ComfyUI's door to the nodes. It imports nothing until ComfyUI asks for them."""

from __future__ import annotations

import logging
from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """Return the extension that lists the nodes; ComfyUI would log an error here without its traceback."""
    try:
        from .nodes.extension import PatchbayExtension
    except Exception:
        logging.exception("Attention Patchbay cannot be loaded")
        raise
    return PatchbayExtension()
