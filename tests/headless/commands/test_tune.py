"""`patchbay tune`: what is measured is kept in files, and taken out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.headless.commands.cli import main
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.files.checkpoint import Checkpoint
from attention_patchbay.ldm_patched.files.preferences import preferred_functions, preferred_layers
from attention_patchbay.ldm_patched.ldm.modules.backends import registry
from attention_patchbay.ldm_patched.patches.routing.kept_choices import kept_file, kept_rules
from attention_patchbay.ldm_patched.patches.routing.layer_choices import LayerChoices
from attention_patchbay.ldm_patched.patches.routing.rules import parse_rules, rules_text
from PIL import Image
from skimage.metrics import structural_similarity

DEMO = str(Path(__file__).parents[3] / "example_workflows" / "api" / "demo.json")
INT8 = "comfy_kitchen_int8"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a stand-in be int8 attention on this CPU: wrong by a thousandth, and one of two functions that are there."""
    exact = registry._registry["pytorch"]

    def quick(*args: Any, **kwargs: Any) -> Any:
        return 0.999 * exact.function(*args, **kwargs)

    def slow(*args: Any, **kwargs: Any) -> Any:
        return [exact.function(*args, **kwargs) for _ in range(8)][0]

    kept = {"pytorch": slow, INT8: quick}
    found = {name: type(exact)(**{**vars(exact), "name": name, "function": kept[name]}) for name in kept}
    monkeypatch.setattr(registry, "_registry", found | {"basic": registry._registry["basic"]})


def tune(*arguments: str) -> int:
    return main(["tune", *arguments])


def test_what_is_measured_is_kept_in_a_copy_and_a_side_file_and_undone(
    kernel: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, side, back = (str(tmp_path / f"{name}.safetensors") for name in ("copy", "side", "back"))
    arguments = ["--seconds", "2", "--max-error", "0.05", "--recorded-steps", "2", "--json"]
    assert tune(DEMO, "--write", copy, "--side", side, *arguments) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["written"] == [side, copy] and "own tensors, 2 steps" in about["text"]
    named = {layer for layer, function in about["layers"].items() if function == INT8}
    assert named and preferred_functions(Checkpoint(copy)) == {INT8: len(named)}
    assert preferred_layers(Checkpoint(side)).keys() == {f"diffusion_model.{layer}" for layer in named}
    assert rules_text(kept_rules(Path(side))) == rules_text(kept_rules(Path(copy))) == about["rules"]
    assert tune(copy, "--undo", "--write", back) == 0
    assert Path(back).read_bytes() == CHECKPOINT.read_bytes()


def test_rules_are_kept_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy, side = tmp_path / "copy.safetensors", tmp_path / "side.safetensors"
    rules = f"middle self -> {INT8}; output 20-100% -> sage; all -> auto"
    assert tune(str(CHECKPOINT), "--rules", rules, "--side", str(side)) == 0
    assert tune(DEMO, "--rules", str(side), "--write", str(copy)) == 0
    shown = capsys.readouterr().out
    assert f"ComfyUI reads by itself: {INT8} in 1 layers" in shown
    assert "left to the rules: output 20-100% -> sage (a checkpoint keeps no part of the run)" in shown
    assert list(preferred_layers(Checkpoint(copy)).values()) == [INT8]
    assert main(["info", str(copy)]) == 0
    assert f"attention: prefers {INT8} in 1 layers" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()


def test_a_machine_without_such_a_function_writes_no_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy.safetensors"
    assert tune(DEMO, "--write", str(copy), "--rules", "all -> cpu_bf16") == 2
    told = capsys.readouterr()
    assert "all -> cpu_bf16: a checkpoint can name comfy_kitchen_int8 only" in told.err and "cpu_bf16" in told.out
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_could_hold_nothing_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("attention_patchbay.headless.commands.tune.execute", lambda *_: pytest.fail("it measured"))
    copy, source = tmp_path / "copy.safetensors", tmp_path / "checkpoints" / "source.safetensors"
    monkeypatch.setattr(registry, "_registry", {name: registry._registry[name] for name in ("pytorch", "basic")})
    assert tune(DEMO, "--write", str(copy)) == 2
    error = capsys.readouterr().err
    assert f"can name {INT8} only, which does not run on this machine; keep the choice in a file (--side)" in error
    source.parent.mkdir()
    assert tune(str(CHECKPOINT), "--rules", f"all -> {INT8}", "--write", str(source)) == 0
    prompt = json.loads(Path(DEMO).read_text())
    (loader,) = [node for node in prompt.values() if node["class_type"] == "PatchbayLoadDemoModel"]
    loader |= {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": source.name}}
    (tmp_path / "w.json").write_text(json.dumps(prompt))
    assert tune(str(tmp_path / "w.json"), "--models", str(tmp_path), "--write", str(copy)) == 2
    undo = "write a copy without them first: patchbay tune source.safetensors --undo --write COPY.safetensors"
    assert f"{source}: it has choices that were written here; {undo}" in capsys.readouterr().err
    loader["inputs"]["ckpt_name"] = "absent.safetensors"
    (tmp_path / "w.json").write_text(json.dumps(prompt))
    for option in ("--write", "--side"):
        assert tune(str(tmp_path / "w.json"), "--models", str(tmp_path), option, str(copy)) == 2
        assert "no model file can be found behind the sampler" in capsys.readouterr().err
    assert not copy.exists()


def test_a_side_file_of_another_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    side, new = tmp_path / "flux.safetensors", tmp_path / "new.safetensors"
    side.write_bytes(kept_file(parse_rules(f"double:0 -> {INT8}"), LayerChoices({}, {})))
    assert tune(str(CHECKPOINT), "--rules", str(side), "--write", str(new)) == 2
    assert f"{side}: its rules are for another model: this model has no block 'double:0'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["model", "--write", "new"], "is measured by a workflow that loads it"),
        (["model", "--undo"], "and --write for the copy"),
        (["absent", "--rules", "all -> auto", "--side", "new"], "no such file"),
        (["model", "--rules", f"all -> {INT8}", "--write", "model"], "nothing is written over"),
        (["model", "--rules", f"input:99 -> {INT8}", "--write", "new"], "no block 'input:99'"),
        (["model", "--rules", "all > sage", "--write", "new"], "'->' and a backend are missing"),
        (["model", "--rules", "absent", "--side", "new"], "no such file"),
        (["model", "--undo", "--write", "new", "--rules", "all -> auto"], "--undo takes no --rules"),
        (["model", "--undo", "--write", "new", "--side", "new2"], "--undo takes no --side"),
        (["model", "--undo", "--write", "new"], "no choice of attention functions was written into it"),
        (["lora", "--rules", f"all -> {INT8}", "--write", "new"], "holds no model whose blocks are known"),
        (["model", "--rules", f"all -> {INT8}", "--side", "new.txt"], "ends in .safetensors"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    from safetensors.torch import save_file

    (tmp_path / "model.safetensors").write_bytes(CHECKPOINT.read_bytes())
    save_file({"lora_unet_x.alpha": torch.zeros(1)}, tmp_path / "lora.safetensors")
    names = {name: str(tmp_path / f"{name}.safetensors") for name in ("model", "new", "new2", "absent", "lora")}
    names["new.txt"] = str(tmp_path / "new.txt")
    before = sorted(tmp_path.iterdir())
    assert tune(*(names.get(one, one) for one in arguments)) == 2
    assert why in capsys.readouterr().err and sorted(tmp_path.iterdir()) == before


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a stand-in be quick attention that is a fifth too small."""
    exact = registry._registry["pytorch"]

    def quick(*args: Any, **kwargs: Any) -> Any:
        return 0.8 * exact.function(*args, **kwargs)

    def slow(*args: Any, **kwargs: Any) -> Any:
        return [exact.function(*args, **kwargs) for _ in range(8)][0]

    kept = {"pytorch": slow, INT8: quick}
    found = {name: type(exact)(**{**vars(exact), "name": name, "function": kept[name]}) for name in kept}
    monkeypatch.setattr(registry, "_registry", found | {name: registry._registry[name] for name in ("basic", "split")})


def small(tmp_path: Path) -> tuple[str, str]:
    """Return a workflow of two steps, and the name of its sampler."""
    prompt = json.loads(Path(DEMO).read_text())
    (sampler,) = [id for id, node in prompt.items() if node["class_type"] == "KSampler"]
    prompt[sampler]["inputs"]["steps"] = 2
    (tmp_path / "small.json").write_text(json.dumps(prompt))
    return str(tmp_path / "small.json"), sampler


def picture(tmp_path: Path, name: str, workflow: str, *settings: str) -> Any:
    output = tmp_path / name
    assert main(["run", workflow, "--output", str(output), "--quiet", *settings]) == 0
    (path,) = output.glob("*.png")
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.float64)


def test_a_choice_is_judged_by_pictures_beside_the_noise_floor(
    coarse: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    workflow, sampler = small(tmp_path)
    arguments = [workflow, "--rules", f"all -> {INT8}", "--pictures", "2", "--quiet"]
    assert tune(*arguments, "--bound", "ssim=0") == 0
    shown = capsys.readouterr().out
    assert f"all -> {INT8}" in shown
    (plain,) = [line.split() for line in shown.splitlines() if line.startswith("no rules")]
    (given,) = [line.split() for line in shown.splitlines() if line.startswith("given")]
    (floor,) = [line.split() for line in shown.splitlines() if line.startswith("noise floor")]
    assert given[-1] == "good" and float(plain[-1]) == 1.0 and float(floor[-1]) > 0.999

    prompt = json.loads(Path(workflow).read_text())
    rules = {"model": prompt[sampler]["inputs"]["model"], "rules": f"all -> {INT8}"}
    prompt["ruled"] = {"class_type": "PatchbayBackendRules", "inputs": rules}
    prompt[sampler]["inputs"]["model"] = ["ruled", 0]
    (tmp_path / "ruled.json").write_text(json.dumps(prompt))
    seed = prompt[sampler]["inputs"]["seed"]
    far = []
    for number in (seed, seed + 1):
        both = [
            picture(tmp_path, f"{name}{number}", str(tmp_path / name), "--set", f"{sampler}.seed={number}")
            for name in ("small.json", "ruled.json")
        ]
        far.append(structural_similarity(*both, win_size=7, channel_axis=2, data_range=255.0))
    assert float(given[-2]) == pytest.approx(sum(far) / 2, abs=1e-4) and sum(far) / 2 < 0.99

    side = tmp_path / "side.safetensors"
    capsys.readouterr()
    assert tune(*arguments, "--bound", "mean=0", "--side", str(side)) == 1  # the cells are there, and are judged anew
    told = capsys.readouterr()
    assert "too far" in told.out and "near enough; nothing is kept" in told.err and not side.exists()
    assert tune(*arguments, "--bound", "mean=0", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rules"] == ""


def test_pictures_too_far_lead_to_a_choice_within_a_smaller_error(
    coarse: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    workflow, _ = small(tmp_path)
    arguments = [workflow, "--seconds", "1", "--max-error", "1", "--pictures", "1", "--quiet"]
    assert tune(*arguments, "--bound", "ssim=0", "--folder", "near") == 0
    assert INT8 in capsys.readouterr().out.partition("within")[0]
    assert tune(*arguments, "--bound", "mean=0.05", "--folder", "far") == 0
    rules, _, table = capsys.readouterr().out.partition("within")
    assert "too far" in table and INT8 not in rules


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--pictures", "-1"], "--pictures -1: write how many seeds"),
        (["--bound", "ssim=1"], "--bound is of --pictures"),
        (["--pictures", "2", "--bound", "colour=1"], "--bound colour=1: write NAME=number"),
        (["--pictures", "2", "--rules", ""], "--rules is empty, so there is no choice to judge"),
        (["--pictures", "2", "--rules", "all -> sage3"], "sage3 does not run on this machine"),
        (["--pictures", "2", "--folder", __file__], "is a file; choose another name"),
        (["--side", "absent/side.safetensors"], "there is no folder absent"),
    ],
)
def test_what_pictures_need_is_said_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], why: str
) -> None:
    monkeypatch.setattr("attention_patchbay.headless.commands.tune.execute", lambda *_: pytest.fail("it measured"))
    assert tune(DEMO, *arguments) == 2
    assert why in capsys.readouterr().err


def test_what_pictures_cannot_be_made_of_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    workflow, sampler = small(tmp_path)
    assert tune(workflow, "--pictures", "1", "--rules", "output:99 -> split", "--quiet", "--folder", "a") == 1
    assert "no block 'output:99'" in capsys.readouterr().err
    prompt = json.loads(Path(workflow).read_text())
    two = {**prompt, "second": prompt[sampler]}
    none = {id: node for id, node in prompt.items() if node["class_type"] != "SaveImage"}
    for name, changed, why in (("two", two, "expected one KSampler"), ("none", none, "saves no picture")):
        (tmp_path / f"{name}.json").write_text(json.dumps(changed))
        assert tune(f"{name}.json", "--pictures", "1", "--rules", "all -> split", "--folder", "b") == 2
        assert why in capsys.readouterr().err


def test_nodes_with_displays_of_their_own_are_tuned(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(DEMO.replace("demo.json", "tune_attention.json"), "--seconds", "1", "--quiet") == 0
    assert "fastest within the bound" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--seconds", "-1"], "Value -1.0 smaller than min of 1.0: seconds"),
        (["--max-error", "nan"], "max_error, nan"),
        (["--recorded-steps", "-1"], "Value -1 smaller than min of 0: recorded_steps"),
    ],
)
def test_numbers_out_of_range_are_said_where_another_node_tunes_too(
    option: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(DEMO.replace("demo.json", "tune_attention.json"), *option) == 2
    assert said in capsys.readouterr().err
