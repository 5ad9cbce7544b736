"""The rows of the table: which models, of which size, on which host; and how each is built with random weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

FLUX = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096}
FLUX |= {"hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38}
FLUX |= {"axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True}
FLUX |= {"txt_ids_dims": []}
QWEN = {"image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 60}
QWEN |= {"attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 3584}
QWEN |= {"axes_dims_rope": (16, 56, 56)}
Z_IMAGE = {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 3840, "n_layers": 30, "n_heads": 30}
Z_IMAGE |= {"n_refiner_layers": 2, "n_kv_heads": 30, "multiple_of": 256, "ffn_dim_multiplier": 8 / 3}
Z_IMAGE |= {"cap_feat_dim": 2560, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "qk_norm": True}
Z_IMAGE |= {"rope_theta": 256.0, "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32}
WAN = {"image_model": "wan2.1", "model_type": "t2v", "dim": 5120, "ffn_dim": 13824, "freq_dim": 256}
WAN |= {"text_dim": 4096, "num_heads": 40, "num_layers": 40, "in_dim": 16, "out_dim": 16}


@dataclass(frozen=True)
class Row:
    """A model at a size.

    Args:
        host: "embedded" or "comfyui".
        model: a name among the UNets of random_checkpoint, or that of a class of ComfyUI's supported models, or "demo".
        latent: the shape of the latent; of a video in a UNet the first number is that of its frames.
        text: tokens of the prompt and their width.
        steps: of a picture, as people commonly take them.
        config: of a transformer.
        cut: how many blocks it has here, by the name in its configuration; none are left out with `--full`.
    """

    host: str
    model: str
    title: str
    latent: tuple[int, ...]
    text: tuple[int, int]
    steps: int
    cfg: float
    pooled: int = 0
    more: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    cut: Mapping[str, int] = field(default_factory=dict)

    def blocks(self, full: bool) -> str:
        """Return how many of its blocks it has, for reading."""
        if full or not self.cut:
            return "all blocks"
        return f"{sum(self.cut.values())} of {sum(self.config[name] for name in self.cut)} blocks"

    def dtype(self, device: str) -> str:
        """Return the dtype in which people run it on a device."""
        return "float32" if device == "cpu" else "bfloat16" if self.config else "float16"


def unet(host: str, model: str, title: str, side: int, **changed: Any) -> Row:
    """Return the row of a picture's UNet."""
    sdxl = model == "sdxl"
    text, steps = (77, 2048 if sdxl else 768), 30 if sdxl else 20
    return Row(host, model, title, (1, 4, side // 8, side // 8), text, steps, 7.0, 1280 if sdxl else 0, **changed)


def _rows() -> dict[str, Row]:
    svd = {"concat_latent_image": (1, 4, 72, 128)}
    comfy = "comfyui"
    return {
        "sd15-512": unet("embedded", "sd15", "SD1.5, 512x512", 512),
        "sdxl-1024": unet("embedded", "sdxl", "SDXL, 1024x1024", 1024),
        "sdxl-1536": unet("embedded", "sdxl", "SDXL, 1536x1536", 1536),
        "sdxl-2048": unet("embedded", "sdxl", "SDXL, 2048x2048", 2048),
        "svd": Row("embedded", "svd", "SVD, 14 frames of 1024x576", (14, 4, 72, 128), (1, 1024), 20, 2.5, more=svd),
        "comfyui-sd15-512": unet(comfy, "sd15", "SD1.5, 512x512", 512),
        "comfyui-sdxl-1024": unet(comfy, "sdxl", "SDXL, 1024x1024", 1024),
        "comfyui-flux": Row(
            *(comfy, "Flux", "Flux.1 dev, 1024x1024", (1, 16, 128, 128), (512, 4096), 20, 1.0, 768),
            config=FLUX,
            cut={"depth": 1, "depth_single_blocks": 2},
        ),
        "comfyui-qwen-image": Row(
            *(comfy, "QwenImage", "Qwen-Image, 1328x1328", (1, 16, 1, 166, 166), (100, 3584), 20, 2.5),
            config=QWEN,
            cut={"num_layers": 2},
        ),
        "comfyui-z-image": Row(
            *(comfy, "ZImage", "Z-Image Turbo with its 4 refiners, 1024x1024", (1, 16, 128, 128), (100, 2560), 8, 1.0),
            config=Z_IMAGE,
            cut={"n_layers": 2},
        ),
        "comfyui-wan": Row(
            *(comfy, "WAN21_T2V", "Wan 2.1 14B, 81 frames of 832x480", (1, 16, 21, 60, 104), (512, 4096), 20, 6.0),
            config=WAN,
            cut={"num_layers": 1},
        ),
    }


def small(row: Row) -> Row:
    """Return a row with an eighth of the sides, the frames and the text, and one block of each kind: to see it run."""
    channels = 1
    eighth = tuple(n if i == channels else max(1, n // 8) for i, n in enumerate(row.latent))
    sides = tuple(2 * -(-side // 16) for side in row.latent[-2:])  # patches of 2x2
    latent = (*eighth[:-2], *sides)
    more = {name: (*shape[:-2], *sides) for name, shape in row.more.items()}
    text = (max(1, row.text[0] // 8), row.text[1]) if row.config else row.text
    title = f"{row.title.partition(',')[0]}, a small latent of {'x'.join(map(str, latent))}"
    return replace(row, title=title, latent=latent, text=text, more=more, cut=dict.fromkeys(row.cut, 1))


USUAL = _rows()
SMALL = {f"{name}-small": small(row) for name, row in USUAL.items()}
DEMO = {
    f"{prefix}demo": Row(host, "demo", "the demo model, 128x128", (1, 4, 16, 16), (77, 128), 20, 4.0)
    for prefix, host in {"": "embedded", "comfyui-": "comfyui"}.items()
}
ROWS = USUAL | SMALL | DEMO


# Building


def build(row: Row, full: bool, dtype: torch.dtype, device: torch.device) -> Any:
    """Return a patcher of the row's model in the host that this process is."""
    if row.model == "demo":
        return demo(row, dtype)
    return transformer(row, full, dtype, device) if row.config else built_unet(row, dtype)


def demo(row: Row, dtype: torch.dtype) -> Any:
    """Return a patcher of the demo model."""
    if row.host == "embedded":
        from attention_patchbay.ldm_patched.demo import CHECKPOINT
        from attention_patchbay.ldm_patched.loading.sd import load_checkpoint

        return load_checkpoint(CHECKPOINT, dtype)[0]
    from attention_patchbay.nodes._host import load_demo_model

    model = load_demo_model()[0]
    net = model.model.diffusion_model.to(dtype)
    net.dtype, model.model.manual_cast_dtype = dtype, None
    return model


def built_unet(row: Row, dtype: torch.dtype) -> Any:
    """Return a patcher of a UNet."""
    from attention_patchbay.ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from attention_patchbay.ldm_patched.loading import sd
    from attention_patchbay.ldm_patched.modules.ops import disable_weight_init
    from random_checkpoint import UNETS, Tensors, draw, shapes_of

    empty = UNetModel(**UNETS[row.model], device="meta", operations=disable_weight_init)
    weights = Tensors(draw(shapes_of(empty), dtype))
    if row.host == "embedded":
        found = sd.find_unet(weights, ("",))
        return sd.build_unet(found, sd.config_of(found, weights), dtype)
    from comfy.sd import load_diffusion_model_state_dict

    model = load_diffusion_model_state_dict(dict(weights), model_options={"dtype": dtype})
    model.model.manual_cast_dtype = None  # ComfyUI would compute in float32 on a processor
    return model


def transformer(row: Row, full: bool, dtype: torch.dtype, device: torch.device) -> Any:
    """Return a patcher of one of ComfyUI's transformers."""
    import comfy.supported_models
    from comfy.model_management import unet_offload_device
    from comfy.model_patcher import ModelPatcher

    config = {**row.config, **({} if full else row.cut), "dtype": dtype}
    wrapped = getattr(comfy.supported_models, row.model)(config)
    wrapped.unet_config.update(config)  # what every public model of a class has is not in its configuration
    wrapped.set_inference_dtype(dtype, None)
    model = wrapped.get_model({}, device=device)
    fill(model.diffusion_model)
    return ModelPatcher(model, device, unet_offload_device())


@torch.no_grad()
def fill(net: nn.Module) -> None:
    """Draw weights that keep the size of what flows through them, in their own dtype; tables of positions stay."""
    for name, weight in net.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0.0, 1.0 / math.sqrt(math.prod(weight.shape[1:])))
        else:
            weight.normal_(1.0 if name.endswith("weight") else 0.0, 0.05)


def prompts(row: Row) -> list[Any]:
    """Return a positive and a negative prompt of random tokens."""
    return [[[_normal(seed, 1, *row.text), _extras(row, seed)]] for seed in (1, 2)]


def _extras(row: Row, seed: int) -> dict[str, Any]:
    extras: dict[str, Any] = {name: _normal(seed + 4, *shape) for name, shape in row.more.items()}
    return extras | ({"pooled_output": _normal(seed + 2, 1, row.pooled)} if row.pooled else {})


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sample(row: Row, model: Any, steps: int) -> Tensor:
    """Return the latent after some steps; of one step alone that is what the model predicts at the first sigma."""
    noise, latent = _normal(7, *row.latent), torch.zeros(row.latent)
    positive, negative = prompts(row)
    if row.host == "embedded":
        from attention_patchbay.ldm_patched.sampling import samplers

        settings = (row.cfg, steps, "euler", "simple")
        return samplers.sample(model, noise, positive, negative, *settings, seed=0, latent_image=latent)
    import comfy.sample

    settings = (steps, row.cfg, "euler", "simple")
    return comfy.sample.sample(model, noise, *settings, positive, negative, latent, disable_pbar=True, seed=0)
