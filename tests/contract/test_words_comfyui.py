"""Check that words are found with the tokenizers of ComfyUI's text encoders."""

from __future__ import annotations

from typing import Any

import pytest

from .children import result_of

pytestmark = pytest.mark.comfyui


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = result_of("words_child.py", tmp_path_factory.mktemp("words"))
    return found


def test_most_vocabularies_are_there(results: dict[str, Any]) -> None:
    assert sum("words" in found for found in results.values()) >= 11


def test_each_word_is_found_wherever_it_stands_and_nowhere_else(results: dict[str, Any]) -> None:
    """`fox` stands alone and in `fox-den`, not in `foxglove`; `image` once, though templates speak of images."""
    for found in (found for found in results.values() if "words" in found):
        joined = {word: "".join(pieces).replace(" ", "") for word, pieces in found["words"].items()}
        assert joined == {
            "red": "redRED",
            "fox": "foxfox",
            "gr\u00fcne B\u00e4ume": "gr\u00fcneB\u00e4ume",
            "fox-den": "fox-den",
            "cat": "cat",
            "image": "image",
        }


def test_the_weights_of_a_prompt_are_those_of_its_words_in_every_encoder(results: dict[str, Any]) -> None:
    for name, found in results.items():
        if "weighted" in found:
            heavy = {weight: "".join(text.split()) for weight, text in found["weighted"].items()}
            assert {key: heavy[key] for key in ("1.5", "-1")} == {"1.5": "fox,a", "-1": "gr\u00fcneB\u00e4ume"}, name
            assert [text for weight, text in heavy.items() if weight not in ("1.5", "-1")] == ["cat"], name
            assert "(plain)" in "".join(found["text"].split()) and ":1.5" not in found["text"], name


def test_words_stand_in_the_context_where_the_encoder_leaves_them(results: dict[str, Any]) -> None:
    """Its encoder cuts LongCat's template off on both sides, that of Qwen-Image and HunyuanVideo in front."""
    cut = {name: found["rows"] for name, found in results.items() if "rows" in found}
    assert {"LongCat", "Qwen-Image"} < cut.keys() and any(name.startswith("HunyuanVideo") for name in cut)
    for name, (places, rows) in cut.items():
        assert places == rows and places, name
