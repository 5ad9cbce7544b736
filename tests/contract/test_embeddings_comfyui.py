"""Compare the tokens of prompts with textual-inversion embeddings with ComfyUI's."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.ldm_patched.text.clip_tokenizer import clip_tokenizer
from attention_patchbay.ldm_patched.text.embeddings import vectors_of
from attention_patchbay.ldm_patched.text.prompt import PromptTokenizer
from safetensors.torch import save_file
from torch import Tensor

from ..unets import draw
from . import embeddings_child
from .comfyui_server import python

pytestmark = pytest.mark.comfyui

PROMPTS = [
    "embedding:two",
    "embedding:two.safetensors a fox",
    "a fox, embedding:two, red",
    "a fox,embedding:two red",
    "(embedding:two:1.2) and (a (embedding:sub/one) fox:0.7)",
    "fox\nembedding:two\nred",
    "fox \n embedding:two\n\nred",
    "embedding:nothing a fox",
    "embedding:,two, a fox",
    "embedding:two,, fox",
    "embedding:two<x> fox",
    "embedding:two[x] fox",
    "embedding:../two fox",
    "an embedding: two",
    "embedding:two embedding:two embedding:sub/one",
    r"\(embedding:two\) fox",
    "fox " * 74 + "embedding:nine red",
    "fox " * 60 + "embedding:two " * 20,
    "embedding:two  two spaces",
]


def test_tokens(tmp_path: Path) -> None:
    folder = tmp_path / "embeddings"
    (folder / "sub").mkdir(parents=True)
    for name, shape in {"two": (2, 768), "sub/one": (768,), "nine": (9, 768)}.items():
        save_file({"emb_params": draw(1, *shape)}, folder / f"{name}.safetensors")
    (tmp_path / "jobs.json").write_text(json.dumps({"folder": str(folder), "prompts": PROMPTS}))
    command = [python(), embeddings_child.__file__, str(tmp_path / "jobs.json"), str(tmp_path / "result.json")]
    env = {**os.environ, "PYTHONPATH": str(Path(os.environ["COMFYUI_PATH"]).resolve())}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads((tmp_path / "result.json").read_text())
    tokenizer, vectors = PromptTokenizer(clip_tokenizer()), vectors_of(Folders(tmp_path).embedding, "l")
    for prompt, wanted in zip(PROMPTS, theirs, strict=True):
        chunks = tokenizer.tokenize_with_weights(prompt, vectors)
        ours = [[[t.tolist() if isinstance(t, Tensor) else t, w] for t, w in chunk] for chunk in chunks]
        assert ours == wanted, prompt
