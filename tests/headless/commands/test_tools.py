"""The commands check, diff and info, and workflows out of pictures."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.headless.commands.diff import differences
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from safetensors.numpy import save_file

from ...examples import RUNNABLE, api_form

ROOT = Path(__file__).parents[3]
EXAMPLES = [api_form(path) for path in RUNNABLE]
DEMO = ROOT / "example_workflows" / "api" / "demo.json"
PROMPT: dict[str, Any] = json.loads(DEMO.read_text())
KEYS = ROOT / "tests" / "data" / "state_dict_keys.json.gz"


def node_of(class_type: str) -> str:
    return next(id for id, node in PROMPT.items() if node["class_type"] == class_type)


def checked(tmp_path: Path, capsys: pytest.CaptureFixture[str], prompt: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    (tmp_path / "w.json").write_text(json.dumps(prompt))
    code = main(["check", str(tmp_path / "w.json"), "--models", str(tmp_path), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_have_no_error(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(path), "--input", str(path.parent)]) == 0
    assert "0 errors" in capsys.readouterr().out


def test_what_is_wrong_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patch, sampler = node_of("PatchbayAttentionPatch"), node_of("KSampler")
    cases: list[tuple[str, dict[str, Any], str]] = [
        (patch, {"class_type": "PatchbayAttentionPach"}, "did you mean PatchbayAttentionPatch"),
        (patch, {"blocks": "output:99"}, "output:99"),
        (patch, {"blocks": "midle"}, "midle"),
        (sampler, {"sampler_name": "euler_ancestrall"}, "did you mean euler_ancestral"),
        (sampler, {"steps": 0}, "steps"),
    ]
    for id, change, reason in cases:
        prompt = copy.deepcopy(PROMPT)
        prompt[id]["class_type"] = change.pop("class_type", prompt[id]["class_type"])
        prompt[id]["inputs"].update(change)
        code, found = checked(tmp_path, capsys, prompt)
        assert code == 2 and any(reason in line for line in found["errors"]), (reason, found)


def test_warnings_leave_the_exit_code_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = copy.deepcopy(PROMPT)
    prompt[node_of("PatchbayAttentionBackend")]["inputs"]["backend"] = "sage3"
    prompt["99"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    code, found = checked(tmp_path, capsys, prompt)
    assert code == 0 and found["errors"] == []
    assert any("sage3 cannot run on this machine" in line for line in found["warnings"])
    assert any("node 99 EmptyLatentImage leads to no output" in line for line in found["warnings"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="sdpa_flash runs here")
def test_a_function_for_another_device_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = copy.deepcopy(PROMPT)
    prompt[node_of("PatchbayAttentionBackend")]["inputs"]["backend"] = "sdpa_flash"
    warnings = checked(tmp_path, capsys, prompt)[1]["warnings"]
    assert any("sdpa_flash cannot run on this machine and falls back: runs on cuda only" in line for line in warnings)


def test_an_address_is_held_against_the_file_of_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "tiny.safetensors").symlink_to(CHECKPOINT)
    (tmp_path / "checkpoints" / "tiny.safetensors").unlink()
    (tmp_path / "checkpoints" / "tiny.safetensors").write_bytes(CHECKPOINT.read_bytes())
    prompt = copy.deepcopy(PROMPT)
    prompt[node_of("PatchbayLoadDemoModel")] = {
        "class_type": "CheckpointLoaderSimple",
        "inputs": {"ckpt_name": "tiny.safetensors"},
    }
    assert checked(tmp_path, capsys, prompt)[0] == 0
    prompt[node_of("PatchbayAttentionPatch")]["inputs"]["blocks"] = "output:11"
    code, found = checked(tmp_path, capsys, prompt)
    assert code == 2 and "output:11" in found["errors"][0]


def test_differences_are_named() -> None:
    assert differences(PROMPT, copy.deepcopy(PROMPT)) == []
    other = copy.deepcopy(PROMPT)
    other[node_of("KSampler")]["inputs"]["steps"] = 7
    del other[node_of("PatchbayPatchReport")]
    other["50"] = {"class_type": "PreviewImage", "inputs": {"images": [node_of("VAEDecode"), 0]}}
    found = differences(PROMPT, other)
    assert [entry["what"] for entry in found] == ["removed", "added", "changed"]
    assert found[2]["input"] == "steps" and found[2]["after"] == 7
    renumbered = {f"{id}0": copy.deepcopy(node) for id, node in PROMPT.items()}
    for node in renumbered.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                node["inputs"][name] = [f"{value[0]}0", value[1]]
    assert differences(PROMPT, renumbered) == []


def test_diff_has_the_exit_codes_of_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "example_workflows" / "demo.json"
    assert main(["diff", str(DEMO), str(page)]) == 0 and capsys.readouterr().out == "no difference\n"
    assert main(["diff", str(DEMO), str(EXAMPLES[0])]) == 1
    assert main(["diff", str(DEMO), str(tmp_path / "none.json")]) == 2


def unknown_page(size: int, names: bool = True) -> dict[str, Any]:
    """Return a page workflow whose nodes no server here has."""
    first = {"id": 1, "type": "FarMaker", "outputs": [{"links": [1]}], "widgets_values": [size, "fixed", ["a", 1]]}
    if names:
        first["widgets_values_named"] = {"size": size, "control": "fixed", "list": ["a", 1]}
    other = {"id": 2, "type": "FarTaker", "inputs": [{"name": "it", "link": 1}], "widgets_values": {"text": "t"}}
    return {"nodes": [first, other], "links": [[1, 1, 0, 2, 0, "IMAGE"]]}


def written(path: Path, data: Any) -> str:
    path.write_text(json.dumps(data))
    return str(path)


def test_nodes_that_are_not_known_are_compared_as_they_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = written(tmp_path / "one.json", unknown_page(5))
    two = unknown_page(6)
    two["nodes"].append({"id": 3, "type": "FarOther", "widgets_values": [1]})
    two["nodes"][1]["inputs"][0]["link"] = None
    older = written(tmp_path / "older.json", unknown_page(5, names=False))
    assert main(["diff", one, one]) == main(["diff", one, older]) == main(["diff", older, one]) == 0
    capsys.readouterr()
    assert main(["diff", one, written(tmp_path / "two.json", two)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "added node 3 FarOther",
        "node 1 FarMaker: size: 5 -> 6",
        "node 2 FarTaker: it: 'node 1 FarMaker, output 0' -> None",
    ]
    two["nodes"].pop()
    assert (
        main(["diff", older, written(tmp_path / "oldest.json", two | {"nodes": unknown_page(6, False)["nodes"]})]) == 1
    )
    assert "node 1 FarMaker: widgets_values[0]: 5 -> 6" in capsys.readouterr().out


def test_every_unknown_node_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (written(tmp_path / "page.json", unknown_page(5)), written(tmp_path / "api.json", API)):
        assert main(["check", path]) == 2
        found = capsys.readouterr().out
        assert "node 1 FarMaker is not known here" in found and "node 2 FarTaker is not known here" in found
        assert "2 errors" in found
    assert main(["convert", str(tmp_path / "page.json")]) == 2
    assert "node 1 'FarMaker', node 2 'FarTaker'" in capsys.readouterr().err


API = {
    "1": {"class_type": "FarMaker", "inputs": {"size": 5}},
    "2": {"class_type": "FarTaker", "inputs": {"it": ["1", 0]}},
}


def test_a_picture_is_a_workflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--quiet", "--set", "KSampler.steps=2", "--output", str(tmp_path)]
    assert main(["run", str(DEMO), *quick]) == 0
    (picture,) = tmp_path.glob("*.png")
    capsys.readouterr()
    assert main(["info", str(picture), "--prompt"]) == 0
    (tmp_path / "again.json").write_text(capsys.readouterr().out)
    assert main(["diff", str(picture), str(tmp_path / "again.json")]) == 0
    assert main(["run", str(picture), "--quiet", "--output", str(tmp_path / "again")]) == 0
    (again,) = (tmp_path / "again").glob("*.png")
    from PIL import Image

    assert np.array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(picture)))
    Image.new("RGB", (4, 4)).save(tmp_path / "bare.png")
    capsys.readouterr()
    assert main(["run", str(tmp_path / "bare.png")]) == 2
    assert "The picture holds no workflow" in capsys.readouterr().err


def test_info_of_the_demo_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(CHECKPOINT), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["family"] == "sd1" and found["parts"] == ["UNet", "text encoder (1)", "VAE"]
    assert [block["address"] for block in found["blocks"] if block["depth"]][0] == "input:3"
    assert main(["info", str(CHECKPOINT)]) == 0 and "output:3" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "family", "blocks"), [("sd15", "sd1", 16), ("sd21", "sd2", 16), ("sdxl", "sdxl", 11)])
def test_info_of_public_layouts(
    name: str, family: str, blocks: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Headers with the keys and shapes of public checkpoints; the tensors are holes in the file."""
    with gzip.open(KEYS, "rt") as file:
        shapes = json.load(file)[f"UNetModel_{name}"]["keys"]
    header, place = {}, 0
    for key, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    with (tmp_path / "unet.safetensors").open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + place)
    assert main(["info", str(tmp_path / "unet.safetensors"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["family"] == family and found["dtypes"] == {"F16": len(shapes)}
    assert sum(block["depth"] > 0 for block in found["blocks"]) == blocks


def test_info_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"x.lora_down.weight": np.zeros((2, 2), np.float32)}, tmp_path / "lora.safetensors")
    assert main(["info", str(tmp_path / "lora.safetensors")]) == 0 and "LoRA" in capsys.readouterr().out
    (tmp_path / "bad.safetensors").write_bytes(b"\x10" + bytes(30))
    assert main(["info", str(tmp_path / "bad.safetensors")]) == 2
    assert "not a safetensors file" in capsys.readouterr().err
    (tmp_path / "bad.txt").write_text("a text")
    assert main(["info", str(tmp_path / "bad.txt")]) == 2
    error = capsys.readouterr().err
    assert "not a safetensors file" in error and error.endswith("; it is no PNG, WebP or JPEG either\n")


def write_header(path: Path, shapes: dict[str, list[int]]) -> None:
    """Write a file whose tensors are a hole."""
    header, place = {}, 0
    for key, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + place)


def test_blocks_of_a_transformer_come_from_its_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The layout of FLUX.1: 19 double and 38 single blocks of 24 heads."""
    shapes = {"img_in.weight": [3072, 64], "txt_in.weight": [3072, 4096]}
    for number in range(19):
        shapes[f"double_blocks.{number}.img_attn.norm.key_norm.scale"] = [128]
        shapes[f"double_blocks.{number}.img_attn.proj.weight"] = [3072, 3072]
    shapes |= {f"single_blocks.{number}.norm.key_norm.scale": [128] for number in range(38)}
    (tmp_path / "checkpoints").mkdir()
    write_header(tmp_path / "checkpoints" / "flux.safetensors", shapes)
    assert main(["info", str(tmp_path / "checkpoints" / "flux.safetensors"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["family"], found["parts"], len(found["blocks"])) == ("Flux", ["transformer"], 19 + 38)
    assert found["blocks"][0] == {"address": "double:0", "depth": 1, "heads": 24, "dim_head": 128, "factor": 0}
    assert main(["info", str(tmp_path / "checkpoints" / "flux.safetensors")]) == 0
    assert "  single:37  1 deep, 24 heads of 128\n" in capsys.readouterr().out + "\n"
    prompt = copy.deepcopy(PROMPT)
    loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "flux.safetensors"}}
    prompt[node_of("PatchbayLoadDemoModel")] = loader
    prompt[node_of("PatchbayAttentionPatch")]["inputs"]["blocks"] = "double:19"
    prompt[node_of("PatchbayAttentionBackend")]["inputs"]["blocks"] = "double:18, single:37"
    code, found = checked(tmp_path, capsys, prompt)
    assert code == 2 and len(found["errors"]) == 1 and "double:19" in found["errors"][0]


def described_node(required: dict[str, Any], output: list[str] | None = None) -> dict[str, Any]:
    return {"input": {"required": required}, "output": output or [], "output_node": not output}


def test_a_workflow_is_checked_against_the_nodes_of_a_comfyui(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    infos = {
        "Load": described_node({"name": [["a.safetensors"], {}]}, ["MODEL"]),
        "Save": described_node({"model": ["MODEL"], "many": ["INT", {"max": 4}], "picture": [[], {"image_upload": 1}]}),
        "Pick": described_node({"pick": ["COMFY_DYNAMICCOMBO_V3", {"options": []}], "to": ["*"]}),
    }
    prompt = {
        "1": {"class_type": "Load", "inputs": {"name": "a.safetensors"}},
        "2": {"class_type": "Save", "inputs": {"model": ["1", 0], "many": 4, "picture": "x.png"}},
        "3": {"class_type": "Pick", "inputs": {"pick": "a", "pick.b": 1, "to": ["1", 0]}},
    }
    (tmp_path / "nodes.json").write_text(json.dumps(infos))

    def found(**changes: Any) -> tuple[int, dict[str, Any]]:
        changed = copy.deepcopy(prompt)
        for id, inputs in changes.items():
            changed[id[1:]]["inputs"] |= inputs
        (tmp_path / "w.json").write_text(json.dumps(changed))
        code = main(["check", str(tmp_path / "w.json"), "--nodes", str(tmp_path / "nodes.json"), "--json"])
        return code, json.loads(capsys.readouterr().out)

    assert found() == (0, {"errors": [], "warnings": []})
    assert found(n1={"name": "b.safetensors"})[1]["errors"][0].endswith("did you mean a.safetensors?")
    assert "bigger than max" in found(n2={"many": 5})[1]["errors"][0]
    code, seen = found(n2={"manny": 5})
    assert code == 0 and "did you mean many?" in seen["warnings"][0]
    for id in ("1", "3"):
        prompt[id]["class_type"] += "er"
    code, seen = found()
    assert code == 2 and len(seen["errors"]) == 2 and "did you mean Load?" in seen["errors"][0]
    (tmp_path / "nodes.json").write_text("[]")
    assert main(["check", str(DEMO), "--nodes", str(tmp_path / "nodes.json")]) == 2
    assert "what URL/object_info of the ComfyUI gives" in capsys.readouterr().err


def test_blocks_and_own_widgets_are_checked_against_the_nodes_of_a_comfyui_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    infos = {name: cls.GET_NODE_INFO_V1() for name, cls in catalog().items()}
    infos["Strange"] = {"input": {"required": ["a"]}}
    (tmp_path / "nodes.json").write_text(json.dumps(infos))
    prompt = json.loads(DEMO.read_text())

    def found(blocks: str) -> list[str]:
        prompt[node_of("PatchbayAttentionBackend")]["inputs"]["blocks"] = blocks
        (tmp_path / "w.json").write_text(json.dumps(prompt))
        main(["check", str(tmp_path / "w.json"), "--nodes", str(tmp_path / "nodes.json"), "--json"])
        return json.loads(capsys.readouterr().out)["errors"]

    assert found("middle") == []
    assert "Strange describes itself in a form that is not known" in caplog.text
    assert "inptu" in found("inptu:4")[0]
    assert "input:44" in found("input:44")[0]
