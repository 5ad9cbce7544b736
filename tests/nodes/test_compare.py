"""With and without patches: the graph that draws the picture again, and how far apart the pictures are."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.api import comfy_io as io
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session
from attention_patchbay.headless.engine.api_graph import Executor, Run
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.headless.engine.errors import NodeError
from attention_patchbay.ldm_patched.patches.addressing.refused import Refused
from attention_patchbay.ldm_patched.patches.reading.comparison import apart, heatmaps, told
from attention_patchbay.nodes.compare import Compare, expansion, parsed, patching, reading

EXAMPLES = Path(__file__).parents[2] / "example_workflows" / "api"
DEMO = json.loads((EXAMPLES / "demo.json").read_text())
MODEL, RULE, PATCH, SAMPLER, DECODER = "1", "5", "6", "8", "9"  # nodes of that workflow


class Keep(io.ComfyNode):
    """Show pictures to the test."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("TestKeep", "Keep", inputs=[io.Image.Input("images")], is_output_node=True)

    @classmethod
    def execute(cls, images: torch.Tensor) -> io.NodeOutput:
        return io.NodeOutput(ui={"images": [images]})


def host() -> Executor:
    return Executor({**catalog(), "TestKeep": Keep}, Session(Folders()))


def plain() -> dict[str, Any]:
    """Return the demo workflow in two steps, whose pictures the output `kept` shows."""
    prompt = {id: copy.deepcopy(DEMO[id]) for id in ("1", "2", "3", "4", RULE, PATCH, SAMPLER, DECODER)}
    prompt[SAMPLER]["inputs"]["steps"] = 2
    prompt["kept"] = {"class_type": "TestKeep", "inputs": {"images": [DECODER, 0]}}
    return prompt


def compared(strengths: str = "0", **inputs: Any) -> dict[str, Any]:
    """Return that workflow with a comparing node, and its other pictures as the output `others`."""
    prompt = plain()
    prompt["look"] = {"class_type": "PatchbayCompare", "inputs": {"images": [DECODER, 0], "strengths": strengths}}
    prompt["look"]["inputs"].update(inputs)
    prompt["others"] = {"class_type": "TestKeep", "inputs": {"images": ["look", 0]}}
    return prompt


def pictures(run: Run, name: str = "kept") -> torch.Tensor:
    return run.ui[name]["images"][0]


def with_strength(strength: float) -> torch.Tensor:
    prompt = plain()
    prompt[PATCH]["inputs"]["strength"] = strength
    return pictures(host().run(prompt))


def test_the_other_pictures_are_those_of_workflows_without_or_with_weaker_patches() -> None:
    run = host().run(compared("0, 0.5"))
    bare = plain()
    bare[SAMPLER]["inputs"]["model"] = [MODEL, 0]
    assert torch.equal(pictures(run, "others"), torch.cat([pictures(host().run(bare)), with_strength(0.5)]))
    assert torch.equal(pictures(run), with_strength(1.0))
    (text,), (view,) = run.ui["look"]["text"], run.ui["look"]["compare"]
    assert [line.partition(":")[0] for line in text.splitlines()] == ["without", "0.5 x"]
    assert [other["name"] for other in view["others"]] == ["without", "0.5 x"]
    assert view["pictures"][0].startswith("data:image/jpeg;base64,") and len(view["others"][0]["differences"]) == 1


def test_a_strength_ends_where_its_node_ends_and_the_text_says_so() -> None:
    prompt = compared("0, 0.5, 1.5")
    weighted = json.loads((EXAMPLES / "word_weight.json").read_text())["5"]
    assert weighted["class_type"] == "PatchbayWordWeight" and weighted["inputs"]["strength"] == 1.0
    prompt[PATCH] = {**weighted, "inputs": {**weighted["inputs"], "model": [MODEL, 0], "clip": [MODEL, 1]}}
    run = host().run(prompt)
    (text,) = run.ui["look"]["text"]
    assert [line.partition(":")[0] for line in text.splitlines()] == ["without", "0.5 x", "1.5 x", "1.5 x"]
    assert text.splitlines()[2:] == [
        "1.5 x: no pixel differs",
        "1.5 x: strength of Word Weight would be 1.5; drawn with 1",
    ]


def test_only_what_the_patches_lead_to_runs_again_and_once() -> None:
    executor = host()
    first = executor.run(compared())
    assert [id for id in first.ran if id.startswith("look.")] == ["look.0.8", "look.0.9", "look.all"]
    changed = compared()
    changed[PATCH]["inputs"]["strength"] = 0.5
    again = executor.run(changed)
    assert SAMPLER in again.ran and {"look.0.8", "look.0.9"} <= set(again.cached)
    assert torch.equal(pictures(first, "others"), pictures(again, "others"))


def test_pictures_that_are_linked_are_compared_without_sampling() -> None:
    run = host().run(compared(other=[DECODER, 0]))
    assert run.ui["look"]["text"] == ["the other: no pixel differs"]
    assert not [id for id in run.ran if id.startswith("look.")]


def test_files_hold_the_workflow_as_it_was_sent(tmp_path: Path) -> None:
    prompt = compared()
    seen: list[Any] = []

    class Written(Keep):
        @classmethod
        def execute(cls, images: torch.Tensor) -> io.NodeOutput:
            seen.append(copy.deepcopy(cls.hidden.prompt))
            return io.NodeOutput()

    Executor({**catalog(), "TestKeep": Written}, Session(Folders(output=tmp_path))).run(prompt)
    assert seen == [prompt, prompt]


def test_pictures_of_no_patch_are_refused_with_the_reason() -> None:
    prompt = compared()
    prompt[SAMPLER]["inputs"]["model"] = [MODEL, 0]
    with pytest.raises(NodeError, match="no patch of this pack is on the way to these pictures"):
        host().run(prompt)


def test_a_strength_by_a_link_is_refused_where_it_would_be_multiplied() -> None:
    prompt = compared("0.5")
    prompt["number"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 1.0}}
    prompt[PATCH]["inputs"]["strength"] = ["number", 0]
    with pytest.raises(NodeError, match="strength of PatchbayAttentionPatch comes by a link and cannot be multiplied"):
        host().run(prompt)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no number; write such as 0, or 0, 0.5, 1.5"),
        ("0, half", "'half' is no number"),
        ("nan", "'nan' is no number"),
        (", ".join("1" * 9), "9 of them would be sampled; write at most 8"),
    ],
)
def test_wrong_strengths_are_refused_at_the_widget(text: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        parsed(text)
    refused = host().run(compared(text)).refused["look"]
    assert message in json.dumps(refused) and "kept" not in refused


def test_a_patch_behind_another_is_left_out_with_it_and_what_is_before_both_is_not_copied() -> None:
    graph = expansion(compared(), "look", [0.0])
    assert {id: node["class_type"] for id, node in graph.items()} == {
        "look.0.8": "KSampler",
        "look.0.9": "VAEDecode",
        "look.all": "PatchbayCompare",
    }
    assert graph["look.0.8"]["inputs"]["model"] == [MODEL, 0]
    assert graph["look.all"]["inputs"]["images"] == [DECODER, 0]
    assert {"PatchbayFreeU", "PatchbayBackendRules", "PatchbayPatchPreset"} <= set(patching())
    assert not {"PatchbayRemovePatches", "PatchbayPatchReport", "PatchbayLoadDemoModel"} & set(patching())


def test_without_drawn_areas_the_prompts_stay_and_the_model_is_the_one_before() -> None:
    prompt = json.loads((Path(__file__).parents[2] / "example_workflows" / "api" / "drawn_regions.json").read_text())
    graph = expansion(prompt, "7", (0.0,))
    (sampler,) = (node["inputs"] for node in graph.values() if node["class_type"] == "KSampler")
    assert [sampler[name] for name in ("model", "positive", "negative")] == [["1", 0], ["3", 1], ["3", 2]]


@pytest.mark.parametrize("strengths", ["0", "0.5"])
def test_a_map_of_blocks_on_the_way_is_not_copied(strengths: str) -> None:
    prompt = compared(strengths)
    prompt["map"] = {"class_type": "PatchbayBlockMap", "inputs": {"model": [PATCH, 0], "blocks": "middle"}}
    prompt[SAMPLER]["inputs"]["model"] = ["map", 2]
    graph = expansion(prompt, "look", parsed(strengths))
    assert "PatchbayBlockMap" not in {node["class_type"] for node in graph.values()}
    (sampler,) = [node for node in graph.values() if node["class_type"] == "KSampler"]
    assert sampler["inputs"]["model"] == ([MODEL, 0] if strengths == "0" else [f"look.0.{PATCH}", 0])
    prompt["other"] = copy.deepcopy(prompt[PATCH])
    prompt["other"]["inputs"] |= {"model": ["map", 2], "blocks": ["map", 0]}
    prompt[SAMPLER]["inputs"]["model"] = ["other", 0]
    graph = expansion(prompt, "look", (0.5,))
    assert graph["look.0.other"]["inputs"]["model"] == [f"look.0.{PATCH}", 0]
    assert graph["look.0.other"]["inputs"]["blocks"] == ["map", 0]


def test_long_workflows_are_walked_without_end_of_the_stack() -> None:
    prompt = compared()
    last = PATCH
    for number in range(3000):
        prompt[f"m{number}"] = {"class_type": "PatchbayFreeU", "inputs": {"model": [last, 0], "strength": 1.0}}
        last = f"m{number}"
    prompt[SAMPLER]["inputs"]["model"] = [last, 0]
    assert expansion(prompt, "look", [0.0])["look.0.8"]["inputs"]["model"] == [MODEL, 0]
    assert expansion(prompt, "look", [0.5])["look.0.m2999"]["inputs"] == {"model": ["look.0.m2998", 0], "strength": 0.5}


def test_the_distance_is_the_mean_of_the_colours_and_a_map_shows_the_largest_as_yellow() -> None:
    black = torch.zeros(1, 2, 2, 3)
    one = black.clone()
    one[0, 0, 0, 0], one[0, 1, 1] = 0.3, 0.5
    far = apart(black, torch.cat([one, black]))
    assert torch.allclose(far, torch.tensor([[[0.1, 0.0], [0.0, 0.5]], [[0.0, 0.0], [0.0, 0.0]]]))
    maps = heatmaps(far)
    assert torch.allclose(maps[0, 1, 1], torch.tensor([1.0, 0.92, 0.27])) and torch.equal(maps[0, 0, 1], maps[1, 0, 0])
    assert told(["without", "2 x"], far).splitlines() == [
        "without: 15.00% apart, 50% at most; 50% of the pixels differ",
        "2 x: no pixel differs",
    ]
    with pytest.raises(ValueError, match="these are 1 of 2 x 2 and 1 of 3 x 2"):
        apart(black, torch.zeros(1, 2, 3, 3))


def test_the_node_says_that_it_puts_others_in_its_place() -> None:
    assert Compare.GET_SCHEMA().enable_expand


def test_without_a_lora_by_rules_the_text_encoder_has_none_either() -> None:
    prompt = json.loads((EXAMPLES / "lora_by_rules.json").read_text())
    (look,) = (id for id, node in prompt.items() if node["class_type"] == "PatchbayCompare")
    graph = expansion(prompt, look, [0.0, 0.5])
    none, half = f"{look}.0.", f"{look}.1."
    assert graph[f"{none}2"]["inputs"]["clip"] == ["1", 1] and graph[f"{none}6"]["inputs"]["model"] == ["1", 0]
    assert f"{none}5" not in graph and graph[f"{half}5"]["inputs"]["strength"] == 0.5
    assert graph[f"{half}2"]["inputs"]["clip"] == [f"{half}5", 1]


def test_a_lora_of_a_region_is_weakened_with_its_region_alone() -> None:
    prompt = json.loads((EXAMPLES / "two_characters_two_loras.json").read_text())
    (look,) = (id for id, node in prompt.items() if node["class_type"] == "PatchbayCompare")
    graph = expansion(prompt, look, [0.5])
    assert f"{look}.0.16" not in graph
    region = graph[f"{look}.0.17"]["inputs"]
    assert region["strength"] == 0.5 and region["regions"] == ["16", 0]


def test_what_reads_the_patches_stays_where_there_are_none() -> None:
    prompt = with_masks("0, 0.5")
    graph = expansion(prompt, "18", [0.0, 0.5])
    assert {id for id in graph if id.startswith("18.0.")} == {"18.0.8", "18.0.9", "18.0.20"}
    assert graph["18.0.20"]["inputs"]["destination"] == ["18.0.9", 0]
    assert graph["18.0.20"]["inputs"]["mask"] == ["12", 0] and graph["18.0.20"]["inputs"]["source"] == ["12", 1]
    assert graph["18.1.12"]["inputs"]["model"] == ["18.1.5", 0], "with weaker patches the masks are those of that run"


def test_a_region_by_word_shows_the_run_of_the_picture_itself_alone() -> None:
    graph = expansion(with_masks("0.5"), "18", [0.5])
    assert graph["18.0.5"]["inputs"]["regions"] == ["18.0.17", 0]
    assert graph["18.0.17"]["inputs"]["regions"] == ["18.0.16", 0]


def test_pictures_with_masks_of_words_are_compared() -> None:
    run = host().run(with_masks("0"))
    (text,) = run.ui["18"]["text"]
    assert text.startswith("without: ") and "differ" in text


@pytest.mark.parametrize("images", [["12", 1], ["batch", 0]])
def test_pictures_that_only_show_what_is_read_are_refused_with_what_to_link(images: list[Any]) -> None:
    prompt = with_masks("0")
    prompt["batch"] = {"class_type": "ImageBatch", "inputs": {"image1": ["12", 1], "image2": ["12", 1]}}
    prompt["18"]["inputs"]["images"] = images
    with pytest.raises(ValueError, match="link the pictures that the sampler's latent decodes to"):
        expansion(prompt, "18", [0.0])


def test_every_node_that_takes_a_model_and_gives_none_reads_it() -> None:
    found = {id: cls.GET_NODE_INFO_V1() for id, cls in catalog().items() if id.startswith("Patchbay")}
    given = {id: [kind for kind, *_ in info["input"]["required"].values()] for id, info in found.items()}
    assert reading() == {id for id, info in found.items() if "MODEL" in given[id] and "MODEL" not in info["output"]}


def with_masks(strengths: str) -> dict[str, Any]:
    """Return the workflow of Region by Word, and compare its picture with the masks drawn into it."""
    prompt: dict[str, Any] = json.loads((EXAMPLES / "region_by_word.json").read_text())
    prompt["8"]["inputs"]["steps"] = 4
    pasted = {"destination": ["9", 0], "source": ["12", 1], "mask": ["12", 0], "x": 0, "y": 0, "resize_source": False}
    prompt["20"] = {"class_type": "ImageCompositeMasked", "inputs": pasted}
    prompt["18"]["inputs"] |= {"images": ["20", 0], "strengths": strengths}
    return prompt
