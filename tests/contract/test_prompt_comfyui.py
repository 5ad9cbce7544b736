"""Compare prompt weights, chunks and encodings with ComfyUI's."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.modules.ops import manual_cast
from attention_patchbay.ldm_patched.text.clip import CLIP, TextEncoder
from attention_patchbay.ldm_patched.text.clip_model import CLIPTextModel
from attention_patchbay.ldm_patched.text.prompt import PromptTokenizer

from . import prompt_child

pytestmark = pytest.mark.comfyui

CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "eos_token_id": 1,
}
ENCODED = ["", "red circle", "a (red:1.4) [circle]", "((red)) (circle:0.2)", "(red circle:0) " * 12, "circle " * 40]


def random_prompts(count: int) -> list[str]:
    draw = random.Random(0)
    pieces = ["(", ")", "(", ")", ":", ":1.2", ":0.5)", "\\(", "\\)", " ", "red", "circle", "a", ":x", "\\", "\n", ","]
    short = ["".join(draw.choice(pieces) for _ in range(draw.randint(1, 14))) for _ in range(count)]
    long = ["".join(draw.choice([*pieces, "circle" * 5]) for _ in range(60)) for _ in range(count // 10)]
    return [*ENCODED, *short, *long]


PROMPTS = random_prompts(600)


def text_model() -> CLIPTextModel:
    torch.manual_seed(0)
    model = CLIPTextModel(CONFIG, torch.float16, None, manual_cast)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.5 * (parameter.ndim == 1), std=0.1)
    return model


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("prompt")
    job = {"config": CONFIG, "state": text_model().state_dict(), "parsed": PROMPTS, "encoded": ENCODED}
    torch.save(job, folder / "job.pt")
    command = [os.environ.get("COMFYUI_PYTHON", sys.executable), prompt_child.__file__]
    command += [str(folder / "job.pt"), str(folder / "result.pt")]
    # not the checkout as working directory: nothing of ours may be importable there
    env = {**os.environ, "PYTHONPATH": str(Path(os.environ["COMFYUI_PATH"]).resolve())}
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "result.pt", weights_only=True)


def test_chunks_and_weights_equal_comfyui(theirs: dict[str, Any]) -> None:
    tokenizer = PromptTokenizer(prompt_child.LetterTokenizer())
    for prompt, wanted in zip(PROMPTS, theirs["tokens"], strict=True):
        assert tokenizer.tokenize_with_weights(prompt) == wanted, repr(prompt)
    assert max(len(chunks) for chunks in theirs["tokens"]) > 3


@pytest.mark.parametrize("layer", [None, -2])
def test_encodings_equal_comfyui(layer: int | None, theirs: dict[str, Any]) -> None:
    clip = CLIP({"l": TextEncoder(text_model())}, {"l": PromptTokenizer(prompt_child.LetterTokenizer())})
    clip.clip_layer(layer)
    for prompt, (context, pooled) in zip(ENCODED, theirs["encoded"][str(layer)], strict=True):
        mine, my_pooled = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
        torch.testing.assert_close(mine, context, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(my_pooled, pooled, rtol=1e-4, atol=1e-4)
