"""Compare with diffusers and transformers on the same random weights, at the full width of the public models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from attention_patchbay.ldm_patched.loading import controlnet_loader, sd
from attention_patchbay.ldm_patched.text.text_encoders import build_clip, short_name, text_model
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel, UNetSpatioTemporalConditionModel
from random_checkpoint import Tensors, draw, shapes_of
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

BOUND = 1e-4
LINEAR = {"use_linear_projection": True}
SDXL_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
TEXT_TIME = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
UNETS: dict[str, dict[str, Any]] = {
    "SD1.5": {"cross_attention_dim": 768},
    "SD1.5 inpaint": {"cross_attention_dim": 768, "in_channels": 9},
    "SD1.5 instruct-pix2pix": {"cross_attention_dim": 768, "in_channels": 8},
    "SD2.1": LINEAR | {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20)},
    "SDXL base": LINEAR
    | TEXT_TIME
    | {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": SDXL_BLOCKS,
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 3),  # the last is 10 in the public model
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "projection_class_embeddings_input_dim": 2816,
    },
    "SDXL refiner": LINEAR
    | TEXT_TIME
    | {
        "block_out_channels": (384, 768, 1536, 1536),
        "down_block_types": (*SDXL_BLOCKS, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": 1,  # 4 in the public model
        "attention_head_dim": (6, 12, 24, 24),
        "cross_attention_dim": 1280,
        "projection_class_embeddings_input_dim": 2560,
    },
}
TEXTS: dict[str, dict[str, Any]] = {  # six layers each; the public models have 12, 24 and 32
    "CLIP-L": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "hidden_act": "quick_gelu"},
    "OpenCLIP-H": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "hidden_act": "gelu"},
    "CLIP-bigG": {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "hidden_act": "gelu"},
}
PROMPT = "a photo of a (fox, detailed fur), 8k"

Result = tuple[str, float, float]  # case, error, bound


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Return the norm of the difference over the norm of the reference."""
    return float((ours - theirs).norm() / theirs.norm())


def filled(build: Callable[[], nn.Module]) -> tuple[nn.Module, Tensors]:
    """Build a module without the time its own initialisation takes, and draw its weights."""
    with torch.device("meta"):
        module = build()
    weights = Tensors(draw(shapes_of(module), torch.float32))
    module.load_state_dict(weights, assign=True)
    return module.eval(), weights


def normal(seed: int, *shape: int) -> Tensor:
    """Draw a normal tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unet(name: str, config: Mapping[str, Any]) -> Result:
    """Compare one UNet at a 16x16 latent, batch 2, 77 tokens."""
    theirs, weights = filled(lambda: UNet2DConditionModel(**config))
    found = sd.find_unet(weights, ("",))
    ours = sd.build_unet(found, sd.config_of(found, weights), torch.float32).model.diffusion_model
    x, t = normal(1, 2, config.get("in_channels", 4), 16, 16), torch.tensor([20.0, 800.0])
    context = normal(2, 2, 77, config["cross_attention_dim"])
    vector = config.get("projection_class_embeddings_input_dim")
    y, more = None, {}
    if vector is not None:
        ids = torch.full((2, (vector - 1280) // 256), 512.0)
        pooled = normal(3, 2, 1280)
        more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
        y = torch.cat([pooled, theirs.add_time_proj(ids.flatten()).reshape(2, -1)], dim=1)
    return f"UNet {name}", relative(ours(x, t, context, y=y), theirs(x, t, context, **more).sample), BOUND


def video() -> Result:
    """Compare Stable Video Diffusion's UNet at three frames of 16x16 latents."""
    theirs, weights = filled(UNetSpatioTemporalConditionModel)
    found = sd.find_unet(weights, ("",))
    ours = sd.build_unet(found, sd.config_of(found, weights), torch.float32).model.diffusion_model
    frames = 3
    x, context, ids = normal(1, 1, frames, 8, 16, 16), normal(2, 1, 1, 1024), torch.tensor([[5.0, 127.0, 0.02]])
    y = theirs.add_time_proj(ids.flatten()).reshape(1, -1).repeat(frames, 1)
    options = {"num_video_frames": frames, "image_only_indicator": torch.zeros(1, frames)}
    out = ours(x[0], torch.full((frames,), 1.4), context.repeat(frames, 1, 1), y=y, **options)
    return "UNet SVD", relative(out, theirs(x, torch.tensor(1.4), context, ids).sample[0]), BOUND


def controlnet() -> Iterator[Result]:
    """Compare the ControlNet of SD1.5 at a 16x16 latent: its worst block output, and the middle."""
    theirs, weights = filled(lambda: ControlNetModel(cross_attention_dim=768))
    found = controlnet_loader.find_controlnet(weights)
    config = controlnet_loader.controlnet_config(found.shapes)
    ours = controlnet_loader.build_controlnet(found, config, torch.float32).model
    x, t, hint = normal(1, 2, 4, 16, 16), torch.tensor([20.0, 800.0]), normal(3, 2, 3, 128, 128).sigmoid()
    context = normal(2, 2, 77, 768)
    blocks, middle = theirs(x, t, context, hint, return_dict=False)
    out = ours(x, hint, t, context)
    yield "ControlNet SD1.5 blocks", max(map(relative, out["output"], blocks)), BOUND
    yield "ControlNet SD1.5 middle", relative(out["middle"][0], middle), BOUND


def vae() -> Iterator[Result]:
    """Compare the VAE of SD and SDXL at 64x64 pixels."""
    blocks = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    types = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    theirs, weights = filled(lambda: AutoencoderKL(**blocks, **types))
    ours = sd.build_vae(sd.find_vae(weights, ("",))).first_stage_model
    z, pixels = normal(1, 1, 4, 8, 8), normal(2, 1, 3, 64, 64)
    yield "VAE decode", relative(ours.decode(z), theirs.decode(z).sample), BOUND
    yield "VAE encode", relative(ours.encode(pixels), theirs.encode(pixels).latent_dist.mean), BOUND


def text(name: str, config: Mapping[str, Any]) -> Iterator[Result]:
    """Compare one text encoder: the states that the checkpoints' families use, and the pooled output."""
    settings = CLIPTextConfig(
        **config, num_hidden_layers=6, projection_dim=config["hidden_size"], bos_token_id=49406, eos_token_id=49407
    )
    projected = name != "CLIP-L"
    theirs = (CLIPTextModelWithProjection if projected else CLIPTextModel)(settings).eval()
    weights = Tensors({k: v.half().float() for k, v in draw(shapes_of(theirs), torch.float32).items()})
    theirs.load_state_dict(weights)
    model = text_model(weights)
    clip = build_clip({short_name(model): model})
    chunks = clip.tokenize(PROMPT.replace("(", "\\(").replace(")", "\\)"))[short_name(model)]
    ids = torch.tensor([[token for token, _ in chunk] for chunk in chunks])
    expected = theirs(ids, output_hidden_states=True)
    cond, pooled = clip.encode_from_tokens({short_name(model): chunks}, return_pooled=True)
    states = expected.hidden_states[-2] if name == "CLIP-bigG" else expected.last_hidden_state
    yield f"{name} states", relative(cond, states), BOUND
    end = expected.text_embeds if projected else expected.pooler_output
    yield f"{name} pooled", relative(pooled, end), BOUND


@torch.no_grad()
def results() -> Iterator[Result]:
    """Yield every comparison."""
    for name, config in TEXTS.items():
        yield from text(name, config)
    yield from vae()
    yield from controlnet()
    for name, config in UNETS.items():
        yield unet(name, config)
    yield video()
