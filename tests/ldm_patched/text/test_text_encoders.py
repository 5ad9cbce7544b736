"""Text encoders in every public layout: where they are found, and that OpenCLIP's names mean what they say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from attention_patchbay.ldm_patched.files.checkpoint import CheckpointError
from attention_patchbay.ldm_patched.files.weights import load_weights
from attention_patchbay.ldm_patched.modules.ops import plain
from attention_patchbay.ldm_patched.text.clip_model import CLIPTextModel
from attention_patchbay.ldm_patched.text.detection import detect_clip
from attention_patchbay.ldm_patched.text.text_encoders import build_clip, find_text_encoders, from_open_clip, text_model
from torch import Tensor

from ..tiny import draw

WIDTH, HEADS, LAYERS, TOKENS = 64, 2, 3, 77


class Tensors(dict[str, Tensor]):
    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: tuple(value.shape) for key, value in self.items()}


def open_clip(width: int = WIDTH, layers: int = LAYERS, vocabulary: int = 24) -> Tensors:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (vocabulary, width),
        "positional_embedding": (TOKENS, width),
        "text_projection": (width, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    for i in range(layers):
        block = f"transformer.resblocks.{i}."
        for name, rows, columns in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ):
            shapes |= {f"{block}{name}weight": (rows, columns), f"{block}{name}bias": (rows,)}
        shapes |= {f"{block}{name}.{end}": (width,) for name in ("ln_1", "ln_2") for end in ("weight", "bias")}
    return Tensors({key: draw(i, *shape) * 0.2 for i, (key, shape) in enumerate(shapes.items())})


def by_formula(state: Tensors, ids: Tensor) -> Tensor:
    """Run OpenCLIP's text transformer with torch's own multi-head attention."""
    x = state["token_embedding.weight"][ids] + state["positional_embedding"][: ids.shape[1]]
    later = torch.full((ids.shape[1],) * 2, float("-inf")).triu(1)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    for i in range(LAYERS):
        part = {k.removeprefix(f"transformer.resblocks.{i}."): v for k, v in state.items()}
        attention = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        attention.load_state_dict({k.removeprefix("attn."): v for k, v in part.items() if k.startswith("attn.")})
        normed = norm(x, f"transformer.resblocks.{i}.ln_1")
        x = x + attention(normed, normed, normed, attn_mask=later, need_weights=False)[0]
        hidden = F.linear(norm(x, f"transformer.resblocks.{i}.ln_2"), part["mlp.c_fc.weight"], part["mlp.c_fc.bias"])
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        x = x + F.linear(hidden, part["mlp.c_proj.weight"], part["mlp.c_proj.bias"])
    return norm(x, "ln_final")


def test_open_clip_layers_compute_what_open_clip_does() -> None:
    state = open_clip()
    view = from_open_clip(state)
    config = detect_clip(view.shapes)
    model = CLIPTextModel(config, torch.float32, "meta", plain)
    load_weights(model, view, "", torch.float32)
    ids = torch.randint(0, 24, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out, _, pooled = model(ids, num_tokens=[9, 4])
        expected = by_formula(state, ids)
        assert (out - expected).norm() / expected.norm() < 1e-5
        projected = model.text_projection(pooled)
    assert torch.allclose(projected[1], expected[1, 3] @ state["text_projection"], atol=1e-4)


@pytest.mark.parametrize(
    ("prefixes", "names"),
    [
        ({"cond_stage_model.model.": 1024}, ["h"]),
        ({"conditioner.embedders.0.model.": 1280}, ["g"]),
        ({"conditioner.embedders.1.model.": 1280}, ["g"]),
        ({"cond_stage_model.model.": 64}, ["l"]),
    ],
)
def test_open_clip_models_are_found_where_checkpoints_have_them(prefixes: dict[str, int], names: list[str]) -> None:
    file = Tensors()
    for prefix, width in prefixes.items():
        file |= {prefix + key: value for key, value in open_clip(width, 1).items()}
    assert list(find_text_encoders(file)) == names


def test_names_without_their_room_are_understood() -> None:
    bare = Tensors({k.removeprefix("text_model."): v for k, v in from_open_clip(open_clip()).items()})
    for prefix in ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."):
        (view,) = find_text_encoders(Tensors({prefix + key: value for key, value in bare.items()})).values()
        assert detect_clip(view.shapes)["num_hidden_layers"] == LAYERS
    assert text_model(Tensors(a=torch.ones(1))).shapes == {"a": (1,)}


@pytest.mark.parametrize(("width", "layers", "layer"), [(1024, 24, -2), (1024, 23, None), (64, 3, None)])
def test_the_layer_that_a_family_uses(width: int, layers: int, layer: int | None) -> None:
    clip = build_clip(find_text_encoders(Tensors({f"cond_stage_model.model.{k}": v for k, v in small(width, layers)})))
    (encoder,) = clip.cond_stage_model.values()
    assert encoder.layer == layer and encoder.norm_hidden and encoder.projected


def small(width: int, layers: int) -> list[tuple[str, Tensor]]:
    """Expand single zeros to the shapes of a large model, so that it takes no memory before it is loaded."""
    one = open_clip(64, 1)
    shapes = {}
    for key, value in one.items():
        shape = tuple(side * width // 64 if side % 64 == 0 else side for side in value.shape)
        for i in range(layers if "resblocks" in key else 1):
            shapes[key.replace("resblocks.0", f"resblocks.{i}")] = shape
    return [(key, torch.zeros(()).expand(shape)) for key, shape in shapes.items()]


def test_no_text_encoder_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="no text encoder found: expected keys such as cond_stage_model"):
        build_clip({})
