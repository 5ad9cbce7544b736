"""Model families: where their transformer blocks are, and how their attention calls are made up.

A row says what is true of a family whatever its size. A host's transformer is known by the name of its class or of one
that it descends from; one that nobody has written down is known by its structure.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..patcher import Patcher

BOTH = ("self", "cross")
JOINED = ("self",)  # joint attention of text and image counts as self
DOUBLE_SINGLE = (("double", "double_blocks"), ("single", "single_blocks"))
# How a family calls attention patches; `engine/adapters.py` has adapters for those before the positions.
UNET, JOINT, JOINT_INPUT, HIDDEN, AFTER, NOTHING = "unet", "joint", "joint input", "hidden", "after", "nothing"
# What a joint sequence is made of, in order
TEXT, IMAGE, REFERENCE = "text", "image", "reference"
TEXT_FIRST, IMAGE_FIRST = (TEXT, IMAGE), (IMAGE, TEXT)
TEXT_IMAGE_REFERENCES, TEXT_REFERENCES_IMAGE = (TEXT, IMAGE, REFERENCE), (TEXT, REFERENCE, IMAGE)
DEAF = "ComfyUI does not hand their attention the model's options, so that it asks nobody"

# What the result of a block stands for, by the places of its forward's parameters; see Family
X, FIRST_TWO, SECOND_FIRST, FIRST_THIRD = ((0,),), ((0, 1),), ((1, 0),), ((0, 2),)

BY_FRAME = "each block makes several calls of self-attention with a part of the tokens, and does not say which"
NO_PICTURE = "their tokens are those of a shape or of sound, and no picture"
LANGUAGE = "text and image are one sequence of a language model, whose text attends without asking anybody"
CACHED = "it draws a video piece by piece, with the queries of one piece and the keys of all before it"


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Args:
        blocks: each block type of addresses, with the attribute that lists its blocks.
        calls: by which contract it calls attention patches.
        kinds: the kinds of attention that a call can be told to be, in the order in which a block makes them.
        order: what the sequence of joint attention is made of; none where text and image attend apart.
        front: tokens of the model itself in front of the sequence.
        patch: latent pixels along a side of a token; 0 where the network tells.
        beside: lists of blocks that run in the midst of the others and are none of them.
        told: whether the host says in each call which block makes it.
        filled: whether its text is filled up behind the tokens of the prompt.
        whole_text: whether it takes the tokens that a mask hides for others of its text.
        crops: whether it attends to the front of its text alone, as many tokens as its mask shows.
        one_mask: whether it takes the mask of a text for a single row alone.
        ends: whether its image's positions count from the end of its text.
        pads: the module that embeds its text, and the token that fills it up, where the network has learned one.
        counts: the module that rotates, where a text counts from 0 on all axes and its image on the first alone.
        columns: whether it makes nothing of its text but keys and values, each token for itself.
        flat: whether what it makes is no picture.
        sound: whether its latent is a video and its sound, packed into one row.
        alone: whether it takes one video at a time.
        uneven: whether frames of its latent, the first apart, stand for unlike many of the video.
        rotary: whether queries and keys of its self-attention hold their positions, as rotations.
        hands: for each block type the parameters of a block's forward that its result stands for, by place and in the
            order of the result; none: nobody can skip or scale its blocks.
        deaf: why its attention asks no override, so that no method acts inside it.
        closed: why methods cannot act in its attention calls.
    """

    name: str
    blocks: tuple[tuple[str, str], ...] = ()
    calls: str = NOTHING
    kinds: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    front: int = 0
    patch: int = 0
    told: bool = True
    beside: tuple[str, ...] = ()
    filled: bool = False
    whole_text: bool = False
    crops: bool = False
    one_mask: bool = False
    ends: bool = False
    pads: tuple[str, ...] = ()
    counts: str = ""
    columns: bool = False
    flat: bool = False
    sound: bool = False
    alone: bool = False
    uneven: bool = False
    rotary: bool = True
    hands: tuple[tuple[int, ...], ...] = ()
    deaf: str = ""
    closed: str = ""

    @property
    def enterable(self) -> bool:
        """Return whether methods act in its attention calls through the override."""
        return self.calls != UNET and bool(self.blocks and self.kinds) and not self.deaf


def _apart(name: str, blocks: tuple[tuple[str, str], ...], **facts: Any) -> Family:
    return Family(name, blocks, kinds=BOTH, **facts)


def _joined(name: str, blocks: tuple[tuple[str, str], ...], order: tuple[str, ...], **facts: Any) -> Family:
    return Family(name, blocks, kinds=JOINED, order=order, **facts)


A_UNET = Family("UNet", calls=UNET, kinds=BOTH)
FAMILIES: dict[str, Family] = {
    "Flux": _joined("Flux", DOUBLE_SINGLE, TEXT_IMAGE_REFERENCES, calls=JOINT, hands=FIRST_TWO + X),
    "Chroma": _joined("Chroma", DOUBLE_SINGLE, TEXT_FIRST, calls=JOINT, hands=FIRST_TWO + X),
    "HunyuanVideo": _joined(
        "HunyuanVideo",
        DOUBLE_SINGLE,
        TEXT_REFERENCES_IMAGE,
        calls=JOINT,
        whole_text=True,
        one_mask=True,
        hands=FIRST_TWO + X,
    ),
    "Hunyuan3Dv2": _joined(
        "Hunyuan3D 2", DOUBLE_SINGLE, TEXT_FIRST, told=False, flat=True, rotary=False, hands=FIRST_TWO + X
    ),
    "SingleStreamDiT": _joined(
        "Krea2", (("single", "blocks"),), TEXT_IMAGE_REFERENCES, calls=JOINT, patch=2, whole_text=True, hands=X
    ),
    "QwenImageTransformer2DModel": _joined(
        "Qwen-Image", (("double", "transformer_blocks"),), TEXT_IMAGE_REFERENCES, calls=JOINT_INPUT, hands=SECOND_FIRST
    ),
    "MageFlowTransformer2DModel": _joined(
        "Mage-Flow", (("double", "transformer_blocks"),), TEXT_IMAGE_REFERENCES, calls=JOINT_INPUT, hands=SECOND_FIRST
    ),
    "JoyImageTransformer3DModel": _joined("JoyImage", (("double", "double_blocks"),), IMAGE_FIRST, hands=FIRST_TWO),
    "LensTransformer2DModel": _joined(
        "Lens", (("double", "transformer_blocks"),), IMAGE_FIRST, patch=1, hands=SECOND_FIRST
    ),
    "NextDiT": _joined(
        "Lumina",
        (("double", "layers"),),
        TEXT_FIRST,
        whole_text=True,
        ends=True,
        pads=("cap_embedder", "cap_pad_token"),
        hands=X,
    ),
    "OmniGen2Transformer2DModel": _joined(
        "Omnigen2",
        (("single", "layers"),),
        TEXT_REFERENCES_IMAGE,
        told=False,
        whole_text=True,
        ends=True,
        counts="rope_embedder.rope_embedder",
        hands=X,
    ),
    "BooguTransformer2DModel": _joined(
        "Boogu",
        (("double", "double_stream_layers"), ("single", "single_stream_layers")),
        TEXT_REFERENCES_IMAGE,
        told=False,
        whole_text=True,
        ends=True,
        counts="rope_embedder.rope_embedder",
        hands=FIRST_TWO + X,
    ),
    "Ideogram4Transformer2DModel": _joined(
        "Ideogram 4", (("single", "layers"),), TEXT_FIRST, patch=1, told=False, hands=X
    ),
    "HiDreamImageTransformer2DModel": _joined(
        "HiDream",
        (("double", "double_stream_blocks"), ("single", "single_stream_blocks")),
        IMAGE_FIRST,
        told=False,
        hands=FIRST_THIRD + X,
    ),
    "OpenAISignatureMMDITWrapper": _joined(
        "SD3", (("double", "joint_blocks"),), TEXT_FIRST, told=False, rotary=False, hands=FIRST_TWO
    ),
    "MMDiT": _joined(
        "AuraFlow",
        (("double", "double_layers"), ("single", "single_layers")),
        TEXT_FIRST,
        front=8,
        told=False,
        rotary=False,
        hands=FIRST_TWO + X,
    ),
    "CogVideoXTransformer3DModel": _joined(
        "CogVideoX", (("double", "blocks"),), TEXT_FIRST, told=False, hands=FIRST_TWO
    ),
    "AsymmDiTJoint": _joined("Mochi", (("double", "blocks"),), IMAGE_FIRST, told=False, crops=True, hands=FIRST_THIRD),
    "PixDiT_T2I": _joined(
        "PixelDiT", (("double", "patch_blocks"),), TEXT_FIRST, told=False, whole_text=True, hands=FIRST_TWO
    ),
    "MiniMaxH3Model": _joined(
        "MiniMax H3",
        (("block", "blocks"),),
        TEXT_REFERENCES_IMAGE,
        told=False,
        sound=True,
        alone=True,
        uneven=True,
        hands=X,
    ),
    "Anima": _apart("Anima", (("block", "blocks"),), calls=HIDDEN, filled=True, columns=True, hands=X),
    "MiniTrainDIT": _apart("Cosmos-Predict2", (("block", "blocks"),), calls=HIDDEN, columns=True, hands=X),
    "GeneralDIT": _apart("Cosmos", (("block", "blocks"),), told=False, whole_text=True, hands=X),
    "WanAnimate2Model": Family("Wan Animate 2", (("double", "blocks"),), closed=BY_FRAME),
    "CausalWanModel": Family("CausalWan", (("double", "blocks"),), closed=CACHED),
    "WanModel": _apart("Wan", (("double", "blocks"),), calls=AFTER, beside=("vace_blocks",), columns=True, hands=X),
    "LTXAVModel": _apart("LTX-2", (("block", "transformer_blocks"),), patch=1, told=False, sound=True, hands=X),
    "LTXVModel": _apart("LTX-Video", (("block", "transformer_blocks"),), patch=1, told=False, hands=X),
    "Kandinsky5": _apart("Kandinsky 5", (("double", "visual_transformer_blocks"),), whole_text=True, hands=X),
    "LatentSeqMMFlowModel": Family("TripoSplat", (("block", "blocks"),), told=False, closed=NO_PICTURE),
    "Trellis2": Family("Trellis 2", closed=NO_PICTURE),
    "HiDreamO1Transformer": Family("HiDream-O1", closed=LANGUAGE),
    "ACEStepTransformer2DModel": Family("ACE-Step", (("block", "transformer_blocks"),), told=False, closed=NO_PICTURE),
    "AudioDiffusionTransformer": Family("Stable Audio", closed=NO_PICTURE),
    "StageB": Family("Stable Cascade"),
    "StageC": Family("Stable Cascade"),
    "PixArtMS": Family("PixArt", (("block", "blocks"),), hands=X, deaf=DEAF),
    "HunYuanDiT": Family("Hunyuan-DiT", (("block", "blocks"),), hands=X, deaf=DEAF),
    "HunYuanDiTPlain": Family("Hunyuan3D 2.1", (("block", "blocks"),), hands=X, deaf=DEAF),
    "ErnieImageModel": Family("Ernie", (("single", "layers"),), hands=X, deaf=DEAF),
    "AceStepConditionGenerationModel": Family("ACE-Step 1.5", deaf=DEAF),
    "MiniMaxMusic3DiT": Family("MiniMax Music 3", deaf=DEAF),
    "NaDiT": Family("SeedVR2", deaf=DEAF),
}
HEADS = ("num_heads", "n_heads", "heads", "num_attention_heads", "n_local_heads")
DIM_HEADS = ("head_dim", "dim_head", "headdim", "attention_head_dim", "d_head")
WIDTHS = ("hidden_size", "hidden_dim", "dim")
OPTIONS = "transformer_options"  # the parameter by which blocks get them


def family_of(model: Patcher) -> Family:
    """Return the family of a model patcher's model; see `family_of_net`."""
    return family_of_net(model.model.diffusion_model)


def is_unet(model: Patcher) -> bool:
    """Return whether a model is a UNet, whose blocks stand around skip connections."""
    return family_of(model).calls == UNET


def family_of_net(net: Any) -> Family:
    """Return the family of a network, by its class or else by its structure."""
    if hasattr(net, "input_blocks") and hasattr(net, "output_blocks"):
        return A_UNET
    names = [base.__name__ for base in type(net).__mro__]
    return next((FAMILIES[name] for name in names if name in FAMILIES), None) or _by_structure(names[0], net)


def _by_structure(name: str, net: Any) -> Family:
    """Return a row for a network that nobody has written down: its longest list of blocks that get the options."""
    lists = [(child, key) for key, child in getattr(net, "_modules", {}).items() if isinstance(child, nn.ModuleList)]
    blocks = [(len(child), key) for child, key in lists if len(child) and takes_options(child[0])]
    return Family(name, (("block", max(blocks)[1]),), kinds=BOTH, told=False) if blocks else Family(name)


def takes_options(block: nn.Module) -> bool:
    """Return whether the forward of a block has a parameter for the options of a call, whatever is patched over it."""
    return OPTIONS in inspect.signature(type(block).forward).parameters


def blocks_of(model: Any, family: Family) -> Iterator[tuple[str, int, Any]]:
    """Yield block type, number and module of each transformer block outside UNets, in the order they run."""
    for block_type, attribute in family.blocks:
        found = getattr(model, attribute, ())
        some = found.values() if isinstance(found, nn.ModuleDict) else found
        yield from ((block_type, number, block) for number, block in enumerate(some))


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
