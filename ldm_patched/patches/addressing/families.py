"""Model families: where their transformer blocks are, and which of their attentions can be told apart.

A host's transformer is known by the name of its class or of one that it descends from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..patcher import Patcher

BOTH = ("self", "cross")
DOUBLE_SINGLE = (("double", "double_blocks"), ("single", "single_blocks"))
# How a family calls attention patches; `engine/adapters.py` has an adapter for each.
UNET, JOINT, JOINT_INPUT, HIDDEN, AFTER, NOTHING = "unet", "joint", "joint input", "hidden", "after", "nothing"


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Args:
        blocks: each block type of addresses, with the attribute that lists its blocks.
        calls: by which contract it calls attention patches.
        kinds: the kinds of attention that a call can be told to be; joint attention of text and image is `self`.
    """

    name: str
    blocks: tuple[tuple[str, str], ...] = ()
    calls: str = NOTHING
    kinds: tuple[str, ...] = ()


A_UNET = Family("UNet", calls=UNET, kinds=BOTH)
FAMILIES: dict[str, Family] = {
    "Flux": Family("Flux", DOUBLE_SINGLE, JOINT, ("self",)),
    "Chroma": Family("Chroma", DOUBLE_SINGLE, JOINT, ("self",)),
    "HunyuanVideo": Family("HunyuanVideo", DOUBLE_SINGLE, JOINT, ("self",)),
    "SingleStreamDiT": Family("Krea2", (("single", "blocks"),), JOINT, ("self",)),
    "QwenImageTransformer2DModel": Family("Qwen-Image", (("double", "transformer_blocks"),), JOINT_INPUT, ("self",)),
    "MageFlowTransformer2DModel": Family("Mage-Flow", (("double", "transformer_blocks"),), JOINT_INPUT, ("self",)),
    "Anima": Family("Anima", (("block", "blocks"),), HIDDEN, BOTH),
    "MiniTrainDIT": Family("Cosmos-Predict2", (("block", "blocks"),), HIDDEN, BOTH),
    "WanModel": Family("Wan", (("double", "blocks"),), AFTER, BOTH),
    "CausalWanModel": Family("CausalWan"),
    # These say which block is running and call no attention patch.
    "NextDiT": Family("Lumina", (("double", "layers"),)),
    "Kandinsky5": Family("Kandinsky 5", (("double", "visual_transformer_blocks"),)),
    "JoyImageTransformer3DModel": Family("JoyImage", (("double", "double_blocks"),)),
    "LensTransformer2DModel": Family("Lens", (("double", "transformer_blocks"),)),
}
HEADS = ("num_heads", "n_heads", "heads", "num_attention_heads", "n_local_heads")
DIM_HEADS = ("head_dim", "dim_head", "headdim", "attention_head_dim", "d_head")
WIDTHS = ("hidden_size", "hidden_dim", "dim")


def family_of(model: Patcher) -> Family:
    """Return the family of a model patcher's model; one without blocks where it is not known."""
    return family_of_net(model.model.diffusion_model)


def family_of_net(net: Any) -> Family:
    """Return the family of a network; one without blocks where it is not known."""
    if hasattr(net, "input_blocks") and hasattr(net, "output_blocks"):
        return A_UNET
    names = [base.__name__ for base in type(net).__mro__]
    return next((FAMILIES[name] for name in names if name in FAMILIES), Family(names[0]))


def blocks_of(model: Any, family: Family) -> Iterator[tuple[str, int, Any]]:
    """Yield block type, number and module of each transformer block outside UNets, in the order they run."""
    for block_type, attribute in family.blocks:
        yield from ((block_type, number, block) for number, block in enumerate(getattr(model, attribute, ())))


def head_shape(block: nn.Module) -> tuple[int, int]:
    """Return heads and head dim of the first attention in a block that tells them; 0, 0 where none does."""
    for module in block.modules():
        heads = _number(module, HEADS)
        width = _number(module, WIDTHS)
        dim_head = _number(module, DIM_HEADS) or (width // heads if heads else 0)
        if heads and dim_head:
            return heads, dim_head
    return 0, 0


def _number(module: nn.Module, names: tuple[str, ...]) -> int:
    found = (getattr(module, name, None) for name in names)
    return next((value for value in found if isinstance(value, int)), 0)
