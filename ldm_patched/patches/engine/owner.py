"""Whose a patch is: named by the pack and the function or class that it comes from."""

from __future__ import annotations

from typing import Any


def foreign_name(patch: Any) -> str:
    """Name a patch by its owner and the function or class that it comes from."""
    source = _source(patch)
    return f"{owner(patch)}.{source.__qualname__}".replace(".<locals>", "")


def owner(patch: Any) -> str:
    """Name the module of a patch; where it is of a node pack, by the pack: `sd-perturbed-attention: nag_nodes`.

    ComfyUI gives a pack the path of its folder as the name of its module, with `_x_` for each dot.
    """
    module: str = _source(patch).__module__
    _, found, inside = module.replace("\\", "/").rpartition("/")
    if not found:
        return module
    pack, _, rest = inside.partition(".")
    pack = pack.replace("_x_", ".")
    return f"{pack}: {rest}" if rest else pack


def _source(patch: Any) -> Any:
    """Return the function or class that a patch comes from."""
    patch = getattr(patch, "__wrapped__", patch)
    patch = getattr(patch, "func", patch)  # of a partial
    return patch if hasattr(patch, "__qualname__") else type(patch)
