"""Model files and folders: headers, configurations, vocabularies, and tensors of any shape."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from attention_patchbay.headless.commands.model_info import info_text, model_info
from attention_patchbay.headless.pages.workflow_file import parse_json
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.files.checkpoint import Checkpoint, CheckpointError
from attention_patchbay.ldm_patched.files.lora import load_lora, unet_names
from attention_patchbay.ldm_patched.files.preferences import preferred_functions
from attention_patchbay.ldm_patched.files.quantized import refuse_quantized
from attention_patchbay.ldm_patched.loading import sd
from attention_patchbay.ldm_patched.loading.diffusers_folder import DiffusersFolder
from attention_patchbay.ldm_patched.loading.model_detection import UNET_PREFIXES, VAE_PREFIXES, detect_vae
from attention_patchbay.ldm_patched.modules.weight_patches import WeightPatch, calculate_weight
from attention_patchbay.ldm_patched.patches.reading.file_header import model_of
from attention_patchbay.ldm_patched.patches.reading.transformer_header import transformer_of
from attention_patchbay.ldm_patched.text.clip_tokenizer import VOCABULARY_SIZE
from attention_patchbay.ldm_patched.text.detection import detect_clip
from attention_patchbay.ldm_patched.text.embeddings import load_embedding
from attention_patchbay.ldm_patched.text.text_encoders import find_text_encoders
from torch import Tensor

FOLDER = Path(tempfile.mkdtemp())
LARGEST = 2**16  # elements of a tensor that is made of a shape


@functools.cache
def model() -> Any:
    """Return the demo model without weights."""
    return model_of(CHECKPOINT)


def read_header(data: bytes) -> None:
    """Open a model file, also as one of embeddings, and say what it holds."""
    path = FOLDER / "a.safetensors"
    path.write_bytes(data)
    file = Checkpoint(path)
    for key in file:
        file[key].sum()
    info_text(model_info(path))
    load_embedding(path, "clip_l")


def read_folder(data: bytes) -> None:
    """Read the texts of a model folder, parted by zeros: configuration, vocabulary and its merges."""
    texts = (*data.split(b"\0"), b"", b"")
    names = ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt")
    for name, text in zip(names, (texts[0], *texts), strict=False):
        path = FOLDER / "diffusers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    folder = DiffusersFolder(FOLDER / "diffusers")
    assert folder.prediction() in ("eps", "v_prediction", None)
    ids = folder.tokenizer(VOCABULARY_SIZE)("a red circle")["input_ids"]
    assert all(isinstance(id, int) for id in ids)


def read_lora(data: bytes) -> None:
    """Apply a LoRA whose tensors have the shapes that a text tells."""
    value = parse_json(data, "input")
    file = {key: tensor for key, shape in _entries(value) if (tensor := _tensor(shape)) is not None}
    patches, _ = load_lora(file, {"lora_unet_a": "a.weight", "unet.b": "b.weight"})
    for key, patch in patches.items():
        shape = (12, 8) if key.startswith("a.") else (12, 8, 3, 3)
        weight = torch.ones(shape if key.endswith("weight") else 12)
        calculate_weight([WeightPatch(0.7, patch)], weight, key)


class Shaped(Mapping[str, Tensor]):
    """A file whose tensors are all zeros."""

    path, metadata = Path("shaped"), MappingProxyType({})

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        self.dtypes = dict.fromkeys(shapes, "F32")

    def __getitem__(self, key: str) -> Tensor:
        return torch.zeros(()).expand(self.shapes[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def read_shapes(data: bytes) -> None:
    """Find out what a model is from the shapes of its tensors."""
    known = {key: tuple(shape) for key, shape in _entries(parse_json(data, "input")) if _is_shape(shape)}
    file: Any = Shaped(known)
    for find in (_unet, _texts, _vae, _control):
        with contextlib.suppress(CheckpointError):
            find(file)
    transformer_of(file.shapes)


def _unet(file: Any) -> None:
    unet = sd.find_unet(file, UNET_PREFIXES)
    sd.config_of(unet, Shaped({}))
    unet_names(f"diffusion_model.{key}" for key in unet)


def _texts(file: Any) -> None:
    for encoder in find_text_encoders(file).values():
        detect_clip(encoder.shapes)


def _vae(file: Any) -> None:
    detect_vae(sd.find_vae(file, VAE_PREFIXES).shapes)


def _control(file: Any) -> None:
    refuse_quantized(file)
    preferred_functions(file)


def _entries(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []


def _is_shape(shape: Any) -> bool:
    sides = isinstance(shape, list) and len(shape) < 9 and all(type(side) is int and side >= 0 for side in shape)
    return sides and math.prod(max(side, 1) for side in shape) < 2**60


def _tensor(shape: Any) -> Tensor | None:
    if not _is_shape(shape):
        return None
    return torch.full(shape, 0.5) if math.prod(shape) <= LARGEST else None


def demo_header() -> bytes:
    """Return a text like the header of a model file, of every tensor's shape."""
    return json.dumps({key: list(shape) for key, shape in Checkpoint(CHECKPOINT).shapes.items()}).encode()
