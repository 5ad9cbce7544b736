"""Configurations of CLIP models from their keys and shapes."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched import demo
from attention_patchbay.ldm_patched.files.checkpoint import CheckpointError
from attention_patchbay.ldm_patched.modules.ops import disable_weight_init
from attention_patchbay.ldm_patched.text.clip_model import CLIPTextModel
from attention_patchbay.ldm_patched.text.detection import detect_clip


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


@pytest.mark.parametrize(
    ("width", "layers", "heads", "activation"),
    [(128, 2, 4, "quick_gelu"), (768, 12, 12, "quick_gelu"), (1024, 23, 16, "gelu"), (1280, 32, 20, "gelu")],
)
def test_clip_text_models(width: int, layers: int, heads: int, activation: str) -> None:
    wanted = demo.CLIP | {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": activation,
    }
    model = CLIPTextModel(wanted, torch.float32, "meta", disable_weight_init)
    assert detect_clip(shapes(model)) == wanted
    assert detect_clip(shapes(model) | {"text_projection.weight": (width, width)})["projection_dim"] == width


def test_no_clip() -> None:
    with pytest.raises(CheckpointError, match="no CLIP text model found"):
        detect_clip({"encoder.layers.0.weight": (1,)})
