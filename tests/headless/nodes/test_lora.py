"""LoRA files and the text encoder's layer on the demo model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.headless.nodes import lora as lora_nodes
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.loading.absent import Absent
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from safetensors.torch import save_file

UNET = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v"
TEXT = "lora_te_text_model_encoder_layers_1_self_attn_v_proj"


@pytest.fixture(scope="module")
def model() -> Any:
    return load_checkpoint(CHECKPOINT)


@pytest.fixture
def loras(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "models" / "loras"
    folder.mkdir(parents=True)
    with entered(Session(Folders(tmp_path / "models"))):
        yield folder


def entry(name: str, out: int, into: int) -> dict[str, torch.Tensor]:
    gen = torch.Generator().manual_seed(1)
    up, down = torch.randn(out, 2, generator=gen), torch.randn(2, into, generator=gen)
    return {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}


def unet_entry(model: Any) -> dict[str, torch.Tensor]:
    weight = model[0].model.state_dict()["diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"]
    return entry(UNET, *weight.shape)


def text_entry(model: Any) -> dict[str, torch.Tensor]:
    key = "clip_l.transformer.text_model.encoder.layers.1.self_attn.v_proj.weight"
    return entry(TEXT, *model[1].cond_stage_model.state_dict()[key].shape)


def test_model_and_text_encoder_are_changed_on_clones(model: Any, loras: Path) -> None:
    save_file({**unet_entry(model), **text_entry(model)}, loras / "style.safetensors")
    before = model[1].encode("a red circle")
    unet, clip = lora_nodes.LoraLoader.execute(model[0], model[1], "style.safetensors", 1.0, 1.0).args
    assert len(unet.patches) == 1
    assert not model[0].patches
    changed = clip.encode("a red circle")
    assert not torch.allclose(changed, before)
    assert torch.equal(model[1].encode("a red circle"), before)
    again, none = lora_nodes.LoraLoader.execute(model[0], model[1], "style.safetensors", 1.0, 0.0).args
    assert torch.equal(none.encode("a red circle"), before)
    assert len(again.patches) == 1


def test_the_model_alone(model: Any, loras: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file({**unet_entry(model), **text_entry(model)}, loras / "style.safetensors")
    with caplog.at_level(logging.WARNING):
        (unet,) = lora_nodes.LoraLoaderModelOnly.execute(model[0], "style.safetensors", 0.5).args
    assert len(unet.patches) == 1
    assert "2 of 4 entries fit nothing" in caplog.text


def test_a_file_for_another_model_is_refused(model: Any, loras: Path) -> None:
    save_file(entry("lora_transformer_single_blocks_0_linear1", 8, 8), loras / "flux.safetensors")
    with pytest.raises(ValueError, match="holds nothing for this model; its first key is 'lora_transformer"):
        lora_nodes.LoraLoader.execute(model[0], model[1], "flux.safetensors", 1.0, 1.0)


def test_an_earlier_layer_of_the_text_encoder(model: Any) -> None:
    last = model[1].encode("a red circle")
    (earlier,) = lora_nodes.CLIPSetLastLayer.execute(model[1], -2).args
    assert not torch.allclose(earlier.encode("a red circle"), last)
    assert torch.equal(model[1].encode("a red circle"), last)
    (same,) = lora_nodes.CLIPSetLastLayer.execute(model[1], -1).args
    assert torch.allclose(same.encode("a red circle"), last, atol=1e-6)


def test_a_checkpoint_without_text_encoder_gets_the_lora_on_its_model(model: Any, loras: Path) -> None:
    save_file({**unet_entry(model), **text_entry(model)}, loras / "style.safetensors")
    absent = Absent("text encoder", loras, "take another")
    unet, clip = lora_nodes.LoraLoader.execute(model[0], absent, "style.safetensors", 1.0, 1.0).args
    assert len(unet.patches) == 1 and clip is absent
