"""Where the layers of a LoRA file stand, by their names alone: own names of networks, diffusers', dots or none."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..addressing.address import BlockId
from ..engine.lora import Place, kind_of

INNER = re.compile(r"(?:^|_)transformer_blocks_(\d+)_(.*)")
# A UNet's blocks in its own names, and in diffusers': levels of two resnets each, on the way up of three
UNET = re.compile(r"(?:^|_)(?:(?:in|out)put_blocks_\d|(?:down|up)_blocks_\d|mid(?:dle)?_block_)")
OWN = re.compile(r"(?:^|_)(input|output)_blocks_(\d+)_(.*)")
MIDDLE = re.compile(r"(?:^|_)mid(?:dle)?_block_(.*)")
LEVELS = re.compile(r"(?:^|_)(down|up)_blocks_(\d+)_(attentions|resnets|(?:down|up)samplers)_(\d+)_?(.*)")
# A transformer's blocks by the name of their list; that of the last ones is shared by many families
BEFORE = r"^(?:(?:lora_(?:unet|transformer)|lycoris|diffusion_model|base_model_model|transformer|unet|model)_)*"
STREAMS = (
    ("single", re.compile(BEFORE + r"single_(?:transformer_|stream_)?(?:blocks|layers)_(\d+)_(.*)")),
    (
        "double",
        re.compile(BEFORE + r"(?:double_(?:stream_)?(?:blocks|layers)|joint_(?:transformer_)?blocks)_(\d+)_(.*)"),
    ),
    ("", re.compile(BEFORE + r"(?:(?:visual_)?transformer_blocks|patch_blocks|blocks|layers)_(\d+)_(.*)")),
)
# a sign among the names of a file, the type of its blocks in such a list, and what it is for
SIGNS: tuple[tuple[str, str, str], ...] = (
    (r"double_blocks_\d+_|single_transformer_blocks_\d+_", "double", "Flux, Chroma or HunyuanVideo"),
    (r"joint_(?:transformer_)?blocks_\d+_", "double", "SD3 or AuraFlow"),
    (r"transformer_blocks_\d+_(?:img|txt)_m", "double", "Qwen-Image"),
    (r"(?:^|_)blocks_\d+_(?:mod_lin|attn_w[qkvo]|attn_gate)(?:_|$)", "single", "Krea2"),
    (r"transformer_blocks_\d+_attn_", "double", "Qwen-Image or SD3"),
    (r"transformer_blocks_\d+_attn[12]_", "block", "LTX-Video or PixArt"),
    (r"transformer_blocks_\d+_", "double", "a transformer"),
    (r"layers_\d+_(?:adaLN_sa|self_attention)_", "single", "Ernie"),
    (r"layers_\d+_attn_to_", "single", "OmniGen2"),
    (r"layers_\d+_(?:attention|feed_forward|adaLN_modulation)_", "double", "Lumina or Z-Image"),
    (r"blocks_\d+_(?:ffn_\d|(?:self|cross)_attn_[qkvo](?:_img)?$)", "double", "Wan"),
    (r"blocks_\d+_(?:self|cross)_attn_(?:[qkv]|output)_proj", "block", "Cosmos-Predict2 or Anima"),
    (
        r"blocks_\d+_norm1_linear|blocks_\d+_(?:mod_x|attn_qkv_x)$|patch_blocks_\d+_",
        "double",
        "CogVideoX, Mochi or PixelDiT",
    ),
    (r"blocks_\d+_", "block", "a transformer"),
    (r"layers_\d+_", "double", "a transformer"),
)
WIDTHS = {768: "SD 1", 1024: "SD 2", 1280: "SDXL refiner", 2048: "SDXL"}  # of the text that a UNet gets


class Names:
    """The names of the layers of a file, which tell together what network they are of."""

    def __init__(self, names: Iterable[str]) -> None:
        flat = [_flat(name) for name in names]
        self.unet = any(UNET.search(name) for name in flat)
        signs = (sign for sign in SIGNS if any(re.search(sign[0], name) for name in flat))
        _, self.type, self.known = next(signs, ("", "block", "unknown"))

    def model(self, text_width: int | None) -> str:
        """Say what model they are of; the width of a UNet's text tells which UNet."""
        if not self.unet:
            return self.known
        told = WIDTHS.get(text_width or 0, f"text of width {text_width}")
        return f"UNet ({told})" if text_width else "UNet"

    def place(self, name: str) -> Place:
        """Return where a layer stands; nowhere for one outside of all blocks."""
        flat = _flat(name)
        found = _in_unet(flat) if self.unet else self._in_transformer(flat)
        if found is None:
            return Place()
        block, rest = found
        if not self.unet:
            return Place(block, 0, kind_of(rest))
        inner = INNER.search(rest)
        return Place(block, int(inner[1]), kind_of(inner[2])) if inner else Place(block)

    def _in_transformer(self, name: str) -> tuple[BlockId, str] | None:
        for type, pattern in STREAMS:
            match = pattern.search(name)
            if match:
                return BlockId(type or self.type, int(match[1])), match[2]
        return None


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _in_unet(name: str) -> tuple[BlockId, str] | None:
    """Return the block of a layer, and the rest of its name."""
    if name == "conv_in" or name.endswith("_conv_in"):
        return BlockId("input", 0), ""
    if match := OWN.search(name):
        return BlockId(match[1], int(match[2])), match[3]
    if match := MIDDLE.search(name):
        return BlockId("middle", 0), match[1]
    if match := LEVELS.search(name):
        side, level, what, place = match[1], int(match[2]), match[3], int(match[4])
        if side == "down":
            return BlockId("input", 1 + 3 * level + (2 if what == "downsamplers" else place)), match[5]
        return BlockId("output", 3 * level + (2 if what == "upsamplers" else place)), match[5]
    return None
