"""The texts of a pipeline of diffusers: the tokens of a prompt as methods count them, and what it is encoded to."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

LONGEST = 512  # tokens to which pipelines fill a T5's text up, where they are told nothing else
# What encode_prompt of some pipelines asks for without a default
ENCODING = {"prompt_2": None, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}


class PipelineText:
    """The tokenizer that makes the context of a pipeline, as methods know a CLIP."""

    def __init__(self, pipe: Any) -> None:
        # of two, a transformer's text is that of the second, and both of a UNet count alike
        second = getattr(pipe, "tokenizer_2", None) if getattr(pipe, "transformer", None) is not None else None
        found = second or getattr(pipe, "tokenizer", None)
        if found is None:
            raise TypeError(f"{type(pipe).__name__} has no tokenizer; give the method the places of the words itself")
        self._tokenizer = found
        self._template: str = getattr(pipe, "prompt_template_encode", "{}")
        self._name = "l" if "clip" in type(found).__name__.lower() else "text"
        pieces = {number: piece for piece, number in found.get_vocab().items()}
        self.tokenizer = SimpleNamespace(**{self._name: SimpleNamespace(inv_vocab=pieces)})

    def tokenize(self, text: str) -> dict[str, list[list[tuple[int, float]]]]:
        """Return the tokens of a text, filled up and cut off as the pipeline does it."""
        filled: dict[str, Any] = {}
        if self._template == "{}":
            longest = self._tokenizer.model_max_length if self._name == "l" else LONGEST
            filled = {"padding": "max_length", "max_length": longest, "truncation": True}
        ids = self._tokenizer(self._template.format(text), **filled).input_ids
        return {self._name: [[(number, 1.0) for number in ids]]}


@torch.no_grad()
def encoded(pipe: Any, text: str) -> list[list[Any]]:
    """Return the conditioning of a text: the tokens (1, n, c) that the pipeline gives its network.

    Raises TypeError for what has no text encoder.
    """
    if not hasattr(pipe, "encode_prompt"):
        raise TypeError(f"{type(pipe).__name__} encodes no text; give a pipeline, or the conditioning itself")
    asked = inspect.signature(pipe.encode_prompt).parameters
    settings = {name: value for name, value in ENCODING.items() if name in asked}
    if "device" in asked:
        settings["device"] = pipe._execution_device
    made = pipe.encode_prompt(text, **settings)
    tokens: Tensor = made if isinstance(made, Tensor) else made[0]
    return [[tokens, {}]]
