"""The table of what words got and brought, on the demo model."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.sampling.sample import common_ksampler
from attention_patchbay.nodes._host import load_demo_model
from attention_patchbay.nodes.capture import CaptureAttention
from attention_patchbay.nodes.shares import WordShares

PLACING = {"blocks": "all", "start_percent": 0.0, "end_percent": 1.0, "curve": "constant"}


@pytest.fixture(scope="module")
def output() -> Any:
    model, clip, _ = load_demo_model()
    prompt = "a red circle and a blue square"
    captured = CaptureAttention.execute(model=model, clip=clip, prompt=prompt, words="red circle", **PLACING).args[0]
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, ""))
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    done = common_ksampler(captured, 1, 3, 4.0, "euler", "normal", positive, negative, latent)
    return WordShares.execute(captured, done)


def test_every_word_has_a_row_in_the_order_of_the_prompt(output: Any) -> None:
    rows = json.loads(json.dumps(output.ui["words"]))
    assert [row["word"] for row in rows] == ["a", "red circle", "red", "circle", "and", "blue", "square"]
    assert {row["side"] for row in rows} == {"positive"} and max(row["relative"] for row in rows) == 1.0


def test_the_words_of_things_bring_most(output: Any) -> None:
    brings = {row["word"]: row["brings"] for row in output.ui["words"]}
    assert min(brings[word] for word in ("red", "blue")) > max(brings[word] for word in ("a", "and"))
    assert {row["word"] for row in output.ui["words"] if row["faint"]} <= {"a", "and"}


def test_the_table_is_given_as_text_too(output: Any) -> None:
    assert output.ui["text"] == list(output.args)
    lines = output.args[0].splitlines()
    assert lines[0].split() == ["word", "tokens", "share", "brings"] and lines[2].startswith("red circle  2")
