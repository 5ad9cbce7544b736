"""Methods that add rows to the batch beside ComfyUI's own caches, context windows, LoRA hooks and ControlNets."""

from __future__ import annotations

from typing import Any

import pytest

from .children import result_of

pytestmark = pytest.mark.comfyui
NODES = ("EasyCache", "LazyCache", "LoRA hook")
COLUMNS = ("Wan 2.1", "Wan I2V", "Wan VACE", "Anima", "Cosmos-Predict2")
FAMILIES = ("Flux", "Qwen-Image", "SD3", "Wan 2.1", "LTX-Video", "HiDream", "Anima")
TEXTS = ("LongCat", "HunyuanVideo", "HunyuanImage 2.1", "HunyuanVideo 1.5", "Krea2", "Lumina 2", "Z-Image")
TEXTS += ("Omnigen2", "Boogu", "Kandinsky 5", "Flux", "Qwen-Image")
PAIRS = [(family, node) for family in FAMILIES for node in NODES]
PAIRS += [("Flux", "compile"), ("Wan 2.1", "compile")]
PAIRS += [("Wan 2.1", "context windows"), ("LTX-Video", "context windows")]
PAIRS += [("Flux", "ControlNet"), ("SD3", "ControlNet"), ("Qwen-Image", "ControlNet")]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    result: dict[str, Any] = result_of("rows_child.py", tmp_path_factory.mktemp("rows"))
    return result


@pytest.mark.parametrize(("family", "node"), PAIRS)
def test_a_further_prompt_that_is_the_prompt_itself_changes_nothing_beside_it(
    found: dict[str, Any], family: str, node: str
) -> None:
    there = dict(found[family][node])
    assert there.pop("effect") > 1e-3 or node == "compile" or (family, node) == ("SD3", "EasyCache")  # which it skips
    same = {name: distance for name, distance in there.items() if name.endswith("same")}
    assert max(same.values()) < 1e-4, same
    assert min(distance for name, distance in there.items() if name not in same) > 1e-3, there
    assert found[family]["afterwards"]["equal"]


@pytest.mark.parametrize("family", COLUMNS)
def test_columns_give_what_rows_give(found: dict[str, Any], family: str) -> None:
    there = found["columns"][family]
    assert there["apart"] < 1e-4 and there["effect"] > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_hosts_estimate_of_memory_knows_the_rows_of_further_prompts(found: dict[str, Any], family: str) -> None:
    """It asks for two rows for each of the noise, and for one at least; a further prompt is one more, but columns."""
    if family in COLUMNS:
        assert all(asked == [2, 1] for asked in found[family]["estimate"].values())
        return
    assert found[family]["estimate"] == {"none": [2, 1], "NAG": [4, 2], "region": [4, 2], "regions": [6, 3]}


@pytest.mark.parametrize(
    "kind", ["hidden", "hidden between others", "longer", "reference", "style transfer", "gated", "listed"]
)
def test_a_prompt_of_any_length_changes_nothing_by_itself(found: dict[str, Any], kind: str) -> None:
    """The text of others is filled up, may have tokens that its mask hides, and a reference is drawn beside it."""
    assert max(found["beside"][kind].values()) < 1e-4, found["beside"][kind]


def test_towards_leaves_the_tokens_of_other_nodes_alone(found: dict[str, Any]) -> None:
    assert max(distance for both in found["beside"]["towards"].values() for distance in both) < 1e-4
    assert min(found["beside"]["beside towards"].values()) > 1e-2


@pytest.mark.parametrize("family", ["LTX-Video", "PixelDiT", "Qwen-Image", "Flux", "Lumina 2", "Z-Image"])
def test_all_the_way_towards_another_prompt_is_that_prompt(found: dict[str, Any], family: str) -> None:
    """Keys and values are those of a sampler that has it; masks hide some of the first three's tokens."""
    there = found["beside"]["towards another"][family]
    assert there["own"] < 1e-5 and there["another"] < 1e-5 and there["effect"] > 1e-2, there


@pytest.mark.parametrize("family", ["Flux", "Lens", "Z-Image", "Kandinsky 5 Image"])
def test_regions_words_and_what_attends_piecemeal_share_an_attention(found: dict[str, Any], family: str) -> None:
    """Tiles, merged tokens and windows are parts of a picture, of which regions and words need all."""
    for kind, (moved, effect) in found["beside"]["piecemeal"][family].items():
        assert moved < 1e-5 and effect > 1e-4, (kind, moved, effect)


@pytest.mark.parametrize("length", ["9", "17", "40"])
@pytest.mark.parametrize("family", TEXTS)
def test_a_prompt_of_any_length_is_what_the_model_makes_of_it_alone(
    found: dict[str, Any], family: str, length: str
) -> None:
    """The sampler's has 12 tokens; refiners, learned padding and positions must not see how far texts are filled up."""
    there = found["alone"][family][length]
    assert there["region"] < 1e-5 and there["effect"] > 1e-2 and there["weak"] < 1e-5, there
