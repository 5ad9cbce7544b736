"""The alignment of two prompts, and where words stand in one."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.loading.sd import CLIP, load_checkpoint
from attention_patchbay.ldm_patched.patches.methods.alignment import EMBEDDING, alignment, repeated, token_ids
from attention_patchbay.ldm_patched.patches.methods.words import locate
from hypothesis import given
from hypothesis import strategies as st

ids = st.lists(st.integers(0, 4), min_size=1, max_size=9)


@pytest.fixture(scope="module")
def clip() -> CLIP:
    return load_checkpoint(CHECKPOINT)[1]


def pairs(source: str, edited: str) -> dict[tuple[int, int], float]:
    shares = alignment([ord(letter) for letter in source], [ord(letter) for letter in edited])
    return {(i, j): shares[i, j].item() for i, j in shares.nonzero().tolist()}


def test_a_swapped_word_takes_the_place_of_the_other() -> None:
    assert pairs("<abc>", "<axc>") == {(i, i): 1.0 for i in range(5)}


def test_a_new_word_stands_for_none_and_moves_the_rest() -> None:
    assert pairs("<ac>", "<abc>") == {(0, 0): 1.0, (1, 1): 1.0, (2, 3): 1.0, (3, 4): 1.0}
    assert pairs("<abc>", "<ac>") == {(0, 0): 1.0, (1, 1): 1.0, (3, 2): 1.0, (4, 3): 1.0}


def test_words_of_another_number_share_the_attention() -> None:
    assert pairs("<a>", "<xyz>") == {(0, 0): 1.0, (2, 4): 1.0} | {(1, j): pytest.approx(1 / 3) for j in (1, 2, 3)}
    assert pairs("<ab>", "<x>") == {(0, 0): 1.0, (1, 1): 1.0, (2, 1): 1.0, (3, 2): 1.0}


@given(ids, ids)
def test_every_token_gives_all_of_its_attention_or_none(source: list[int], edited: list[int]) -> None:
    shares = alignment(source, edited)
    assert shares.shape == (len(source), len(edited))
    assert all(abs(total - 1.0) < 1e-6 or total == 0.0 for total in shares.sum(1).tolist())
    assert torch.equal(alignment(source, source), torch.eye(len(source)))


def test_repeated_prompts_keep_what_their_tokens_get() -> None:
    shares = alignment([1, 2], [1, 3, 4])
    weights = torch.tensor([[0.3, 0.7]])
    spread = weights.repeat(1, 3) / 3 @ repeated(shares, 6)  # both prompts repeated to 6 tokens
    assert torch.allclose(spread.reshape(2, 3).sum(0), (weights @ shares)[0])


def test_the_tokens_of_a_prompt_have_the_places_of_its_context(clip: CLIP) -> None:
    prompt = "a red circle on the left"
    assert len(token_ids(clip, prompt)) == clip.encode(prompt).shape[1] == 77
    assert token_ids(clip, prompt)[:2] != token_ids(clip, "")[:2]


def test_two_encoders_count_as_the_shorter_one_and_vectors_as_one_kind_of_token() -> None:
    class Two:
        def tokenize(self, text: str) -> dict[str, list]:
            return {"l": [[(1, 1.0), (2, 1.0)]] * 2, "g": [[(1, 1.0), (torch.zeros(4), 1.0), (3, 1.0)]]}

    assert token_ids(Two(), "") == (1, EMBEDDING, 3)


def test_words_and_phrases_are_found_wherever_they_stand(clip: CLIP) -> None:
    prompt = "a (red:1.2) circle on the left and a blue circle on the right"
    assert locate(clip, prompt, "circle") == (3, 10)
    assert locate(clip, prompt, "Red, on the right") == (2, 11, 12, 13)
    assert locate(clip, prompt, "blue circle") == (9, 10)


@pytest.mark.parametrize(
    ("words", "reason"), [("green", "has no 'green'"), ("red blue", "has no 'red blue'"), (" ,", "no words are given")]
)
def test_words_that_the_prompt_lacks_are_refused(clip: CLIP, words: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        locate(clip, "a red circle and a blue square", words)
