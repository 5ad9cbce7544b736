from __future__ import annotations

from pathlib import Path

import pytest
from attention_patchbay.ldm_patched import demo
from attention_patchbay.ldm_patched.patches.addressing.blocks import describe, model_blocks
from attention_patchbay.nodes.demo import LoadDemoModel


@pytest.fixture(scope="module")
def loaded() -> tuple:
    return LoadDemoModel.execute().result


def test_the_model_has_the_blocks_that_the_help_page_names(loaded: tuple) -> None:
    model, _, _ = loaded
    blocks = model_blocks(model)
    assert describe(blocks) == "input:3, input:5, middle, output:0, output:1, output:2, output:3"
    assert {info.heads for info in blocks} == {8}


def test_clip_and_vae_have_the_sizes_of_the_model(loaded: tuple) -> None:
    _, clip, vae = loaded
    context = clip.encode("a red circle on the left")
    assert context.shape == (1, demo.CONTEXT_LENGTH, demo.UNET["context_dim"])
    latent = context.new_zeros(1, demo.VAE["z_channels"], demo.LATENT_SIZE, demo.LATENT_SIZE)
    assert vae.decode(latent).shape == (1, demo.SIZE, demo.SIZE, 3)


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "CHECKPOINT", tmp_path / "demo.safetensors")
    with pytest.raises(FileNotFoundError, match=r"get demo\.safetensors into"):
        LoadDemoModel.execute()
