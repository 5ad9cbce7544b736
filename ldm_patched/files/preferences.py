"""The attention functions that a checkpoint asks for: ComfyUI from 0.40 on reads one for each layer that has a key."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping

from .weights import Weights

KEY = ".comfy_attention.config"  # its tensor holds JSON: {"attention": name, ...}, or a list, the best first
UNREADABLE = "an unreadable choice"
# The names that every ComfyUI with such choices reads. 0.40 stops at a list, so what is written is one object.
NAMES = ("comfy_kitchen_int8",)
log = logging.getLogger(__name__)


def preferred_functions(weights: Weights) -> dict[str, int]:
    """Return which attention functions the layers of a file ask for, each with the number of layers."""
    return dict(Counter(preferred_layers(weights).values()).most_common())


def preferred_layers(weights: Weights) -> dict[str, str]:
    """Return the function that each layer of a file asks for, by the layer's path."""
    return {key.removesuffix(KEY): _function(weights, key) for key in weights.shapes if key.endswith(KEY)}


def encoded(function: str) -> bytes:
    """Return the choice of a function as a file keeps it."""
    return json.dumps({"attention": function}).encode()


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
