"""Prompts: their weights, embeddings and choices, and the words that are looked for in them."""

from __future__ import annotations

from typing import Any

import torch
from attention_patchbay.headless.pages.page_widgets import Widget, chosen, drawn, undrawn
from attention_patchbay.ldm_patched.demo.tokenizer import DemoTokenizer
from attention_patchbay.ldm_patched.patches.methods.alignment import alignment, token_ids
from attention_patchbay.ldm_patched.patches.methods.words import locate
from attention_patchbay.ldm_patched.text.prompt import PromptTokenizer
from torch import Tensor

LENGTH = 77
TOKENIZER = PromptTokenizer(DemoTokenizer(), LENGTH)


class Clip:
    """The part of a CLIP that reads text."""

    def tokenize(self, text: str) -> dict[str, Any]:
        return {"l": TOKENIZER.tokenize_with_weights(text, _vectors)}


def _vectors(name: str) -> Tensor | None:
    return torch.zeros(len(name) % 7, 4) if len(name) < 9 else None


def read_prompt(text: str) -> None:
    """Cut a prompt into chunks, with and without embeddings."""
    for vectors in (None, _vectors):
        chunks = TOKENIZER.tokenize_with_weights(text, vectors)
        assert chunks and all(len(chunk) == LENGTH for chunk in chunks)
        assert all(isinstance(weight, float) for chunk in chunks for _, weight in chunk)


def read_choices(text: str) -> None:
    """Draw from a dynamic prompt; what was drawn stays, through the page and back."""
    widget = Widget("text", "STRING", {"dynamicPrompts": True})
    once = chosen(text)
    assert drawn(widget, undrawn(widget, once)) == once or "//" in once or "/*" in once or "\\" in once


def read_words(text: str) -> None:
    """Find words in a prompt, and line the prompt up with another; zeros part them."""
    prompt, words, other = (*text.split("\0"), "", "")[:3]
    clip = Clip()
    alignment(token_ids(clip, prompt), token_ids(clip, other))
    places = locate(clip, prompt, words)
    assert list(places) == sorted(set(places))
