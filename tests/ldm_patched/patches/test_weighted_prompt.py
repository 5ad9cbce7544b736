"""Weights of a prompt on the attention of its words: which token has which, the formula, and the demo model."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.weighted_prompt import WeightedPrompt, read
from attention_patchbay.ldm_patched.sampling.sample import common_ksampler
from attention_patchbay.tools.demo.judge import look

from .maps import applied, around, maps, options
from .models import draw, patcher, run

PIECES = ["<|system|>", "<|end|>", "A", "\u0120red", "\u0120fo", "x", "\u0120car", "Red", "\u0120(", "Caf\u00e9"]
PROMPTS = {"": [], "A red fox car": [2, 3, 4, 5, 6], "(A red fox car": [8, 2, 3, 4, 5, 6], "Caf\u00e9 car": [9, 6]}


class Qwen:
    """A tokenizer that takes parentheses for text, with a template around the prompt."""

    tokenizer = SimpleNamespace(qwen25_7b=SimpleNamespace(inv_vocab=dict(enumerate(PIECES))))

    def tokenize(self, text: str) -> dict[str, Any]:
        return {"qwen25_7b": [[(token, 1.0) for token in [0, *PROMPTS.get(text, [7]), 1]]]}


class Clip:
    """A tokenizer that reads weights itself, for two encoders."""

    def tokenize(self, text: str) -> dict[str, Any]:
        one = [(0, 1.0, 0), (5, 1.3, 1), (6, -1.0, 2), (1, 1.0, 0)]
        return {"g": [one], "l": [one, [(1, 1.0, 0)] * 4]}


def test_weights_that_the_host_reads_are_taken_off_its_tokens() -> None:
    tokens, weights = read(Clip(), "(a:1.3) (b:-1)")
    assert weights == {1: 1.3, 2: -1.0}
    assert tokens["g"] == [[(0, 1.0, 0), (5, 1.0, 1), (6, 1.0, 2), (1, 1.0, 0)]] and len(tokens["l"]) == 2


@pytest.mark.parametrize(
    ("prompt", "plain", "weights"),
    [
        ("A (red:1.5) (fox:-1) car", "A red fox car", {2: 1.5, 3: -1.0, 4: -1.0}),
        ("A ((red fox:1.5) car:2)", "A red fox car", {2: 1.5, 3: 1.5, 4: 1.5, 5: 2.0}),  # as ComfyUI nests them
        ("\\(A red fox (car:0)", "(A red fox car", {6: 0.0}),
        ("A red fox car", "A red fox car", {}),
    ],
)
def test_where_the_host_takes_parentheses_for_text_they_are_read_by_letters(
    prompt: str, plain: str, weights: dict[int, float]
) -> None:
    tokens, found = read(Qwen(), prompt)
    assert tokens == Qwen().tokenize(plain) and found == pytest.approx(weights)


def test_tokens_with_other_letters_are_refused_with_what_would_do() -> None:
    with pytest.raises(ValueError, match="other letters than the prompt.*use Word Weight"):
        read(Qwen(), "nothing (known:2)")


def test_each_token_is_scaled_by_its_own_weight_on_the_positive_rows() -> None:
    q, k, v = draw(0, 4, 5, 8), draw(1, 4, 7, 8), draw(2, 4, 7, 8)
    method = WeightedPrompt((2, 3, 5), (1.5, -1.0, 1.5), 7, 0.5)
    out = around(method, q, k, v, options(1, 0))
    weights = maps(q, k)
    for token, factor in ((2, 1.25), (3, 0.0), (5, 1.25)):
        weights[2:, :, :, token] *= factor
    assert (out - applied(weights, v)).abs().max() < 1e-6


def test_it_is_a_value_and_no_weight_changes_nothing() -> None:
    method = WeightedPrompt((2, 3), (1.5, -1.0), 7)
    assert pickle.loads(pickle.dumps(method)) == method and method.name == "weights 1.5, -1 on all"
    with pytest.raises(ValueError, match="2 tokens have 1 weights"):
        WeightedPrompt((2, 3), (1.5,), 7)
    model = patcher()
    base = run(model, 2)
    assert torch.equal(run(attach(model, WeightedPrompt((), (), 7)), 2), base)
    assert not torch.equal(run(attach(model, method), 2), base)


def test_a_colour_below_zero_shows_less() -> None:
    model, clip, vae = load_checkpoint(CHECKPOINT)

    def red(prompt: str) -> int:
        asked = {"clip": clip, "prompt": prompt}
        (positive,), patched = WeightedPrompt.results(asked), attach(model, WeightedPrompt.made(asked, {}))
        latent = {"samples": torch.zeros(12, 4, 16, 16)}
        out = common_ksampler(patched, 1, 8, 4.0, "euler", "normal", positive, [[clip.encode(""), {}]], latent)
        return sum(any(one.colour == "red" for one in look(picture)) for picture in vae.decode(out["samples"]).numpy())

    with torch.inference_mode():
        plain, below = red("a circle and a red square"), red("a circle and a (red:-1) square")
    assert plain >= 10 and below <= plain - 4, (plain, below)
