"""CLIP's vision tower against transformers and OpenCLIP on the same weights, and its preprocessing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from attention_patchbay.ldm_patched.files.checkpoint import CheckpointError
from attention_patchbay.ldm_patched.files.weights import load_weights
from attention_patchbay.ldm_patched.modules.ops import disable_weight_init
from attention_patchbay.ldm_patched.text import clip_vision
from attention_patchbay.ldm_patched.text.detection import detect_clip_vision

from .. import tiny_video
from ..tiny import draw


def pixels() -> torch.Tensor:
    return draw(3, 2, 3, 224, 224)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_equal_to_transformers(activation: str) -> None:
    transformers = pytest.importorskip("transformers")
    ours = tiny_video.vision(hidden_act=activation)
    config = transformers.CLIPVisionConfig(**tiny_video.VISION | {"hidden_act": activation})
    theirs = transformers.CLIPVisionModelWithProjection(config).eval()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and all(key.endswith("position_ids") for key in missing)
    with torch.no_grad():
        last, penultimate, embeds = ours(pixels())
        wanted = theirs(pixels(), output_hidden_states=True)
    for mine, real in (
        (last, wanted.last_hidden_state),
        (penultimate, wanted.hidden_states[-2]),
        (embeds, wanted.image_embeds),
    ):
        assert mine.shape == real.shape
        assert (mine - real).norm() / real.norm() < 1e-5


def open_clip_embeds(state: dict[str, torch.Tensor], x: torch.Tensor, heads: int) -> torch.Tensor:
    """Run OpenCLIP's vision tower as its paper's code has it, on torch's own attention."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.conv2d(x, state["conv1.weight"], stride=14).flatten(2).transpose(1, 2)
    x = torch.cat([state["class_embedding"].expand(len(x), 1, -1), x], 1) + state["positional_embedding"]
    x = norm(x, "ln_pre")
    for i in range(3):
        layer = f"transformer.resblocks.{i}"
        attention = torch.nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
        attention.load_state_dict({k.split(".attn.")[1]: v for k, v in state.items() if k.startswith(f"{layer}.attn.")})
        y = norm(x, f"{layer}.ln_1")
        x = x + attention(y, y, y, need_weights=False)[0]
        x = x + linear(F.gelu(linear(norm(x, f"{layer}.ln_2"), f"{layer}.mlp.c_fc")), f"{layer}.mlp.c_proj")
    return norm(x[:, 0], "ln_post") @ state["proj"]


def test_open_clip_weights_give_what_open_clip_gives() -> None:
    state = tiny_video.to_open_clip(tiny_video.vision().state_dict())
    weights = clip_vision.vision_from_open_clip(tiny_video.Held(state))
    config = detect_clip_vision(weights.shapes)
    assert config == tiny_video.VISION
    ours = clip_vision.CLIPVisionModel(config, torch.float32, "meta", disable_weight_init)
    load_weights(ours, weights, "", torch.float32)
    with torch.no_grad():
        real = open_clip_embeds(state, pixels(), heads=2)
        error = (ours(pixels())[2] - real).norm() / real.norm()
    assert error < 1e-5


@pytest.mark.parametrize(
    ("width", "layers", "size", "heads", "activation"),
    [
        (1280, 32, 224, 16, "gelu"),
        (1664, 48, 224, 16, "gelu"),
        (1024, 24, 336, 16, "quick_gelu"),
        (768, 12, 224, 12, "quick_gelu"),
    ],
)
def test_public_configurations(width: int, layers: int, size: int, heads: int, activation: str) -> None:
    wanted = tiny_video.VISION | {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": activation,
        "image_size": size,
        "projection_dim": 1024,
    }
    model = clip_vision.CLIPVisionModel(wanted, torch.float16, "meta", disable_weight_init)
    assert detect_clip_vision(tiny_video.Held(model.state_dict()).shapes) == wanted
    no_projection = {k: v for k, v in model.state_dict().items() if k != "visual_projection.weight"}
    assert "projection_dim" not in detect_clip_vision(tiny_video.Held(no_projection).shapes)


def test_no_vision_model() -> None:
    with pytest.raises(CheckpointError, match="no CLIP vision model found"):
        detect_clip_vision({"a": (1,)})


def test_preprocessing_takes_the_middle_and_normalises() -> None:
    image = torch.zeros(1, 100, 300, 4)
    image[:, :, 100:200] = 1.0
    out = clip_vision.clip_preprocess(image)
    assert out.shape == (1, 3, 224, 224)
    white = (1 - torch.tensor(clip_vision.MEAN)) / torch.tensor(clip_vision.DEVIATION)
    torch.testing.assert_close(out[0, :, 112, 112], white)
    assert (out[0, :, :, 4:-4] == out[0, :, 112:113, 112:113]).all()
    squeezed = clip_vision.clip_preprocess(image, crop=False)
    assert squeezed[0, 0, 112, 0] < 0 < squeezed[0, 0, 112, 112]
    exact = torch.rand(1, 224, 224, 3)
    back = clip_vision.clip_preprocess(exact).movedim(1, -1) * torch.tensor(clip_vision.DEVIATION)
    assert (back + torch.tensor(clip_vision.MEAN) - exact).abs().max() < 0.5 / 255 + 1e-6


def test_the_object_encodes_in_half_weights() -> None:
    model = tiny_video.vision()
    held = clip_vision.build_clip_vision(tiny_video.Held(model.state_dict()))
    dtypes = {name: value.dtype for name, value in held.model.named_parameters()}
    assert dtypes["vision_model.encoder.layers.0.mlp.fc1.weight"] == torch.float16
    assert dtypes["vision_model.post_layernorm.weight"] == dtypes["visual_projection.weight"] == torch.float32
    image = torch.rand(2, 300, 260, 3)
    out = held.encode_image(image)
    with torch.no_grad():
        last, penultimate, embeds = model(clip_vision.clip_preprocess(image))
    for mine, real in (
        (out.last_hidden_state, last),
        (out.penultimate_hidden_states, penultimate),
        (out.image_embeds, embeds),
    ):
        assert mine.dtype == torch.float32
        assert (mine - real).norm() / real.norm() < 2e-3
    assert not torch.equal(out.last_hidden_state, out.penultimate_hidden_states)


def test_a_missing_weight_is_named() -> None:
    weights = tiny_video.Held(tiny_video.vision().state_dict())
    del weights["vision_model.post_layernorm.bias"]
    with pytest.raises(CheckpointError, match="vision_model.post_layernorm.bias is missing"):
        clip_vision.build_clip_vision(weights)
