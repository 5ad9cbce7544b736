"""Where words stand in the context."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.patches.methods.words import locate, spoken
from attention_patchbay.ldm_patched.text.clip_tokenizer import clip_tokenizer
from attention_patchbay.ldm_patched.text.prompt import PromptTokenizer


class TwoEncoders:
    """The tokenizers of SDXL: one vocabulary, other padding."""

    def __init__(self) -> None:
        self.tokenizer = PromptTokenizer(clip_tokenizer())

    def tokenize(self, text: str) -> dict[str, Any]:
        chunks = self.tokenizer.tokenize_with_weights(text)
        return {"g": chunks, "l": [[(0 if token == 49407 else token, weight) for token, weight in c] for c in chunks]}


@pytest.fixture(scope="module")
def demo() -> Any:
    return load_checkpoint(CHECKPOINT)[1]


def test_words_are_found_in_the_demo_model_prompt(demo: Any) -> None:
    prompt = "a red circle on the left and a blue square on the right"
    assert locate(demo, prompt, "red") == (2,)
    assert locate(demo, prompt, "on the") == (4, 5, 11, 12)
    assert locate(demo, prompt, "blue, circle\nred") == (2, 3, 9)
    assert locate(demo, "a (red:0.5) ((circle)) on the left", "circle,red") == (2, 3)


def test_all_tokens_of_a_word_count_and_parts_are_numbered_on() -> None:
    clip = TwoEncoders()
    positions = locate(clip, "a photo of a gyroscope, sharp", "gyroscope")
    assert len(positions) > 1 and positions == tuple(range(5, 5 + len(positions)))
    long = "tree " * 80 + "castle"
    (place,) = locate(clip, long, "castle")
    assert place == 77 + 1 + 80 - 75


class Embedded:
    """A CLIP that reads two vectors for the word `embedding`, as ComfyUI does for a textual inversion."""

    def __init__(self, clip: Any) -> None:
        self.clip = clip

    def tokenize(self, text: str) -> dict[str, Any]:
        (chunks,) = self.clip.tokenize(text).values()
        (unknown,) = {entry[0] for entry in self.clip.tokenize("embedding")["l"][0]} - {0, 1}
        return {"l": [[(torch.ones(4), w) if token == unknown else (token, w) for token, w in c] for c in chunks]}


def test_embeddings_have_places_and_no_name(demo: Any) -> None:
    clip = Embedded(demo)
    assert locate(clip, "a embedding embedding red circle", "red circle") == (4, 5)
    for words in ("embedding", "a red"):
        with pytest.raises(ValueError, match=f"has no '{words}'"):
            locate(clip, "a embedding embedding red circle", words)


def test_a_prompts_own_tokens_are_all_but_start_end_and_padding(demo: Any) -> None:
    assert spoken(demo, "a red circle on the left") == (1, 2, 3, 4, 5, 6) and spoken(demo, "") == ()
    assert spoken(Embedded(demo), "a embedding red circle") == (1, 2, 3, 4)
    assert spoken(TwoEncoders(), "tree " * 80) == (*range(1, 76), *range(78, 83))


MISSING = [("green", "the prompt 'a red circle' has no 'green'"), (" , ", "no words are given")]


@pytest.mark.parametrize(("words", "reason"), MISSING)
def test_a_word_that_is_not_there_is_refused(demo: Any, words: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        locate(demo, "a red circle", words)
