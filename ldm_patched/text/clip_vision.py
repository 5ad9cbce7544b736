"""The image half of CLIP (Radford et al. 2021, arXiv 2103.00020), and the CLIP_VISION object of a graph."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files.model_file import model_file, report_unused
from ..files.weights import Weights, WeightView, load_weights
from ..modules import model_management
from ..modules.model_patcher import ModelPatcher
from ..modules.ops import manual_cast
from .clip_model import CLIPEncoder
from .detection import detect_clip_vision
from .text_encoders import TEXT_DTYPE, from_open_clip

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)

# Model


class CLIPVisionEmbeddings(nn.Module):
    """A class token and the patches of an image, with their positions."""

    def __init__(self, config: Mapping[str, Any], operations: Any, **factory: Any) -> None:
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        patches = (config["image_size"] // patch) ** 2
        self.class_embedding = nn.Parameter(torch.empty(width, **factory))
        self.patch_embedding = operations.Conv2d(config["num_channels"], width, patch, patch, bias=False, **factory)
        self.position_embedding = operations.Embedding(patches + 1, width, **factory)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map images (b, 3, h, w) to tokens (b, 1 + patches, width)."""
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        first = self.class_embedding.to(patches).expand(len(patches), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight.to(patches)


class CLIPVisionTransformer(nn.Module):
    """Embeddings, layers and a normalisation on either side."""

    def __init__(self, config: Mapping[str, Any], operations: Any, **factory: Any) -> None:
        super().__init__()
        norm = {"eps": config.get("layer_norm_eps", 1e-5), **factory}
        self.embeddings = CLIPVisionEmbeddings(config, operations, **factory)
        self.pre_layrnorm = operations.LayerNorm(config["hidden_size"], **norm)  # spelled as in public checkpoints
        self.encoder = CLIPEncoder(config, operations, **factory)
        self.post_layernorm = operations.LayerNorm(config["hidden_size"], **norm)

    def forward(self, pixel_values: Tensor, intermediate_output: int | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Give all tokens after the last layer and after layer `intermediate_output`, and the normed class token."""
        tokens = self.pre_layrnorm(self.embeddings(pixel_values))
        tokens, intermediate = self.encoder(tokens, None, intermediate_output)
        return tokens, intermediate, self.post_layernorm(tokens[:, 0])


class CLIPVisionModel(nn.Module):
    """CLIP's image encoder with its projection; `config` is the public `config.json` of a vision model."""

    def __init__(self, config: Mapping[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.image_size: int = config["image_size"]
        self.vision_model = CLIPVisionTransformer(config, operations, **factory)
        self.visual_projection: nn.Module = nn.Identity()
        if "projection_dim" in config:
            width, projected = config["hidden_size"], config["projection_dim"]
            self.visual_projection = operations.Linear(width, projected, bias=False, **factory)

    def forward(
        self, pixel_values: Tensor, intermediate_output: int | None = -2
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Encode images (b, 3, size, size) as `clip_preprocess` gives them.

        Returns the last hidden states (b, 1 + patches, width), those of layer `intermediate_output`, and the projected
        class token (b, projection).
        """
        last, intermediate, pooled = self.vision_model(pixel_values, intermediate_output)
        return last, intermediate, self.visual_projection(pooled)


# Object of a graph


@dataclass(frozen=True)
class ClipVisionOutput:
    """What CLIP sees in some images."""

    image_embeds: Tensor  # (b, projection)
    last_hidden_state: Tensor  # (b, 1 + patches, width)
    penultimate_hidden_states: Tensor


class ClipVision:
    """A CLIP image encoder that is on its device while it works."""

    def __init__(
        self,
        model: CLIPVisionModel,
        load_device: torch.device | str = "cpu",
        offload_device: torch.device | str = "cpu",
    ) -> None:
        self.model = model.requires_grad_(False).eval()
        self.patcher = ModelPatcher(model, load_device, offload_device)

    @torch.no_grad()
    def encode_image(self, image: Tensor, crop: bool = True) -> ClipVisionOutput:
        """Encode images (b, h, w, 3 or more) in 0..1."""
        device = self.patcher.load_device
        try:
            self.patcher.patch_model(device)
            pixels = clip_preprocess(image.to(device), self.model.image_size, crop).float()
            last, penultimate, embeds = (part.float().cpu() for part in self.model(pixels))
        finally:
            self.patcher.unpatch_model()
        return ClipVisionOutput(embeds, last, penultimate)


def clip_preprocess(image: Tensor, size: int = 224, crop: bool = True) -> Tensor:
    """Scale images (b, h, w, 3 or more) in 0..1 to (b, 3, size, size), normalised as CLIP was trained.

    The shorter side becomes `size` and the middle is taken; without `crop` the image is squeezed into the square.
    """
    pixels = image[..., :3].movedim(-1, 1)
    if pixels.shape[2:] != (size, size):
        scale = size / min(pixels.shape[2:])
        target = [round(scale * side) if crop else size for side in pixels.shape[2:]]
        pixels = F.interpolate(pixels, size=target, mode="bicubic", antialias=True)
        y, x = ((side - size) // 2 for side in pixels.shape[2:])
        pixels = pixels[..., y : y + size, x : x + size]
    pixels = (255.0 * pixels).clamp(0, 255).round() / 255.0
    mean, deviation = (pixels.new_tensor(values).reshape(3, 1, 1) for values in (MEAN, DEVIATION))
    return (pixels - mean) / deviation


# Files

OPEN_CLIP = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
}


def vision_from_open_clip(weights: Weights) -> WeightView:
    """Return an OpenCLIP vision model, without prefix, in the Hugging Face layout."""
    return from_open_clip(weights, "vision_model.", OPEN_CLIP)


def load_clip_vision(path: str | os.PathLike[str]) -> ClipVision:
    """Load the image encoder of a safetensors file in the Hugging Face layout.

    Raises CheckpointError, naming the file, for a file that is not complete or not known.
    """
    with model_file(path) as file:
        vision = build_clip_vision(file)
        report_unused(file)
    return vision


def build_clip_vision(weights: Weights) -> ClipVision:
    """Build the CLIP_VISION object of a vision model in the Hugging Face layout.

    Raises CheckpointError when a weight is missing.
    """
    model = CLIPVisionModel(detect_clip_vision(weights.shapes), TEXT_DTYPE, "meta", manual_cast)
    # the outer norms and the projection are small and keep their precision, as in ComfyUI
    for name, part in model.vision_model.named_children():
        dtype = torch.float32 if name.endswith("norm") else TEXT_DTYPE
        load_weights(part, weights, f"vision_model.{name}.", dtype)
    load_weights(model.visual_projection, weights, "visual_projection.", torch.float32)
    return ClipVision(model, model_management.text_encoder_device(), model_management.unet_offload_device())
