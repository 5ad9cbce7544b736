"""Transformers by the header of their file: which family, how many blocks of which type, and their heads.

The names and shapes are those that ComfyUI tells the families by.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import nn

from ..addressing.families import FAMILIES

Shapes = Mapping[str, tuple[int, ...]]
PREFIXES = ("model.diffusion_model.", "model.model.", "diffusion_model.", "model.", "net.", "")
IMG_NORMS = (
    "double_blocks.0.img_attn.norm.key_norm.weight",
    "double_blocks.0.img_attn.norm.key_norm.scale",
    "double_blocks.0.img_attn_k_norm.weight",
)
IMG_WIDTHS = ("double_blocks.0.img_attn.proj.weight", "double_blocks.0.img_attn_proj.weight")


@dataclass(frozen=True)
class Signs:
    """How a family is told.

    Args:
        cls: its class in ComfyUI, by which `families` knows it.
        keys: tensors that it has, all of them; with a number the length of the first dimension.
        norms: where the first is found, a tensor as long as a head.
        widths: where the first is found, a tensor whose first dimension is that of all heads.
        dim_head: of every model of the family, where no tensor tells it.
        heads: of every model of the family, where no tensor tells their size.
    """

    cls: str
    keys: tuple[str | tuple[str, int], ...]
    norms: tuple[str, ...] = ()
    widths: tuple[str, ...] = ()
    dim_head: int = 0
    heads: int = 0


QWEN = ("transformer_blocks.0.attn.norm_k.weight",), ("transformer_blocks.0.attn.to_q.weight",)
COSMOS = ("blocks.0.self_attn.k_norm.weight",), ("blocks.0.self_attn.q_proj.weight",)
COSMOS_1 = "blocks.block0.blocks.0.block.attn.to_q"
SD3 = "joint_blocks.0.context_block.attn.qkv.weight", "joint_blocks.0.x_block.attn.proj.weight"
AURA = "double_layers.0.attn.w1q.weight"
LTX = "adaln_single.emb.timestep_embedder.linear_1.bias", "patchify_proj.weight"
KINDS = (  # a later one has keys that an earlier one has too
    Signs("HunyuanVideo", ("txt_in.individual_token_refiner.blocks.0.norm1.weight",), IMG_NORMS, IMG_WIDTHS),
    Signs("Chroma", ("distilled_guidance_layer.in_proj.weight", IMG_WIDTHS[0]), IMG_NORMS, IMG_WIDTHS),
    Signs("Flux", ("img_in.weight", IMG_WIDTHS[0]), IMG_NORMS, IMG_WIDTHS),
    Signs("WanModel", ("head.modulation",), widths=("blocks.0.self_attn.q.weight",), dim_head=128),
    Signs("Anima", ("blocks.0.mlp.layer1.weight", "llm_adapter.blocks.0.cross_attn.q_proj.weight"), *COSMOS),
    Signs("MiniTrainDIT", ("blocks.0.mlp.layer1.weight",), *COSMOS),
    Signs(
        "LensTransformer2DModel",
        ("transformer_blocks.0.attn.norm_added_q.weight", "transformer_blocks.0.img_mlp.w1.weight"),
        widths=("img_in.weight",),
        dim_head=64,
    ),
    Signs("MageFlowTransformer2DModel", (("txt_norm.weight", 2560), ("proj_out.weight", 128)), *QWEN),
    Signs("QwenImageTransformer2DModel", ("txt_norm.weight", "transformer_blocks.0.attn.to_q.weight"), *QWEN),
    Signs(
        "SingleStreamDiT",
        ("txtfusion.projector.weight",),
        ("blocks.0.attn.qknorm.knorm.scale",),
        ("blocks.0.attn.wq.weight",),
    ),
    Signs(
        "NextDiT", ("cap_embedder.1.weight",), ("layers.0.attention.k_norm.weight",), ("layers.0.attention.out.weight",)
    ),
    Signs(
        "Kandinsky5",
        ("visual_transformer_blocks.0.cross_attention.key_norm.weight",),
        ("visual_transformer_blocks.0.self_attention.key_norm.weight",),
        ("visual_transformer_blocks.0.self_attention.to_query.weight",),
    ),
    Signs(
        "JoyImageTransformer3DModel",
        ("double_blocks.0.attn.img_attn_q_norm.weight",),
        ("double_blocks.0.attn.img_attn_q_norm.weight",),
        ("img_in.weight",),
    ),
    Signs("Hunyuan3Dv2", ("latent_in.weight", IMG_WIDTHS[0]), IMG_NORMS, IMG_WIDTHS),
    Signs("OpenAISignatureMMDITWrapper", (SD3[0],), widths=(SD3[1],), dim_head=64),
    Signs("MMDiT", (AURA,), widths=(AURA,), dim_head=256),
    Signs("LTXVModel", LTX, widths=("transformer_blocks.0.attn1.to_q.weight",), heads=32),
    Signs("HiDreamImageTransformer2DModel", ("caption_projection.0.linear.weight",)),
    Signs(
        "BooguTransformer2DModel",
        ("double_stream_layers.0.img_instruct_attn.processor.img_to_q.weight",),
        ("single_stream_layers.0.attn.norm_q.weight",),
        ("single_stream_layers.0.attn.to_q.weight",),
    ),
    Signs(
        "OmniGen2Transformer2DModel",
        ("time_caption_embed.timestep_embedder.linear_1.bias",),
        ("layers.0.attn.norm_q.weight",),
        ("layers.0.attn.to_q.weight",),
    ),
    Signs(
        "Ideogram4Transformer2DModel",
        ("embed_image_indicator.weight",),
        ("layers.0.attention.norm_q.weight",),
        ("layers.0.attention.o.weight",),
    ),
    Signs(
        "CogVideoXTransformer3DModel",
        ("blocks.0.norm1.linear.weight",),
        ("blocks.0.norm_q.weight",),
        ("blocks.0.attn_out.weight",),
    ),
    Signs("AsymmDiTJoint", ("t5_yproj.weight",), widths=("blocks.0.attn.proj_x.weight",), dim_head=128),
    Signs("GeneralDIT", (f"{COSMOS_1}.0.weight",), (f"{COSMOS_1}.1.weight",), (f"{COSMOS_1}.0.weight",)),
    Signs("PixArtMS", ("t_block.1.weight",), widths=("blocks.0.attn.proj.weight",), heads=16),
    Signs("HunYuanDiT", ("mlp_t5.0.weight",), ("blocks.0.attn1.q_norm.weight",), ("blocks.0.attn1.out_proj.weight",)),
    Signs(
        "ErnieImageModel",
        ("layers.0.mlp.linear_fc2.weight",),
        ("layers.0.self_attention.norm_q.weight",),
        ("layers.0.self_attention.to_q.weight",),
    ),
)


class _Block(nn.Module):
    """A block of which only the heads are known."""

    def __init__(self, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads, self.dim_head = heads, dim_head


def transformer_of(shapes: Shapes) -> Any:
    """Return what stands for the model patcher of a transformer: its blocks without weights; None where it is none."""
    for prefix in PREFIXES:
        inner = {key[len(prefix) :]: shape for key, shape in shapes.items() if key.startswith(prefix)}
        for signs in KINDS:
            if all(_has(inner, key) for key in signs.keys):
                return SimpleNamespace(model=SimpleNamespace(diffusion_model=_net(signs, inner)))
    return None


def _has(shapes: Shapes, key: str | tuple[str, int]) -> bool:
    name, length = key if isinstance(key, tuple) else (key, None)
    return name in shapes and (length is None or _first(shapes, (name,)) == length)


def _net(signs: Signs, shapes: Shapes) -> Any:
    width = _first(shapes, signs.widths)
    dim_head = _first(shapes, signs.norms) or signs.dim_head or width // max(1, signs.heads)
    heads = width // dim_head if dim_head else 0
    lists = {
        attribute: [_Block(heads, dim_head) for _ in range(_count(shapes, attribute))]
        for _, attribute in FAMILIES[signs.cls].blocks
    }
    return type(signs.cls, (), lists)()


def _first(shapes: Shapes, names: tuple[str, ...]) -> int:
    found = (shapes[name] for name in names if name in shapes)
    return next((shape[0] for shape in found if shape), 0)


def _count(shapes: Shapes, attribute: str) -> int:
    """Return how many blocks a list has: one more than the largest number without a gap below it."""
    pattern = re.compile(rf"{re.escape(attribute)}\.(?:block)?(\d+)\.")
    numbers = {int(match[1]) for match in map(pattern.match, shapes) if match}
    return next(number for number in range(len(numbers) + 1) if number not in numbers)
