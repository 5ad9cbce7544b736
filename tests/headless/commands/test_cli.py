from __future__ import annotations

import argparse
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.headless.commands.tune import LABEL
from attention_patchbay.headless.commands.unet_dtype import unet_dtype
from PIL import Image

ROOT = Path(__file__).parents[3]


def demo(**changes: dict[str, Any]) -> dict[str, Any]:
    """A workflow of the demo model at 2 steps; `changes` update the inputs of nodes."""
    nodes: dict[str, Any] = {
        "model": ("PatchbayLoadDemoModel", {}),
        "text": ("CLIPTextEncode", {"text": "a red circle", "clip": ["model", 1]}),
        "patch": (
            "PatchbayAttentionPatch",
            {
                "model": ["model", 0],
                "slot": "attn1.out",
                "operation": "scale",
                "value": 1.5,
                "strength": 1.0,
                "blocks": "middle",
                "start_percent": 0.0,
                "end_percent": 1.0,
                "curve": "constant",
            },
        ),
        "latent": ("EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 1}),
        "sampler": (
            "KSampler",
            {
                "model": ["patch", 0],
                "seed": 5,
                "steps": 2,
                "cfg": 2.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "positive": ["text", 0],
                "negative": ["text", 0],
                "latent_image": ["latent", 0],
                "denoise": 1.0,
            },
        ),
        "decode": ("VAEDecode", {"samples": ["sampler", 0], "vae": ["model", 2]}),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "demo"}),
        "report": ("PatchbayPatchReport", {"model": ["patch", 0], "latent": ["sampler", 0]}),
    }
    for id, inputs in changes.items():
        nodes[id][1].update(inputs)
    return {id: {"class_type": class_type, "inputs": inputs} for id, (class_type, inputs) in nodes.items()}


def write(folder: Path, prompt: Any) -> str:
    path = folder / "workflow.json"
    path.write_text(json.dumps(prompt))
    return str(path)


def patchbay(folder: Path, *arguments: str, prompt: Any = None) -> int:
    file = write(folder, demo() if prompt is None else prompt)
    (folder / "models").mkdir(exist_ok=True)
    folders = ["--models", str(folder / "models"), "--input", str(folder), "--output", str(folder / "out")]
    return main(["run", file, *folders, "--quiet", *arguments])


def test_a_workflow_becomes_a_picture_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert patchbay(tmp_path) == 0
    shown = capsys.readouterr().out
    assert "1. scale 1.5 attn1.out on middle: ran 2 times in 1 of 1 blocks" in shown
    path = tmp_path / "out" / "demo_00001_.png"
    assert str(path) in shown
    with Image.open(path) as image:
        assert image.size == (128, 128)
        assert json.loads(image.text["prompt"])["sampler"]["inputs"]["seed"] == 5


def test_the_same_seed_gives_the_same_picture_and_a_setting_changes_it(tmp_path: Path) -> None:
    assert patchbay(tmp_path) == 0
    assert patchbay(tmp_path) == 0
    assert patchbay(tmp_path, "--set", "KSampler.seed=6") == 0
    first, again, other = (np.asarray(Image.open(tmp_path / f"out/demo_0000{i}_.png")) for i in (1, 2, 3))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_result_can_be_read_by_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert patchbay(tmp_path, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [Path(path).name for path in result["images"]] == ["demo_00001_.png"]
    assert "attention calls" in result["outputs"]["report"]["text"][0]
    assert set(result["ran"]) == set(demo())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": {"text": ["model", 7]}}, "node text CLIPTextEncode: Bad linked input"),
        ({"sampler": {"steps": 0}}, "node sampler KSampler: Value 0 smaller than min of 1: steps"),
        ({"sampler": {"cfg": "high"}}, "node sampler KSampler: Failed to convert an input value to a FLOAT"),
        ({"sampler": {"sampler_name": "eular"}}, "did you mean euler?"),
        ({"sampler": {"model": ["text", 0]}}, "received_type(CONDITIONING) mismatch input_type(MODEL)"),
        ({"text": {"clip": ["model", 2]}}, "received_type(VAE) mismatch input_type(CLIP)"),
        ({"patch": {"model": ["patch", 0]}}, "Dependency cycle detected: patch -> patch"),
        ({"patch": {"blocks": "inptu:4"}}, "unknown block 'inptu'"),
        ({"patch": {"operation": "identity", "slot": "attn2.out"}}, "choose one of scale, mean, zero"),
        ({"patch": {"blocks": "input:4"}}, "this model has no block 'input:4' with attention; it has input:3"),
        ({"save": {"filename_prefix": "../../x"}}, "node save SaveImage: the name '../../x' leads out of"),
    ],
)
def test_a_wrong_workflow_names_the_node_and_the_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    assert patchbay(tmp_path, prompt=demo(**changes)) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.png"))


def test_an_input_that_a_node_has_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert patchbay(tmp_path, "--set", "sampler.step=3") == 2
    said = capsys.readouterr().err
    assert "KSampler has no input 'step'; it has model, seed, steps, cfg" in said
    assert not (tmp_path / "out").exists()


FOLDERS = {
    "run": ("--cache", "--output", "--models", "--input"),
    "sweep": ("--cache", "--folder", "--models", "--input"),
    "tune": ("--models", "--input"),
    "lora": ("--cache", "--folder"),
}


@pytest.mark.parametrize(("command", "option"), [(one, option) for one in FOLDERS for option in FOLDERS[one]])
@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_no_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    option: str,
    name: str,
) -> None:
    """A variable of the shell that is not set would mean the current folder."""
    file = write(tmp_path, demo())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SystemExit) as ended:
        main([command, *(["some.safetensors"] if command == "lora" else []), file, option, name])
    assert ended.value.code == 2 and option in capsys.readouterr().err
    assert not list((tmp_path / "here").iterdir())


def test_an_unknown_node_and_a_missing_input_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = demo()
    prompt["sampler"]["class_type"] = "KSamplr"
    assert patchbay(tmp_path, prompt=prompt) == 2
    assert "did you mean KSampler?" in capsys.readouterr().err
    prompt = demo()
    del prompt["sampler"]["inputs"]["seed"]
    assert patchbay(tmp_path, "--json", prompt=prompt) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["node_errors"]["sampler"]["errors"][0]["type"] == "required_input_missing"


def test_a_missing_checkpoint_is_named_with_the_ones_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = demo()
    prompt["model"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}}
    assert patchbay(tmp_path, prompt=prompt) == 2
    assert "'sd15.safetensors' not in ['patchbay_demo.safetensors']" in capsys.readouterr().err
    prompt["model"]["inputs"]["ckpt_name"] = "patchbay_demo.safetensors"
    assert patchbay(tmp_path, prompt=prompt) == 0


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "models" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "old.ckpt").write_bytes(pickle.dumps({"state_dict": {}}))
    prompt = demo()
    prompt["model"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "old.ckpt"}}
    assert patchbay(tmp_path, prompt=prompt) == 2
    shown = capsys.readouterr().err
    assert "node model CheckpointLoaderSimple" in shown
    assert "safetensors" in shown
    assert "save_file" in shown


def test_nodes_are_listed_with_inputs_defaults_and_tooltips(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nodes"]) == 0
    shown = capsys.readouterr().out
    assert "PatchbayAttentionPatch - Attention Patch" in shown
    assert "strength (FLOAT, 0.0 to 1.0, default 1.0): How much" in shown
    assert main(["nodes", "--json"]) == 0
    assert "one of )" not in shown and "control_net_name (COMBO, no file here" in shown
    infos = json.loads(capsys.readouterr().out)
    core = {"CheckpointLoaderSimple", "UNETLoader", "CLIPTextEncode", "EmptyLatentImage", "KSampler", "VAEDecode"}
    core |= {"KSamplerAdvanced", "VAEEncode", "LoadImage", "SaveImage", "PreviewImage", "ModelSamplingDiscrete"}
    assert core <= set(infos)
    for info in infos.values():
        for inputs in info["input"].values():
            assert all(len(entry) == 1 or entry[1].get("tooltip") for entry in inputs.values()), info["name"]


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_leaves_no_half_written_file(tmp_path: Path) -> None:
    file = write(tmp_path, demo(sampler={"steps": 10000}))
    command = [sys.executable, "-m", "attention_patchbay.headless.commands.cli", "run", file]
    command += ["--output", str(tmp_path / "out")]
    # a shell's background job is born deaf to SIGINT, and its children with it
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, preexec_fn=hear) as process:
        assert process.stderr is not None
        shown = ""
        while "step" not in shown:
            shown += process.stderr.read(1)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "patchbay: interrupted" in rest
    assert "Traceback" not in rest
    assert not list(tmp_path.rglob("*.tmp")) + list(tmp_path.rglob("*.png"))


def test_tuning_prints_rules_for_the_model_of_the_sampler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    demo = str(ROOT / "example_workflows" / "api" / "demo.json")
    monkeypatch.chdir(tmp_path)
    assert main(["tune", demo, "--seconds", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rules"].endswith("all -> auto") and "batch 2, 8 heads of 12" in result["text"]
    assert not Path("output").exists() and main(["tune", demo, "--seconds", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{LABEL}\n{result['rules']}\n\nattention in a step: ")
    assert "were measured in an earlier run; `again` measures them anew.\n\nbatch 2, " in out


def test_a_workflow_without_one_sampler_cannot_be_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "w.json"
    file.write_text(json.dumps({"1": {"class_type": "PatchbayLoadDemoModel", "inputs": {}}}))
    assert main(["tune", str(file)]) == 2
    assert "expected one KSampler or KSamplerAdvanced, found 0" in capsys.readouterr().err


@pytest.mark.parametrize("units", [True, False])
def test_a_processor_without_bfloat16_is_told_of(
    units: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: units)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert unet_dtype(argparse.Namespace(bf16_unet=True)) is torch.bfloat16
    assert unet_dtype(argparse.Namespace(bf16_unet=False)) is None
    assert ("has no units for bfloat16" in capsys.readouterr().err) is not units
