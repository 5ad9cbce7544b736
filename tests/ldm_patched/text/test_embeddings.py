"""Textual inversion: where its vectors stand in a prompt, and that the text encoder reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.ldm_patched import demo
from attention_patchbay.ldm_patched.files.checkpoint import CheckpointError
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.text.clip import CLIP, fitting
from attention_patchbay.ldm_patched.text.embeddings import load_embedding
from safetensors.torch import save_file
from torch import Tensor

from ...unets import draw

WIDTH = demo.CLIP["hidden_size"]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    (tmp_path / "embeddings" / "mine").mkdir(parents=True)
    save_file({"emb_params": draw(1, 2, WIDTH)}, tmp_path / "embeddings" / "two.safetensors")
    save_file({"emb_params": draw(2, WIDTH)}, tmp_path / "embeddings" / "mine" / "one.safetensors")
    save_file({"emb_params": draw(3, 1, WIDTH + 1)}, tmp_path / "embeddings" / "wide.safetensors")
    save_file({"emb_params": draw(3, 1, 4)}, tmp_path / "secret.safetensors")
    return Folders(models=tmp_path)


@pytest.fixture
def clip(folders: Folders) -> CLIP:
    return load_checkpoint(demo.CHECKPOINT, embeddings=folders.embedding)[1]


def tokens(clip: CLIP, text: str) -> list[tuple[object, float]]:
    (chunk,) = clip.tokenize(text)["l"]
    kinds = [("v" if isinstance(token, Tensor) else token, weight) for token, weight in chunk]
    padding = clip.tokenizers["l"].end_token
    return [entry for entry in kinds[1:] if entry[0] != padding]


@pytest.mark.parametrize(
    ("text", "same", "vectors"),
    [
        ("embedding:two", "", 2),
        ("embedding:two.safetensors", "", 2),
        ("a red embedding:two circle", "a red circle", 2),
        ("a red embedding:two, circle", "a red , circle", 2),
        ("embedding:mine/one a circle", "a circle", 1),
        ("embedding:two embedding:mine/one", "", 3),
        ("red\nembedding:two\ncircle", "red circle", 2),
    ],
)
def test_vectors_stand_where_the_name_stood(clip: CLIP, text: str, same: str, vectors: int) -> None:
    found = tokens(clip, text)
    assert [entry for entry in found if entry[0] != "v"] == tokens(clip, same)
    assert [entry for entry in found if entry[0] == "v"] == [("v", 1.0)] * vectors


def test_vectors_are_weighted(clip: CLIP) -> None:
    assert tokens(clip, "(embedding:two:1.5)") == [("v", 1.5)] * 2
    context, plain = clip.encode("a (embedding:two:1.5) circle"), clip.encode("a embedding:two circle")
    assert not torch.allclose(context, plain)


@pytest.mark.parametrize("name", ["nothing", "../secret", "/etc/passwd", "", "mine"])
def test_a_name_without_file_is_left_out_and_told(clip: CLIP, name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert tokens(clip, f"embedding:{name}") == []
    assert "there is no embedding" in caplog.text


def test_a_vector_is_read_like_the_word_that_it_equals(clip: CLIP, folders: Folders) -> None:
    table = clip.cond_stage_model["clip_l"].transformer.get_input_embeddings().weight
    (chunk,) = clip.tokenize("a red circle")["l"]
    ids = [token for token, _ in chunk[1:4]]
    save_file({"clip_l": table[ids].float().contiguous()}, folders.models / "embeddings" / "words.safetensors")
    assert torch.allclose(clip.encode("embedding:words"), clip.encode("a red circle"), atol=1e-6)
    assert torch.allclose(clip.clone().encode("embedding:words"), clip.encode("a red circle"), atol=1e-6)


def test_vectors_of_another_width_are_left_out(clip: CLIP, caplog: pytest.LogCaptureFixture) -> None:
    assert torch.allclose(clip.encode("a embedding:wide circle"), clip.encode("a circle"), atol=1e-6)
    assert "1 vectors of an embedding do not have the text encoder's 128 numbers" in caplog.text
    assert fitting([1, torch.ones(3), 2], 4, 9) == [1, 2, 9]


def test_files_of_sdxl_and_bundles(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    both = {"clip_l": draw(1, 2, 4), "clip_g": draw(2, 2, 6)}
    save_file(both, path)
    assert torch.equal(load_embedding(path, "clip_g"), both["clip_g"])
    save_file({"bundle_emb.x.string_to_param.*": draw(3, 1, 4), "other": draw(4, 1, 4)}, path)
    assert torch.equal(load_embedding(path, "clip_l"), draw(3, 1, 4))
    save_file({"bundle_emb.x.clip_l": draw(3, 1, 4), "bundle_emb.x.clip_g": draw(4, 1, 6)}, path)
    assert torch.equal(load_embedding(path, "clip_g"), draw(4, 1, 6))


def test_a_file_of_torch_is_read_and_one_of_before_torch_1_6_is_refused(clip: CLIP, folders: Folders) -> None:
    values = {"string_to_param": {"*": torch.full((2, WIDTH), 0.5)}, "string_to_token": {"*": 265}, "name": "new"}
    torch.save(values, folders.models / "embeddings" / "new.pt")
    ((chunk,),) = clip.tokenize("embedding:new").values()
    assert [torch.equal(token, torch.full((WIDTH,), 0.5)) for token, _ in chunk[1:3]] == [True, True]
    torch.save(values, folders.models / "embeddings" / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"old.pt: not a file of torch 1.6 or later"):
        clip.tokenize("embedding:old")
