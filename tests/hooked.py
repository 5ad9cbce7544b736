"""LoRA files and a second checkpoint for the demo model, which tests hook to prompts."""

from __future__ import annotations

from pathlib import Path

import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from safetensors.torch import load_file, save_file
from torch import Tensor

UNET = "model.diffusion_model."
PLACES = ("input_blocks.3.1", "middle_block.1", "output_blocks.0.1", "output_blocks.3.1")
LAYERS = ("attn1.to_q", "attn2.to_k", "attn2.to_v")
TEXT = "cond_stage_model.transformer."
TEXT_LAYERS = ("self_attn.v_proj", "mlp.fc1")


def lora(seed: int, size: float = 0.15) -> dict[str, Tensor]:
    """Return a LoRA of random numbers for the UNet and the text encoder of the demo model."""
    demo, generator = load_file(CHECKPOINT), torch.Generator().manual_seed(seed)
    names = {
        f"lora_unet_{place}_transformer_blocks_0_{layer}".replace(
            ".", "_"
        ): f"{UNET}{place}.transformer_blocks.0.{layer}"
        for place in PLACES
        for layer in LAYERS
    }
    text = [f"text_model.encoder.layers.{number}.{layer}" for number in range(2) for layer in TEXT_LAYERS]
    names |= {f"lora_te_{layer}".replace(".", "_"): TEXT + layer for layer in text}
    file = {}
    for name, key in names.items():
        out, into = demo[f"{key}.weight"].shape
        file[f"{name}.lora_up.weight"] = torch.randn(out, 4, generator=generator) * size
        file[f"{name}.lora_down.weight"] = torch.randn(4, into, generator=generator) * size
        file[f"{name}.alpha"] = torch.tensor(2.0)
    return file


def other_checkpoint(seed: int = 5) -> dict[str, Tensor]:
    """Return the demo checkpoint with other weights in its attentions."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: weight * (1 + 0.2 * torch.randn(weight.shape, generator=generator)) if "attn" in key else weight
        for key, weight in load_file(CHECKPOINT).items()
    }


def write_models(folder: Path) -> None:
    """Write `one` and `two` into the folder of LoRAs, and `other` into that of checkpoints."""
    for kind in ("loras", "checkpoints"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    save_file(lora(1), folder / "loras" / "one.safetensors")
    save_file(lora(2), folder / "loras" / "two.safetensors")
    save_file(other_checkpoint(), folder / "checkpoints" / "other.safetensors")
