"""Check the table of families, and every method, on tiny models of all transformer families that ComfyUI brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attention_patchbay.headless.commands.model_info import model_info
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.blocks import check_address
from attention_patchbay.ldm_patched.patches.addressing.families import FAMILIES as ROWS
from attention_patchbay.ldm_patched.patches.addressing.families import IMAGE, REFERENCE, TEXT
from attention_patchbay.ldm_patched.patches.engine.tokens import PADDING
from attention_patchbay.ldm_patched.patches.reading.file_header import file_blocks, model_of
from attention_patchbay.ldm_patched.patches.routing.layer_choices import LAYERS, layer_choices, layers
from attention_patchbay.ldm_patched.patches.routing.rules import parse_rules
from safetensors.numpy import save_file

from .children import result_of
from .family_methods import LISTENING, METHODS, PICTURED, WHOLE
from .tiny_families import FAMILIES, STEPS

pytestmark = pytest.mark.comfyui
SCALED = ("PixArt", "Hunyuan-DiT", "Ernie")  # whose attention asks nobody, but whose blocks can be had
DEAF = ("PixArt", "Hunyuan-DiT", "Ernie", "ACE-Step 1.5")
CLOSED = ("Wan Animate 2", "CausalWan", "Stable Cascade")
APART = ("Anima", "Cosmos-Predict2", "Cosmos", "LTX-Video", "Kandinsky 5", "Kandinsky 5 Image")
APART = (*APART, *(name for name in FAMILIES if name.startswith("Wan") and name not in CLOSED))
JOINT = tuple(name for name in FAMILIES if name not in (*DEAF, *CLOSED, *APART))
OPEN = (*JOINT, *APART)
# Whose blocks tell the positions of their queries and keys
TELLING = ("Flux", "Flux 2", "LongCat", "Chroma", "Chroma Radiance", "HunyuanVideo", "HunyuanImage 2.1")
TELLING = (*TELLING, "HunyuanVideo 1.5", "Qwen-Image", "Mage-Flow", "Krea2", "Anima", "Cosmos-Predict2")
DOUBLE_SINGLE = "double:0, double:1, single:0, single:1"
THREE = {room: ", ".join(f"{room}:{i}" for i in range(3)) for room in ("double", "single", "block")}
BLOCKS = dict.fromkeys(OPEN, THREE["double"]) | dict.fromkeys(("Krea2", "Omnigen2", "Ideogram 4"), THREE["single"])
BLOCKS |= dict.fromkeys(("Anima", "Cosmos-Predict2", "Cosmos", "LTX-Video"), THREE["block"])
BLOCKS |= dict.fromkeys(("Flux", "Flux 2", "LongCat", "Chroma", "Chroma Radiance", "HiDream"), DOUBLE_SINGLE)
BLOCKS |= {name: DOUBLE_SINGLE for name in OPEN if name.startswith("Hunyuan")}
BLOCKS |= {"Boogu": "double:0, single:0, single:1, single:2", "AuraFlow": "double:0, single:0, single:1"}
SCALING = ("Mochi",)
# What has no place in transformers, and what in those where text and picture attend together
NOWHERE = {"between the attentions", "FreeU"}
SHARED = {"output of cross-attention"}
RULES = ("backend rule", "NaN guard")
VIDEOS = [name for name, tiny in FAMILIES.items() if len(tiny.latent) == 5 and tiny.latent[2] > 1]
MORE_CALLS = {"SD3.5 medium": 1, "Boogu": 1, "Wan I2V": 1, "Wan Camera": 1, "Wan Animate": 1, "Wan VACE": 2}
HEADERS = {"Flux": "Flux", "Chroma": "Chroma", "HunyuanVideo": "HunyuanVideo", "Krea2": "Krea2", "Wan 2.1": "Wan"}
HEADERS |= {"Qwen-Image": "Qwen-Image", "Cosmos-Predict2": "Cosmos-Predict2", "Lumina 2": "Lumina"}
HEADERS |= {"Flux 2": "Flux", "Z-Image": "Lumina", "Anima": "Anima", "Wan VACE": "Wan", "Cosmos": "Cosmos"}
HEADERS |= {name: name for name in ("SD3", "AuraFlow", "LTX-Video", "HiDream", "Omnigen2", "Boogu", "Ideogram 4")}
HEADERS |= {name: name for name in ("CogVideoX", "PixArt", "Hunyuan-DiT", "Ernie", "Hunyuan3D 2")}
FAMILY_KINDS = {family.name: family.kinds for family in ROWS.values()}
FIXED_HEADS = ("LTX-Video", "PixArt")  # of ComfyUI, whose tiny models have others


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = result_of("families_child.py", tmp_path_factory.mktemp("families"))
    return found


# The row of a family against what its calls are made of


@pytest.mark.parametrize("name", OPEN)
def test_the_blocks_are_named_and_all_are_counted(results: dict[str, Any], name: str) -> None:
    found = results[name]
    assert found["described"] == BLOCKS[name]
    kinds = ["self"] if name in JOINT else ["self", "cross"]
    inside = [row for row in found["rule"]["rows"] if row[0] != "-"]
    assert [row[:2] for row in inside] == [[block, kind] for block in BLOCKS[name].split(", ") for kind in kinds]
    assert all(row[4] >= STEPS and row[3] != "none" for row in inside)
    assert sum(row[4] > STEPS for row in inside) == 0 or name in MORE_CALLS


@pytest.mark.parametrize("name", JOINT)
def test_text_and_picture_lie_where_the_row_says(results: dict[str, Any], name: str) -> None:
    first, *others = results[name]["trace"]
    parts = first["parts"]
    text, image = range(*parts[TEXT]), range(*parts[IMAGE])
    assert set(first["text"]) and set(first["token"]) <= set(first["text"])
    # a text that also scales all tokens changes all of them; where it lies tell the pixels
    assert set(text) <= set(first["text"]) if name in SCALING else set(first["text"]) <= set(text)
    filled = range(*parts.get(PADDING, (0, 0)))  # a network may let them attend to the picture before
    for pixel, token in (("first", image[0]), ("last", image[-1])):
        assert token in first[pixel] and set(first[pixel]) <= {*image, *filled}
    for call in others:  # the picture by itself
        assert call["parts"] is None and call["text"] == [] and call["queries"] == call["image"]


@pytest.mark.parametrize("name", APART)
def test_self_attention_sees_the_picture_and_cross_attention_the_text(results: dict[str, Any], name: str) -> None:
    calls = results[name]["trace"]
    image = calls[0]["image"]
    assert all(call["queries"] == image for call in calls)
    assert calls[0]["keys"] == image and calls[0]["text"] == [] == calls[0]["token"]
    assert 0 in calls[0]["first"] and image - 1 in calls[0]["last"]
    *_, cross = calls
    assert cross["first"] == [] == cross["last"] and set(cross["token"]) <= set(cross["text"]) and cross["token"]


@pytest.mark.parametrize("name", [name for name, tiny in FAMILIES.items() if tiny.references])
def test_a_reference_image_lies_where_the_row_says_and_patches_leave_it_alone(
    results: dict[str, Any], name: str
) -> None:
    found = results[name]["references"]
    assert found["effect"] > 1e-3 and found["change"] > 1e-3
    assert found["columns"] and set(found["columns"]) <= set(range(*found["parts"][REFERENCE]))


# What methods do


@pytest.mark.parametrize("name", OPEN)
def test_a_method_changes_the_picture_in_its_blocks_or_is_refused(results: dict[str, Any], name: str) -> None:
    flat = set(PICTURED) if len(FAMILIES[name].latent) == 3 else set()
    found = results[name]["methods"]
    refused = {method for method, one in found.items() if "refused" in one}
    assert refused == NOWHERE | (SHARED if name in JOINT else set()) | flat
    assert all(results[name]["family"] in found[method]["refused"] for method in refused)
    for method in METHODS.keys() - refused:
        one = found[method]
        assert "error" not in one, (method, one["error"], one["trace"])
        assert one["finite"], method
        if method == "tiles" and name in VIDEOS:
            assert one["ran"] == [] and "those of a video" in one["skip"]
            continue
        assert set(one["ran"]) - {"None"} == set(one["meant"]), (method, one)
        if method in LISTENING:
            assert one["change"] == 0.0, method
        elif method == "backend rule":
            assert one["change"] < 1e-4
        else:
            assert one["change"] > 1e-5, method
    for method in ("capture of words", "capture of points"):
        assert method in refused or found[method]["maps"][0] > 0 and found[method]["maps"][1], method


@pytest.mark.parametrize("name", OPEN)
def test_what_is_closed_or_changes_nothing_leaves_the_picture_to_the_bit(results: dict[str, Any], name: str) -> None:
    assert results[name]["closed"]["equal"] and len(results[name]["closed"]["methods"]) > 10
    assert all(results[name]["neutral"].values()), results[name]["neutral"]


@pytest.mark.parametrize("name", TELLING)
def test_queries_and_keys_are_changed_before_their_positions(results: dict[str, Any], name: str) -> None:
    found = results[name]
    assert found["exact"]["error"] < 1e-5 and found["exact"]["change"] > 1e-3
    assert not any("positions" in note for one in found["methods"].values() for note in one.get("notes", ()))


@pytest.mark.parametrize("name", OPEN)
def test_what_is_not_exact_is_in_the_report(results: dict[str, Any], name: str) -> None:
    found = results[name]
    held = any("held their positions already" in note for note in found["methods"]["SEG"]["notes"])
    assert held is (found["rotary"] and name not in TELLING)
    for method in ("token merging", "style aligned"):
        assert bool(found["methods"][method].get("notes")) is (held and "refused" not in found["methods"][method])


@pytest.mark.parametrize("name", JOINT)
def test_a_patch_of_the_picture_leaves_the_rows_of_the_text(results: dict[str, Any], name: str) -> None:
    assert results[name]["text"] < 1e-5


@pytest.mark.parametrize("name", OPEN)
def test_prompts_together_apart_or_of_other_lengths_and_pictures_alone(results: dict[str, Any], name: str) -> None:
    found = results[name]["alike"]
    assert found["in two calls"] < 1e-4 and found["alone"] < 1e-4
    assert found["change"] > 1e-3 and found["other length"] > 1e-3


@pytest.mark.parametrize("name", OPEN)
def test_a_rule_takes_one_block(results: dict[str, Any], name: str) -> None:
    found, kinds = results[name]["rule"], ["self"] if name in JOINT else ["self", "cross"]
    assert [row[:2] for row in found["rows"] if row[3] == "basic"] == [[found["last"], kind] for kind in kinds]
    if name in JOINT:
        assert "one attention of text and picture" in found["cross"]
    else:
        assert "cross" not in found


@pytest.mark.parametrize("name", CLOSED)
def test_a_family_that_methods_cannot_enter_says_why_and_takes_rules(results: dict[str, Any], name: str) -> None:
    found = results[name]["methods"]
    says = "do not say which attention they call" if name == "Stable Cascade" else "methods cannot act in the attention"
    assert all(says in found[method]["refused"] for method in METHODS if method not in RULES)
    assert found["NaN guard"]["ran"] and results[name]["tuning"] == ""
    assert name == "Stable Cascade" or found["backend rule"]["ran"] == found["backend rule"]["meant"]


@pytest.mark.parametrize("name", DEAF)
def test_what_asks_no_override_refuses_all_in_the_same_words(results: dict[str, Any], name: str) -> None:
    found = {method: one.get("refused") for method, one in results[name]["methods"].items()}
    assert {method for method, text in found.items() if text is None} == set(WHOLE if name in SCALED else ())
    texts = [text for method, text in found.items() if text is not None and method != "FreeU"]
    words = {text.partition(": ")[2] for text in (*texts, results[name]["tuning"])}
    assert len(words) == 1
    text = words.pop()
    assert f"{name} models cannot be patched: ComfyUI does not hand their attention" in text
    assert ("work on whole blocks of them" in text) is (name in SCALED)


# Whole blocks


@pytest.mark.parametrize("name", [*OPEN, *SCALED])
def test_a_block_is_skipped_and_scaled_as_by_a_forward_written_by_hand(results: dict[str, Any], name: str) -> None:
    found = results[name]["whole"]
    assert len(found["blocks"]) >= 6
    for what, (error, change) in found["blocks"].items():
        assert error < 1e-5 and change > 1e-4, what
    assert found["closed"] and found["in two calls"] < 1e-4 and found["alone"] < 1e-4


@pytest.mark.parametrize("name", [*OPEN, *SCALED])
def test_skip_connections_are_refused_with_what_would_do(results: dict[str, Any], name: str) -> None:
    assert "have no skip connections like those of a UNet; Block Scale" in results[name]["methods"]["FreeU"]["refused"]
    for method in WHOLE:
        one = results[name]["methods"][method]
        assert one["finite"] and one["change"] > 1e-5 and one["ran"] == one["meant"], (method, one)


# Files


@pytest.mark.parametrize("name", ["Wan 2.1", "Lumina 2", "Z-Image"])
def test_the_layers_that_can_keep_a_function_are_those_of_comfyui(
    results: dict[str, Any], name: str, tmp_path: Path
) -> None:
    """That they keep one was read in the code of newer versions; here their paths are held against the weights."""
    shapes = results[name]["shapes"]
    save_file({key: np.zeros(shape, np.float16) for key, shape in shapes.items()}, tmp_path / "m.safetensors")
    model = model_of(tmp_path / "m.safetensors")
    paths = [path for _, path in layers(model)]
    assert len(paths) == len(results[name]["map"]) * len(LAYERS[HEADERS[name]])
    assert all(any(key.startswith(f"{path}.") for key in shapes) for path in paths)
    found = layer_choices(parse_rules("all self -> comfy_kitchen_int8; all -> sage"), model)
    assert set(found.functions.values()) == {"comfy_kitchen_int8"} and len(found.left) == len(LAYERS[HEADERS[name]]) - 1


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_the_header_of_a_file_tells_what_the_model_does(
    results: dict[str, Any], name: str, prefix: str, tmp_path: Path
) -> None:
    shapes = results[name]["shapes"]
    if name == "Lumina 2":  # public models have it, and ComfyUI knows them by it
        shapes |= {"layers.0.attention.k_norm.weight": [16]}
    tensors = {f"{prefix}{key}": np.zeros(shape, np.float16) for key, shape in shapes.items()}
    save_file(tensors, tmp_path / "m.safetensors")
    found = model_info(tmp_path / "m.safetensors")
    assert found["family"] == HEADERS[name] and found["parts"] == ["transformer"]
    told = ("depth",) if name in FIXED_HEADS else ("depth", "heads", "dim_head")
    expected = [[row[key] for key in ("name", *told)] for row in results[name]["map"]]
    assert [[block[key] for key in ("address", *told)] for block in found["blocks"]] == expected
    answer = file_blocks(tmp_path / "m.safetensors")
    assert answer is not None and answer["kinds"] == FAMILY_KINDS[HEADERS[name]]
    assert sum(answer["blocks"].values()) == len(expected) == len(answer["map"])
    last = expected[-1][0]
    check_address(parse(last), model_of(tmp_path / "m.safetensors"))
    with pytest.raises(AddressError, match=f"{HEADERS[name]}|has"):
        check_address(parse(f"{last.partition(':')[0]}:9"), model_of(tmp_path / "m.safetensors"))
