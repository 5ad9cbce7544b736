"""Every method on tiny models of a video with its sound: MiniMax H3, a sequence of all, and LTX-2, attention apart."""

from __future__ import annotations

from typing import Any

import pytest
from attention_patchbay.ldm_patched.patches.addressing.families import FAMILIES

from .children import result_of
from .family_methods import LISTENING

pytestmark = pytest.mark.comfyui
# What one video has nothing to share with, and what a video has no tiles of; the report says so
ONE = "holds one picture"
IDLE = {
    "MiniMax H3": {"tiles": "those of a video", "map injection": ONE, "style aligned": ONE},
    "LTX-2": {"tiles": "those of a video", "map injection": ONE, "style aligned": ONE},
}
REFUSED = {
    "between the attentions": "nothing between attentions",
    "SAG": "holds a video and its sound",
    "reference": "holds a video and its sound",
    "style transfer": "holds a video and its sound",
    "FreeU": "no skip connections",
}
TOGETHER = {
    "output of cross-attention": "one attention for text and image",
    "NAG": "one video at a time",
    "towards a prompt": "one video at a time",
    "regional prompt": "one video at a time",
}
SAME = (*LISTENING, "backend rule", "NaN guard")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    result: dict[str, Any] = result_of("sound_child.py", tmp_path_factory.mktemp("sound"))
    return result


def test_the_parts_lie_where_the_row_says(found: dict[str, Any]) -> None:
    """12 tokens of text, two for each of 5 pieces of sound, and 2 x 4 x 6 of video."""
    found = found["MiniMax H3"]
    assert found["blocks"] == "block:0, block:1, block:2"
    assert found["parts"] == {"text": [0, 12], "reference": [12, 22], "image": [22, 70]}
    # the refiner before the blocks mixes the text
    assert set(found["columns"]["token"]) <= set(range(12)) and 3 in found["columns"]["token"]
    assert found["columns"]["video"] == [22]
    assert found["columns"]["sound"] and set(found["columns"]["sound"]) <= set(range(12, 22))
    assert found["rest"] < 1e-6  # a patch of the picture leaves text and sound as they are


@pytest.mark.parametrize("model", IDLE)
def test_every_method_acts_or_says_why_it_cannot(found: dict[str, Any], model: str) -> None:
    refused, idle = REFUSED | (TOGETHER if model == "MiniMax H3" else {}), IDLE[model]
    for name, there in found[model]["methods"].items():
        if name in refused:
            assert refused[name] in there["refused"], (name, there)
        elif name == "prompt to prompt":
            assert "draws pairs of pictures, but the batch holds 1" in there["error"]
        elif name in idle:
            assert there["change"] == 0.0 and idle[name] in there["line"], (name, there)
        else:
            assert there["finite"] and " ran " in there["line"], (name, there)
            assert (there["change"] < 1e-5) == (name in SAME), (name, there)
    assert found[model]["closed"]


def test_what_is_no_picture_is_refused_by_name_and_rules_work(found: dict[str, Any]) -> None:
    for name, there in found["TripoSplat"]["methods"].items():
        if name in ("backend rule", "NaN guard"):
            assert there["change"] < 1e-5 and " ran " in there["line"], (name, there)
        else:
            assert "TripoSplat" in there["refused"] or "middle" in there["refused"], (name, there)


def test_every_network_of_the_host_that_draws_has_a_row(found: dict[str, Any]) -> None:
    """So that messages name a family, and never a class; some descend from one with a row."""
    derived = {name for name in found["networks"] if name.endswith("WanModel") or name.startswith("Wan")}
    derived |= {"UNetModel", "ChromaRadiance", "NextDiTPixelSpace", "PidNet"}
    assert set(found["networks"]) - set(FAMILIES) - derived == {"DepthAnything3Net", "RTv4", "SAM3Model"}


@pytest.mark.parametrize("length", ["48", "12"])
def test_sound_of_as_many_tokens_as_the_video_or_the_text_is_left_alone(found: dict[str, Any], length: str) -> None:
    """Its attentions look like those of the video then, but for their heads."""
    assert "ran" in found["uses"]["7"]["temperature"]
    assert found["uses"][length] == found["uses"]["7"]
