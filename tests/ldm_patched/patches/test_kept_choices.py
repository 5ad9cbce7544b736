"""Measured choices in a copy of a checkpoint and in a file beside it.

`Keeper` reads a choice as ComfyUI's `ComfyAttention` does (its code of October 2026): newer cores are not at hand here.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.headless.commands.model_info import info_text, model_info
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.files.checkpoint import Checkpoint, CheckpointError
from attention_patchbay.ldm_patched.files.preferences import KEY, preferred_layers
from attention_patchbay.ldm_patched.files.weights import under
from attention_patchbay.ldm_patched.ldm.modules.attention import CrossAttention
from attention_patchbay.ldm_patched.ldm.modules.backends.pytorch import attention_pytorch
from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from attention_patchbay.ldm_patched.loading.sd import load_unet
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, BlockId, parse
from attention_patchbay.ldm_patched.patches.addressing.blocks import BlockInfo
from attention_patchbay.ldm_patched.patches.reading.block_map import _prefers, block_map, text
from attention_patchbay.ldm_patched.patches.reading.file_header import file_blocks, model_of
from attention_patchbay.ldm_patched.patches.routing.kept_choices import (
    KEPT,
    Kept,
    kept_file,
    kept_rules,
    write_choices,
    write_without_choices,
)
from attention_patchbay.ldm_patched.patches.routing.layer_choices import NO_NAME, NO_WINDOW, layer_choices
from attention_patchbay.ldm_patched.patches.routing.rules import parse_rules, rules_text
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from torch import nn

from ...unets import FLAT

INT8 = "comfy_kitchen_int8"
PREFIX = "model.diffusion_model."
MIDDLE, INPUT = "middle_block.1.transformer_blocks.0.attn{}", "input_blocks.1.1.transformer_blocks.0.attn{}"
OUTPUTS = [f"output_blocks.{i}.1.transformer_blocks.0.attn{{}}" for i in (0, 1)]


class Keeper(nn.Module):
    """Holds the choice of a layer."""

    name: str | None = None

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        config = state_dict.pop(prefix + "config", None)
        self.name = None if config is None else json.loads(config.numpy().tobytes()).get("attention")
        super()._load_from_state_dict(state_dict, prefix, *others)


def read_by_comfyui(path: Path) -> dict[str, str]:
    """Return what each layer of a UNet runs once ComfyUI has loaded a file."""
    net = UNetModel(**FLAT, operations=plain)
    layers = {name: module for name, module in net.named_modules() if isinstance(module, CrossAttention)}
    for layer in layers.values():
        layer.comfy_attention = Keeper()
    net.load_state_dict(dict(under(Checkpoint(path), PREFIX)))
    return {name: layer.comfy_attention.name for name, layer in layers.items() if layer.comfy_attention.name}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    state = {PREFIX + key: tensor for key, tensor in UNetModel(**FLAT, operations=plain).state_dict().items()}
    save_file(state, tmp_path / "in.safetensors", {"title": "mine"})
    return tmp_path / "in.safetensors"


def written(source: Path, text: str, name: str = "out") -> Path:
    rules, target = parse_rules(text), source.parent / f"{name}.safetensors"
    write_choices(source, target, rules, layer_choices(rules, model_of(source)))
    return target


# Which choices a checkpoint can keep


def test_layers_keep_the_first_rule_that_takes_them(source: Path) -> None:
    rules = parse_rules(f"middle -> auto; input self, middle -> {INT8}; output:1 cross -> {INT8}; all -> auto")
    found = layer_choices(rules, model_of(source))
    assert {path for path, name in found.functions.items() if name == INT8} == {
        INPUT.format(1),
        OUTPUTS[1].format(2),
    }
    assert found.functions[MIDDLE.format(1)] == "auto" and len(found.functions) == 8 and found.left == {}


def test_what_the_format_cannot_say_is_told(source: Path) -> None:
    text = f"middle self -> sage; output:0 0-50% -> {INT8}; output:0 -> {INT8}; input self -> {INT8}"
    found = layer_choices(parse_rules(text), model_of(source))
    assert found.functions == {INPUT.format(1): INT8}
    assert found.left == {"middle self -> sage": NO_NAME, f"output:0 0-50% -> {INT8}": NO_WINDOW}


def test_a_family_without_such_layers_is_named(tmp_path: Path) -> None:
    shapes = {"joint_blocks.0.context_block.attn.qkv.weight": (384, 128)}
    shapes |= {f"joint_blocks.{i}.x_block.attn.proj.weight": (128, 128) for i in range(3)}
    save_arrays({key: np.zeros(shape, np.float16) for key, shape in shapes.items()}, tmp_path / "sd3.safetensors")
    found = layer_choices(parse_rules(f"double:1 -> {INT8}; all -> auto"), model_of(tmp_path / "sd3.safetensors"))
    assert found.functions == {} and "in no layer of SD3 models" in found.left[f"double:1 -> {INT8}"]


def test_an_address_that_does_not_fit_is_an_error(source: Path) -> None:
    with pytest.raises(AddressError, match="no block 'input:7'"):
        layer_choices(parse_rules(f"input:7 -> {INT8}"), model_of(source))


# The copy


def test_comfyui_reads_the_copy_and_the_weights_are_the_same(source: Path) -> None:
    before = source.read_bytes()
    target = written(source, f"middle self -> {INT8}; output:0 -> {INT8}; all -> auto")
    chosen = [MIDDLE.format(1), OUTPUTS[0].format(1), OUTPUTS[0].format(2)]
    assert read_by_comfyui(source) == {}
    assert read_by_comfyui(target) == dict.fromkeys(chosen, INT8)
    assert preferred_layers(Checkpoint(target)) == {PREFIX + layer: INT8 for layer in chosen}
    old, new = Checkpoint(source), Checkpoint(target)
    assert all(torch.equal(new[key], old[key]) for key in old) and len(new) == len(old) + 3
    assert new.metadata["title"] == "mine" and source.read_bytes() == before


def test_the_way_back_gives_the_same_file(source: Path) -> None:
    target = written(source, f"all -> {INT8}")
    write_without_choices(target, source.parent / "back.safetensors")
    assert (source.parent / "back.safetensors").read_bytes() == source.read_bytes()


def test_choices_of_the_author_are_replaced_and_come_back(source: Path) -> None:
    own = json.dumps([{"attention": "comfy_kitchen_sol", "tau": 1.2}]).encode()
    state = dict(Checkpoint(source))
    keys = [f"{PREFIX}{layer}{KEY}" for layer in (MIDDLE.format(1), MIDDLE.format(2), OUTPUTS[1].format(1))]
    text_encoder = f"cond_stage_model.layers.0{KEY}"
    state |= {key: torch.tensor(list(own), dtype=torch.uint8) for key in (*keys, text_encoder)}
    save_file({key: tensor.clone() for key, tensor in state.items()}, source)
    target = written(source, f"middle self -> {INT8}; middle -> auto")
    found = preferred_layers(Checkpoint(target))
    assert found[keys[0].removesuffix(KEY)] == INT8 and keys[1].removesuffix(KEY) not in found
    assert found[keys[2].removesuffix(KEY)] == found[text_encoder.removesuffix(KEY)] == "comfy_kitchen_sol"
    write_without_choices(target, source.parent / "back.safetensors")
    back, old = Checkpoint(source.parent / "back.safetensors"), Checkpoint(source)
    assert dict(back).keys() == dict(old).keys() and all(torch.equal(back[key], old[key]) for key in old)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("all -> auto", "auto is best in every layer"),
        ("all -> sage", f"all -> sage: {NO_NAME}"),
        ("middle 0-50% -> comfy_kitchen_int8", NO_WINDOW),
    ],
)
def test_a_copy_with_nothing_in_it_is_not_written(source: Path, text: str, why: str) -> None:
    with pytest.raises(CheckpointError, match=f"nothing to write into a checkpoint: .*{why}"):
        written(source, text)
    assert [path.name for path in source.parent.iterdir()] == ["in.safetensors"]


def test_files_that_cannot_take_it_are_refused(source: Path) -> None:
    target = written(source, f"all -> {INT8}")
    with pytest.raises(CheckpointError, match="write a copy without them first"):
        written(target, f"all -> {INT8}", "again")
    with pytest.raises(FileExistsError):
        written(source, f"all -> {INT8}")
    with pytest.raises(CheckpointError, match="no choice of attention functions was written into it"):
        write_without_choices(source, source.parent / "back.safetensors")
    found = layer_choices(parse_rules(f"all -> {INT8}"), model_of(source))
    save_file({"unet.other.weight": torch.zeros(2)}, source.parent / "other.safetensors")
    with pytest.raises(CheckpointError, match="names of another library"):
        write_choices(source.parent / "other.safetensors", source.parent / "new.safetensors", (), found)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"rules": 1, "before": {"unet.weight": "x"}, "added": []}', '{"rules": ""}']
)
def test_strange_records_are_refused(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "in.safetensors", {KEPT: text})
    with pytest.raises(CheckpointError, match=f"in.safetensors: what it keeps under {KEPT} .*; measure again, with"):
        write_without_choices(tmp_path / "in.safetensors", tmp_path / "out.safetensors")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.fixed_dictionaries({}, optional={"rules": JSON, "before": JSON, "added": JSON}) | JSON


@settings(max_examples=150, deadline=None)
@given(RECORDS.map(json.dumps) | st.text(max_size=30))
def test_any_record_is_read_or_refused(text: str) -> None:
    try:
        kept = Kept.of(SimpleNamespace(path="m", metadata={KEPT: text}))  # type: ignore[arg-type]
    except CheckpointError as error:
        assert KEPT in str(error)
    else:
        assert all(key.endswith(KEY) for key in (*kept.before, *kept.added))


# The file beside it


def test_a_side_file_keeps_all_rules_and_comfyuis_keys(source: Path) -> None:
    rules = parse_rules(f"middle self -> {INT8}; output 0-50% -> sage; all -> auto")
    small = source.parent / "side.safetensors"
    small.write_bytes(kept_file(rules, layer_choices(rules, model_of(source))))
    assert kept_rules(small) == rules and small.stat().st_size < 1000
    assert preferred_layers(Checkpoint(small)) == {f"diffusion_model.{MIDDLE.format(1)}": INT8}
    assert rules_text(kept_rules(written(source, rules_text(rules)))) == rules_text(rules)


def test_a_side_file_without_a_key_keeps_the_rules(source: Path) -> None:
    rules = parse_rules("all -> split")
    small = source.parent / "side.safetensors"
    small.write_bytes(kept_file(rules, layer_choices(rules, model_of(source))))
    assert kept_rules(small) == rules and len(Checkpoint(small)) == 0


def test_other_files_keep_no_rules(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no choice of attention functions"):
        kept_rules(CHECKPOINT)
    save_file({}, tmp_path / "side.safetensors", {KEPT: '{"rules": "all -> nonsense", "before": {}, "added": []}'})
    with pytest.raises(CheckpointError, match=r"its rules cannot be read: rules, line 1, column 8"):
        kept_rules(tmp_path / "side.safetensors")


# The map


def test_the_map_of_a_file_says_what_its_layers_ask_for(source: Path) -> None:
    target = written(source, f"middle self -> {INT8}; output:0 -> {INT8}")
    found = file_blocks(target)
    assert found is not None
    prefers = {row["name"]: row["prefers"] for row in found["map"] if row["prefers"]}
    assert prefers == {"middle": f"self {INT8}", "output:0": f"self {INT8}, cross {INT8}"}
    told = info_text(model_info(target))
    assert f", prefers self {INT8}\n" in told and "prefers" not in info_text(model_info(source))


def test_the_map_of_a_loaded_model_says_what_its_host_runs(source: Path) -> None:
    model = load_unet(source)
    assert "prefers" not in text(parse("all"), block_map(model))
    model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2.comfy_attention = layer = nn.Module()
    layer.function = partial(attention_pytorch, scale=1.0)
    assert [(one.name, one.prefers) for one in block_map(model) if one.prefers] == [("middle", "cross pytorch")]
    assert text(parse("all"), block_map(model)).splitlines()[0].endswith("prefers")


def test_layers_of_a_deep_block_are_counted() -> None:
    here = [BlockInfo(BlockId("input", 4, inner), 8, 64) for inner in range(2)]
    asked = {(here[0].id, "self"): INT8, (here[0].id, "cross"): INT8, (here[1].id, "cross"): INT8}
    assert _prefers(here, asked) == f"self {INT8} (1 of 2), cross {INT8}"
