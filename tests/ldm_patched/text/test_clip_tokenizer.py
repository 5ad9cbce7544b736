"""The ids of CLIP's vocabulary."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from attention_patchbay.ldm_patched.files.checkpoint import CheckpointError
from attention_patchbay.ldm_patched.text import clip_tokenizer as module
from attention_patchbay.ldm_patched.text.clip_tokenizer import END, START, CLIPTokenizer, clip_tokenizer
from attention_patchbay.ldm_patched.text.text_encoders import tokenizer_for
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def reference() -> Any:
    """Transformers' tokenizer with the same vocabulary."""
    merges = [line for line in module._merge_lines() if line]
    pairs = [tuple(line.split()) for line in merges]
    return transformers.CLIPTokenizer(vocab=module.vocabulary_of(pairs), merges=pairs)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("Hello  world!", [3306, 1002, 256]),
    ],
)
def test_known_ids(text: str, ids: list[int]) -> None:
    assert clip_tokenizer()(text)["input_ids"] == [49406, *ids, 49407]


@given(st.text() | st.text(alphabet="aAbz'sdltrmve019 ,.<|>\t\nstartofextnd\u00e9\u4e2d\U0001f431"))
def test_any_text_gives_the_ids_of_transformers(reference: Any, text: str) -> None:
    assert clip_tokenizer()(text)["input_ids"] == reference(text)["input_ids"]


def test_special_words_in_a_text() -> None:
    assert clip_tokenizer()(f"{START} {END}")["input_ids"] == [49406, 49406, 49407, 49407]


def test_a_folder_with_vocabulary_and_merges(tmp_path: Path) -> None:
    merges = [tuple(line.split()) for line in module._merge_lines()]
    (tmp_path / "vocab.json").write_text(json.dumps(module.vocabulary_of(merges)))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    text = "an #hashtag, #version: 0.2"
    assert module.folder_tokenizer(tmp_path)(text) == clip_tokenizer()(text)


@pytest.mark.parametrize("missing", [("clip", "open_clip"), ("tokenizers",)])
def test_a_missing_package_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in missing else find(name, *a))
    clip_tokenizer.cache_clear()
    with pytest.raises(CheckpointError, match=r"pip install 'attention-patchbay\[clip\]'"):
        tokenizer_for(49408)
    clip_tokenizer.cache_clear()


def test_a_small_vocabulary() -> None:
    tokenizer = CLIPTokenizer({"a": 0, "b</w>": 1, "ab</w>": 2, START: 3, END: 4}, [("a", "b</w>")])
    assert tokenizer("AB ab")["input_ids"] == [3, 2, 2, 4]
