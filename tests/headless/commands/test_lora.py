"""`patchbay lora`: blocks of a file, what each changes in a picture of the demo model, and baked rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.headless.nodes.lora import LoraLoader
from attention_patchbay.ldm_patched.files.checkpoint import Checkpoint
from attention_patchbay.ldm_patched.sampling import samplers
from attention_patchbay.nodes._host import load_demo_model
from attention_patchbay.nodes.lora import LoadLoraByRules
from safetensors.torch import save_file

from ...unets import draw

BLOCKS = {"input_blocks.1.0.in_layers.2": "input:1", "middle_block.1.transformer_blocks.0.attn2.to_v": "middle"}
BLOCKS |= {"output_blocks.5.0.in_layers.2": "output:5", "out.2": "outside of blocks"}
TEXT = "lora_te_text_model_encoder_layers_1_self_attn_v_proj"
METADATA = {"ss_base_model_version": "demo", "sshs_model_hash": "abc", "ss_tag": "kept"}


@pytest.fixture(scope="module")
def demo() -> Any:
    return load_demo_model()


@pytest.fixture
def lora(tmp_path: Path, demo: Any) -> Path:
    """Return a LoRA of three blocks, one layer outside of them, and one of the text encoder."""
    model, clip, _ = demo
    weights = {f"lora_unet_{path.replace('.', '_')}": f"diffusion_model.{path}.weight" for path in BLOCKS}
    shapes = {name: model.model.state_dict()[key].shape for name, key in weights.items()}
    key = "clip_l.transformer.text_model.encoder.layers.1.self_attn.v_proj.weight"
    shapes[TEXT] = clip.cond_stage_model.state_dict()[key].shape
    file = {}
    for number, (name, (out, into, *window)) in enumerate(shapes.items()):
        file[f"{name}.lora_up.weight"] = 0.1 * draw(number, out, 2, *[1] * len(window))
        file[f"{name}.lora_down.weight"] = 0.1 * draw(50 + number, 2, into, *window)
        file[f"{name}.alpha"] = torch.tensor(1.0)
    path = tmp_path / "models" / "loras" / "style.safetensors"
    path.parent.mkdir(parents=True)
    save_file(file, path, METADATA)
    return path


def workflow(folder: Path, loader: str = "LoraLoader", **more: Any) -> Path:
    inputs: dict[str, Any] = {"model": ["1", 0], "clip": ["1", 1], "lora_name": "style.safetensors", **more}
    sampler = {"model": ["5", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["4", 0], "seed": 7}
    sampler |= {"steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    prompt = {
        "1": {"class_type": "PatchbayLoadDemoModel", "inputs": {}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a red circle"}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {"class_type": loader, "inputs": inputs},
        "6": {"class_type": "KSampler", "inputs": sampler},
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["1", 2]}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "x"}},
    }
    (folder / "w.json").write_text(json.dumps(prompt))
    return folder / "w.json"


def measured(lora: Path, path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> Any:
    folders = ["--folder", str(lora.parents[2] / "out"), "--models", str(lora.parents[1])]
    code = main(["lora", str(lora), str(path), "--json", "--quiet", *folders, *more])
    out = capsys.readouterr()
    return (code, json.loads(out.out)) if code == 0 else (code, out.err)


def test_the_blocks_are_listed_with_their_norms(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lora", str(lora), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (
        info["names"] == ["kohya"]
        and info["kinds"] == {"lora": 5}
        and info["trainer"] == {"ss_base_model_version": "demo"}
    )
    rows = {row["block"]: row for row in info["blocks"]}
    assert list(rows) == ["input:1", "middle", "output:5", "outside of blocks", "text encoder"]
    file = Checkpoint(lora)
    name = "lora_unet_output_blocks_5_0_in_layers_2"
    up, down = (file[f"{name}.lora_{end}.weight"].double().flatten(1) for end in ("up", "down"))
    assert rows["output:5"]["norm"] == pytest.approx(float((0.5 * up @ down).norm()))
    assert max(rows[block]["relative"] for block in ("input:1", "middle", "output:5")) == 1.0
    assert rows["middle"]["ranks"] == [2]
    assert main(["lora", str(lora)]) == 0
    text = capsys.readouterr().out
    assert "style.safetensors: LoRA for UNet" in text and "middle" in text and "100 %" in text


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (torch.tensor(float("inf")), "alpha holds NaN or infinity"),
        (torch.tensor(float("nan")), "alpha holds NaN or infinity"),
        (torch.zeros(0), "alpha is empty, its shape is (0,)"),
        (None, "it holds no tensors"),
    ],
)
def test_a_damaged_file_is_refused_in_words(
    lora: Path, tmp_path: Path, value: torch.Tensor | None, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({} if value is None else {**Checkpoint(lora).loaded(), f"{TEXT}.alpha": value}, lora)
    for more in ([], ["--json"], ["--bake", str(tmp_path / "o.safetensors"), "* -> 0.5"]):
        assert main(["lora", str(lora), *more]) == 2
        assert f"{lora}: {'' if value is None else TEXT + '.'}{why}" in capsys.readouterr().err
    assert not (tmp_path / "o.safetensors").exists()


@pytest.mark.parametrize(
    ("loader", "more"),
    [
        ("LoraLoader", {"strength_model": 2.0, "strength_clip": 1.0}),
        ("PatchbayLoraRules", {"strength": 2.0, "strength_clip": 0.0, "rules": "middle -> 0.5; * -> 1"}),
    ],
)
def test_each_block_is_left_out_once(
    lora: Path, tmp_path: Path, loader: str, more: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = workflow(tmp_path, loader, **more)
    code, found = measured(lora, path, capsys)
    rows = {row["block"]: row for row in found}
    assert code == 0 and list(rows) == ["input:1", "middle", "output:5", "all blocks", "noise floor"]
    assert not any(row["error"] for row in found)
    assert rows["all blocks"]["share"] == 1.0 and rows["all blocks"]["mean"] > 5 * rows["noise floor"]["mean"]
    assert rows["output:5"]["mean"] > rows["noise floor"]["mean"] and not rows["output:5"]["noise"]
    assert rows["output:5"]["ssim"] < rows["noise floor"]["ssim"] and rows["noise floor"]["noise"]
    done = {cell: cell.stat().st_mtime_ns for cell in (tmp_path / "out" / "cells").glob("*.json")}
    assert len(done) == 6
    assert measured(lora, path, capsys) == (code, found)
    assert {cell: cell.stat().st_mtime_ns for cell in done} == done  # nothing ran again


def test_rules_that_take_no_layer_are_told_before_anything_runs(
    lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = workflow(tmp_path, "PatchbayLoraRules", strength=1.0, strength_clip=0.0, rules="input:0 -> 1; middle -> 0")
    code, text = measured(lora, path, capsys)
    assert code == 2 and "leave nothing of it: no layer of this file lies in 'input:0'; its blocks are input:1," in text
    assert not (tmp_path / "out").exists()
    path = workflow(tmp_path, "PatchbayLoraRules", strength=2.0, strength_clip=0.0, rules="input:0 -> 1; middle -> 1")
    options = ["--quiet", "--folder", str(tmp_path / "out"), "--models", str(lora.parents[1])]
    assert main(["lora", str(lora), str(path), *options]) == 0
    assert "the rule for 'input:0' takes no layer of this file" in capsys.readouterr().err


def test_a_loader_of_the_model_only_is_measured_too(
    lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = workflow(tmp_path, "LoraLoaderModelOnly", strength_model=2.0)
    prompt = json.loads(path.read_text())
    del prompt["5"]["inputs"]["clip"]
    path.write_text(json.dumps(prompt))
    code, found = measured(lora, path, capsys)
    assert code == 0 and found[-2]["mean"] > 0


def test_a_workflow_that_does_not_load_the_file_is_refused(
    lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = workflow(tmp_path, "LoraLoader", lora_name="other.safetensors", strength_model=1.0, strength_clip=1.0)
    assert measured(lora, path, capsys) == (
        2,
        "patchbay: no LoraLoader, LoraLoaderModelOnly, PatchbayLoraRules of this workflow loads style.safetensors; it "
        "has node 5 LoraLoader: other.safetensors\n",
    )
    out = str(tmp_path / "o.safetensors")
    code, text = measured(lora, path, capsys, "--bake", out, "* -> 1")
    assert code == 2 and "one of them" in text


def test_a_baked_file_in_cores_loader_gives_what_the_node_gives(
    lora: Path, demo: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = "input:1 -> 0.3; middle -> -0.5; cross -> 9; * -> 1.2"
    out = lora.with_name("baked.safetensors")
    assert main(["lora", str(lora), "--bake", str(out), rules]) == 0
    model, clip, _ = demo

    def latent(model: Any, clip: Any) -> torch.Tensor:
        prompt = clip.encode_from_tokens_scheduled(clip.tokenize("a red circle"))
        return samplers.sample(model, draw(0, 1, 4, 16, 16), prompt, prompt, 1.0, 1, "euler", "normal", 1.0, seed=0)

    with entered(Session(Folders(lora.parents[1]))):
        wanted = latent(*LoadLoraByRules.execute(model, "style.safetensors", rules, 1.0, 1.0, clip).args)
        got = latent(*LoraLoader.execute(model, clip, "baked.safetensors", 1.0, 1.0).args)
        plain = latent(*LoraLoader.execute(model, clip, "style.safetensors", 1.0, 1.0).args)
    assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max() < (got - plain).abs().max()
    assert Checkpoint(out).metadata == {"ss_base_model_version": "demo", "ss_tag": "kept", "patchbay_rules": rules}


def test_baking_replaces_no_file_unasked(lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.safetensors"
    out.write_bytes(b"mine")
    assert main(["lora", str(lora), "--bake", str(out), "* -> 0.5"]) == 2
    assert out.read_bytes() == b"mine" and "--force" in capsys.readouterr().err
    assert main(["lora", str(lora), "--bake", str(out), "input:4 -> 1; * -> 0.5", "--force"]) == 0
    told = capsys.readouterr()
    assert told.err == "the rule for 'input:4' takes no layer of this file\n" and "15 of 15 tensors" in told.out
    assert main(["lora", str(lora), "--bake", str(out), "middle 0-50% -> 1", "--force"]) == 2
    assert "a file has one strength for a whole run" in capsys.readouterr().err
    assert main(["lora", str(lora), "--bake", str(out), "middle -> x", "--force", "--json"]) == 2
    assert "line 1, column 11: cannot read the strength 'x'" in capsys.readouterr().err
    assert len(Checkpoint(out)) == 15 and not list(tmp_path.glob(".*.tmp"))


def test_the_files_of_a_server_are_those_that_it_tells(
    lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    infos = {name: cls.GET_NODE_INFO_V1() for name, cls in catalog().items()}
    infos["PatchbayLoraRules"]["input"]["required"]["lora_name"][1]["options"] = ["none", "far.safetensors"]
    (tmp_path / "nodes.json").write_text(json.dumps(infos))

    def checked(**more: Any) -> tuple[int, str]:
        given = {"strength": 1.0, "strength_clip": 1.0, "rules": "* -> 1", **more}
        path = workflow(tmp_path, "PatchbayLoraRules", **given)
        code = main(["check", str(path), "--nodes", str(tmp_path / "nodes.json"), "--models", str(lora.parents[1])])
        return code, capsys.readouterr().out

    assert checked(lora_name="far.safetensors")[0] == 0
    code, text = checked()
    assert code == 2 and "style.safetensors' not in ['none', 'far.safetensors']" in text
    code, text = checked(lora_name="far.safetensors", rules="* -> much")
    assert code == 2 and "cannot read the strength 'much'" in text
