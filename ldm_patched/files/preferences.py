"""The attention functions that a checkpoint asks for: ComfyUI from 0.40 on reads one for each layer that has a key."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping

from .weights import Weights

KEY = ".comfy_attention.config"  # its tensor holds JSON: {"attention": name, ...}, or a list, the best first
UNREADABLE = "an unreadable choice"
log = logging.getLogger(__name__)


def preferred_functions(weights: Weights) -> dict[str, int]:
    """Return which attention functions the layers of a file ask for, each with the number of layers."""
    return dict(Counter(_function(weights, key) for key in weights.shapes if key.endswith(KEY)).most_common())


def told(found: Mapping[str, int]) -> str:
    """Return the functions and their numbers of layers for reading."""
    return ", ".join(f"{name} in {count} layers" for name, count in found.items())


def warn_of_preferences(weights: Weights) -> None:
    """Log that a file asks for attention functions that are not run here."""
    found = preferred_functions(weights)
    if found:
        why = "without ComfyUI all layers run this library's own attention"
        log.warning("the checkpoint prefers %s; %s", told(found), why)


def _function(weights: Weights, key: str) -> str:
    try:
        config = json.loads(weights[key].numpy().tobytes())
        choices = config if isinstance(config, list) else [config]
        return " or ".join(str(choice["attention"]) for choice in choices)
    except (ValueError, KeyError, TypeError):
        return UNREADABLE
