"""Repeats by seeds and prompts, the noise floor, and block axes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.engine.errors import Failure
from attention_patchbay.headless.pages.workflow_file import embedded_infos
from attention_patchbay.headless.sweep.axes import parse_axis
from attention_patchbay.headless.sweep.blocks import each_block
from attention_patchbay.headless.sweep.cells import cells
from attention_patchbay.headless.sweep.repeats import KERNEL, by_kernel, repeats

ROOT = Path(__file__).parents[3]
PROMPT = json.loads((ROOT / "example_workflows" / "api" / "demo.json").read_text())
SKIP = json.loads((ROOT / "example_workflows" / "api" / "block_skip.json").read_text())
FOLDERS = Folders(Path("models"), Path("input"), Path("output"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\n\na blue square\n")
    return path


def test_seeds_count_up_from_the_workflows_own_with_every_prompt(prompts: Path) -> None:
    found = repeats(PROMPT, embedded_infos(), 3, str(prompts))
    assert (found.seeds, found.text) == (("8.seed",), "2.text")
    assert [(one["2.text"], one["8.seed"]) for one in found.values] == [
        (text, seed) for text in ("a red circle", "a blue square") for seed in (7, 8, 9)
    ]
    last = json.loads(json.dumps(PROMPT))
    last["8"]["inputs"]["seed"] = 2**64 - 1
    assert [one["8.seed"] for one in repeats(last, embedded_infos(), 2).values] == [2**64 - 1, 0]


def test_the_positive_prompt_is_found_behind_other_nodes_or_named(prompts: Path) -> None:
    behind = json.loads(json.dumps(PROMPT))
    control = {"positive": ["2", 0], "negative": ["3", 0], "control_net": ["1", 0], "image": ["1", 0]}
    behind["12"] = {"class_type": "ControlNetApplyAdvanced", "inputs": control}
    behind["8"]["inputs"] |= {"positive": ["12", 0], "negative": ["12", 1]}
    assert repeats(behind, embedded_infos(), 1, str(prompts)).text == "2.text"
    assert repeats(PROMPT, embedded_infos(), 1, f"3.text={prompts}").text == "3.text"
    assert repeats(PROMPT, embedded_infos(), 1, f"Caption.text={prompts}").text == "2.text"
    both = json.loads(json.dumps(PROMPT))
    both["12"] = {
        "class_type": "ConditioningCombine",
        "inputs": {"conditioning_1": ["2", 0], "conditioning_2": ["3", 0]},
    }
    both["8"]["inputs"]["positive"] = ["12", 0]
    with pytest.raises(Failure, match=r"write NODE.input=.*its texts are 2.text, 3.text"):
        repeats(both, embedded_infos(), 1, str(prompts))


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_wrong_counts_are_refused(count: int) -> None:
    with pytest.raises(Failure, match=f"--repeat {count}: write how many seeds to take"):
        repeats(PROMPT, embedded_infos(), count)


def test_what_cannot_be_repeated_is_refused(prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no node of this workflow has a seed"):
        repeats({"1": PROMPT["1"]}, {}, 2)
    prompts.write_text("a\na\n")
    with pytest.raises(Failure, match="a prompt stands there twice"):
        repeats(PROMPT, embedded_infos(), 1, str(prompts))
    with pytest.raises(Failure, match="none.txt cannot be read"):
        repeats(PROMPT, embedded_infos(), 1, str(tmp_path / "none.txt"))
    again = repeats(PROMPT, embedded_infos(), 2)
    with pytest.raises(Failure, match="KSampler.seed is set by --repeat or --prompts"):
        cells(PROMPT, [{"KSampler.seed": 3}], embedded_infos(), {}, again)


def test_each_cell_is_compared_with_the_baseline_of_its_own_repeat(prompts: Path) -> None:
    again = repeats(PROMPT, embedded_infos(), 2, str(prompts))
    found = cells(PROMPT, [{"8.steps": 3}, {"8.steps": 4}], embedded_infos(), {}, again, "sub_quad")
    by_id = {cell.id: cell for cell in found}
    assert len(found) == 4 * (1 + 1 + 2)
    for cell in found:
        first = by_id[cell.reference]
        assert first.baseline and first.repeat == cell.repeat
        for name in again.names:
            assert first.choice[name] == cell.choice[name]
    floors = [cell for cell in found if cell.floor]
    assert len(floors) == 4 and all(not cell.baseline for cell in floors)


def test_the_noise_floor_computes_all_attention_by_another_function() -> None:
    found = by_kernel(PROMPT, "sub_quad", embedded_infos())
    added = found[found["8"]["inputs"]["model"][0]]
    assert added["class_type"] == KERNEL and added["inputs"]["model"] == PROMPT["8"]["inputs"]["model"]
    assert (added["inputs"]["backend"], added["inputs"]["blocks"]) == ("sub_quad", "all")
    assert found["6"] == PROMPT["6"]
    for kernel in ("sage", "none"):
        with pytest.raises(Failure, match="write an exact attention function, one of .*sub_quad"):
            by_kernel(PROMPT, kernel, embedded_infos())
    with pytest.raises(Failure, match="there is no node PatchbayAttentionBackend"):
        by_kernel(PROMPT, "sub_quad", {})
    with pytest.raises(Failure, match="no node of this workflow gets a model"):
        by_kernel({"1": PROMPT["1"]}, "sub_quad", embedded_infos())


def each(prompt: Any) -> Any:
    return lambda node, address: each_block(prompt, node, address, FOLDERS)[0]


def test_an_axis_goes_over_each_block_of_the_model() -> None:
    axis = parse_axis("PatchbayBlockSkip.blocks=each(output)", each=each(SKIP))
    assert axis.values == ("output:0", "output:1", "output:2", "output:3")
    assert parse_axis("PatchbayBlockSkip.blocks=each(output:1-2,middle)", each=each(SKIP)).values == (
        "middle",
        "output:1",
        "output:2",
    )
    names, blocks = each_block(SKIP, "PatchbayBlockSkip", "all", FOLDERS)
    assert set(names) <= {block["name"] for block in blocks} and len(blocks) > len(names)
    whole = json.loads(json.dumps(SKIP))
    (skip,) = [node for node in whole.values() if node["class_type"] == "PatchbayBlockSkip"]
    skip["inputs"]["kind"] = "block"
    assert each_block(whole, "PatchbayBlockSkip", "all", FOLDERS)[0] == tuple(block["name"] for block in blocks)


def test_block_axes_say_what_is_wrong() -> None:
    with pytest.raises(Failure, match="this model has no block 'output:99'"):
        parse_axis("PatchbayBlockSkip.blocks=each(output:99)", each=each(SKIP))
    with pytest.raises(Failure, match="no node has that id"):
        parse_axis("99.blocks=each(output)", each=each(SKIP))
    lost = json.loads(json.dumps(SKIP))
    lost["1"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "none.safetensors"}}
    with pytest.raises(Failure, match="its model file is not in --models here"):
        parse_axis("PatchbayBlockSkip.blocks=each(output)", each=each(lost))
    with pytest.raises(Failure, match="here stands one value"):
        parse_axis("PatchbayBlockSkip.blocks=each(output)")
