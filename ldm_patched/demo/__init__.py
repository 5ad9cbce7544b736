"""The demo model: a small text-to-image checkpoint of coloured shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHECKPOINT = Path(__file__).with_name("demo.safetensors")
# Trained for it by tools/demo/train_lora.py: every object yellow, every object a ring
LORAS = {
    f"patchbay_demo_{name}.safetensors": CHECKPOINT.with_name(f"patchbay_demo_{name}.safetensors")
    for name in ("gold", "ring")
}

SIZE = 128  # pixels, both ways
LATENT_SIZE = SIZE // 8
LATENT_SCALE = 0.18215
# Red, green and blue of -1 to 1 by the channels of a scaled latent, for previews: least squares over 20 pictures. They
# show shapes; the colours are not linear in the latent.
LATENT_RGB = ((-0.179, -0.159, -0.051), (-0.200, -0.215, -0.108), (-0.143, -0.175, -0.097), (0.272, 0.300, 0.152))
LATENT_RGB_BIAS = (0.838, 0.804, 0.828)
CONTEXT_LENGTH = 77

VAE: dict[str, Any] = {
    "ch": 64,
    "ch_mult": (1, 1, 1, 2),
    "num_res_blocks": 1,
    "z_channels": 4,
    "in_channels": 3,
    "out_ch": 3,
    "double_z": True,
    "resolution": SIZE,
    "attn_resolutions": (),
    "dropout": 0.0,
}

UNET: dict[str, Any] = {
    "image_size": LATENT_SIZE,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": (1, 1, 1),
    "channel_mult": (2, 3, 3),
    "num_heads": 8,
    "use_spatial_transformer": True,
    "transformer_depth": (0, 1, 1),
    "transformer_depth_middle": 1,
    "transformer_depth_output": (0, 0, 1, 1, 1, 1),
    "use_linear_in_transformer": False,
    "context_dim": 128,
}

CLIP: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": CONTEXT_LENGTH,
    "layer_norm_eps": 1e-5,
    "vocab_size": 24,  # three special tokens and the words of the caption grammar
    "eos_token_id": 1,
}
