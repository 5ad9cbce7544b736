"""The networks of diffusers as the patches see them: where their blocks are, and what a call of them is made of.

The class of a transformer has the name by which `addressing/families.py` knows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..patches.addressing.address import BlockId

CONTEXT = "encoder_hidden_states"
REFERENCES = "ref_latents"  # the engine's name of the references of a call, of which it reads the shapes
TEXT_MASK, TEXT_MASK_THERE = "attention_mask", "encoder_hidden_states_mask"


class Given(NamedTuple):
    """A call as the engine takes it: latent (b, c, ...), sigmas or timesteps (b,), context (b, n, c) and the rest."""

    x: Tensor
    t: Tensor
    context: Tensor | None
    rest: dict[str, Any]


class Attention(NamedTuple):
    """An attention layer: its path, the block that has it, and its kind, `self` or `cross`."""

    path: str
    block: BlockId
    kind: str


class Network(nn.Module):
    """A network of diffusers, its blocks, and the arguments of its forward."""

    latent = "hidden_states"  # the argument that is the latent
    unit: float | None = 1.0  # the timestep that stands for sigma 1; None: timesteps are those of a trained schedule
    patch_size: int | tuple[int, int, int] = 1

    def __init__(self, theirs: nn.Module) -> None:
        super().__init__()
        self.theirs = theirs

    @property
    def doubled(self) -> bool:
        """Return whether pipelines put both prompts into one call, the negative one first."""
        return False

    def attentions(self) -> Iterator[Attention]:
        """Yield each attention layer inside the blocks."""
        raise NotImplementedError

    def given(self, arguments: Mapping[str, Any]) -> Given:
        """Return what the arguments of a call are."""
        rest = dict(arguments)
        x, t = rest.pop(self.latent), rest.pop("timestep")
        # as the network itself takes a plain number
        t = torch.as_tensor(t, device=x.device, dtype=torch.float64 if isinstance(t, float) else None)
        return Given(x, t.expand(len(x)) if t.ndim == 0 else t, rest.pop(CONTEXT, None), rest)

    def arguments(self, call: Given) -> dict[str, Any]:
        """Return the arguments of a call."""
        return {self.latent: call.x, "timestep": call.t, CONTEXT: call.context, **call.rest}

    def picture(self, made: Tensor, call: Given) -> Tensor:
        """Return what the network made in the shape of the engine's latent."""
        return made

    def result(self, picture: Tensor, made: Tensor) -> Tensor:
        """Return what the network made with another picture in it."""
        return picture


# UNets


class Block(nn.Module):
    """A transformer block of a UNet, with the names of its heads that blocks of this library have."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.theirs = theirs
        self.n_heads: int = theirs.attn1.heads
        self.d_head: int = theirs.attn1.inner_dim // theirs.attn1.heads


class Layer:
    """The transformer blocks at one place of a UNet, and their path."""

    def __init__(self, theirs: Any, path: str) -> None:
        self.path = path
        self.transformer_blocks = [Block(block) for block in theirs.transformer_blocks]


class UNet(Network):
    """UNet2DConditionModel with its blocks numbered as those of checkpoint files are."""

    latent = "sample"
    unit = None

    def __init__(self, theirs: Any) -> None:
        super().__init__(theirs)
        first, *_ = widths = theirs.config.block_out_channels
        self.model_channels, self.channel_mult = first, [width // first for width in widths]
        self.input_blocks: list[list[Layer]] = [[]]  # the first is a convolution
        self.output_blocks: list[list[Layer]] = []
        for level, down in enumerate(theirs.down_blocks):
            self.input_blocks += _layers(down, f"down_blocks.{level}")
            self.input_blocks += [[]] if down.downsamplers else []
        self.middle_block = None if theirs.mid_block is None else [*_layers(theirs.mid_block, "mid_block"), []][0]
        for level, up in enumerate(theirs.up_blocks):
            self.output_blocks += _layers(up, f"up_blocks.{level}")

    @property
    def doubled(self) -> bool:
        """Return that pipelines put both prompts into one call."""
        return True

    def attentions(self) -> Iterator[Attention]:
        """Yield both attentions of each transformer block."""
        for type, number, layer in self.layers():
            for inner, module in enumerate(layer.transformer_blocks):
                path, block = f"{layer.path}.transformer_blocks.{inner}", BlockId(type, number, inner)
                found = (pair for pair in _BOTH if getattr(module.theirs, pair[0]) is not None)
                yield from (Attention(f"{path}.{name}", block, kind) for name, kind in found)

    def layers(self) -> Iterator[tuple[str, int, Layer]]:
        """Yield type and number of each block with its transformers."""
        middle = [] if self.middle_block is None else [self.middle_block]
        for type, blocks in (("input", self.input_blocks), ("middle", middle), ("output", self.output_blocks)):
            yield from ((type, number, layer) for number, block in enumerate(blocks) for layer in block)


_BOTH = (("attn1", "self"), ("attn2", "cross"))


def _layers(level: Any, path: str) -> list[list[Layer]]:
    """Return the transformers of each block of a level."""
    found = [
        [Layer(one, f"{path}.attentions.{i}")] if hasattr(one, "transformer_blocks") else []
        for i, one in enumerate(getattr(level, "attentions", ()))
    ]
    return found if path == "mid_block" else found + [[]] * (len(level.resnets) - len(found))


# Transformers


class Packed(Network):
    """A transformer that takes the latent as a sequence of patches of 2x2, (b, n, c)."""

    def size(self, rest: Mapping[str, Any]) -> tuple[int, int]:
        """Return height and width of the latent's tokens."""
        raise NotImplementedError

    def given(self, arguments: Mapping[str, Any]) -> Given:
        """Return the call with its latent as a picture (b, c, h, w) of tokens; what is behind it are references."""
        call = super().given(arguments)
        height, width = self.size(call.rest)
        own, behind = call.x.split([height * width, call.x.shape[1] - height * width], dim=1)
        picture = own.transpose(1, 2).unflatten(-1, (height, width))
        if not behind.shape[1]:
            return call._replace(x=picture)
        shape = torch.empty(1, 1, 1, behind.shape[1], device="meta")
        return call._replace(x=picture, rest={**call.rest, REFERENCES: [shape], "behind": behind})

    def arguments(self, call: Given) -> dict[str, Any]:
        """Return the arguments of a call."""
        rest = {name: given for name, given in call.rest.items() if name not in (REFERENCES, "behind")}
        x = self.packed(call.x)
        if "behind" in call.rest:
            x = torch.cat([x, call.rest["behind"]], dim=1)
        return super().arguments(call._replace(x=x, rest=rest))

    def picture(self, made: Tensor, call: Given) -> Tensor:
        """Return the picture (b, c, h, w) of a sequence, without what belongs to references."""
        height, width = call.x.shape[-2:]
        picture: Tensor = made[:, : height * width].transpose(1, 2).unflatten(-1, (height, width))
        return picture

    def result(self, picture: Tensor, made: Tensor) -> Tensor:
        """Return a sequence with another picture (b, c, h, w) in front of what belongs to references."""
        own = self.packed(picture)
        return torch.cat([own, made[: len(own), own.shape[1] :]], dim=1)

    def packed(self, picture: Tensor) -> Tensor:
        """Return a picture (b, c, h, w) as a sequence."""
        return picture.flatten(2).transpose(1, 2).contiguous()


class Flux(Packed):
    """FluxTransformer2DModel."""

    def __init__(self, theirs: Any) -> None:
        super().__init__(theirs)
        self.double_blocks = theirs.transformer_blocks
        self.single_blocks = theirs.single_transformer_blocks

    def attentions(self) -> Iterator[Attention]:
        """Yield the joint attention of each block."""
        for type, name in (("double", "transformer_blocks"), ("single", "single_transformer_blocks")):
            for number in range(len(getattr(self.theirs, name))):
                yield Attention(f"{name}.{number}.attn", BlockId(type, number), "self")

    def size(self, rest: Mapping[str, Any]) -> tuple[int, int]:
        """Return the size that the places of the latent's tokens have; those of a reference have another first id."""
        ids: Tensor = rest["img_ids"][0] if rest["img_ids"].ndim == 3 else rest["img_ids"]
        height, width = (ids[ids[:, 0] == 0][:, 1:].amax(0) + 1).long().tolist()
        return height, width

    def arguments(self, call: Given) -> dict[str, Any]:
        """Return the arguments of a call, with as many places of text as it has."""
        ids: Tensor = call.rest["txt_ids"]
        missing = (0 if call.context is None else call.context.shape[1]) - ids.shape[-2]
        places = nn.functional.pad(ids, (0, 0, 0, missing)) if missing else ids  # all of them are 0
        return super().arguments(call._replace(rest={**call.rest, "txt_ids": places}))


class QwenImageTransformer2DModel(Packed):
    """QwenImageTransformer2DModel."""

    def __init__(self, theirs: Any) -> None:
        super().__init__(theirs)
        self.transformer_blocks = theirs.transformer_blocks

    def attentions(self) -> Iterator[Attention]:
        """Yield the joint attention of each block."""
        for number in range(len(self.transformer_blocks)):
            yield Attention(f"transformer_blocks.{number}.attn", BlockId("double", number), "self")

    def size(self, rest: Mapping[str, Any]) -> tuple[int, int]:
        """Return the size of the first picture."""
        _, height, width = rest["img_shapes"][0][0]
        return height, width

    def given(self, arguments: Mapping[str, Any]) -> Given:
        """Return the call, its mask of the text under the engine's name."""
        call = super().given(arguments)
        return call._replace(rest={TEXT_MASK if name == TEXT_MASK_THERE else name: x for name, x in call.rest.items()})

    def arguments(self, call: Given) -> dict[str, Any]:
        """Return the arguments of a call."""
        rest = {TEXT_MASK_THERE if name == TEXT_MASK else name: x for name, x in call.rest.items()}
        return super().arguments(call._replace(rest=rest))


class WanBlock(nn.Module):
    """A block of Wan, with the heads that its attention does not tell."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.theirs = theirs
        self.num_heads: int = theirs.attn1.heads
        self.head_dim: int = theirs.attn1.inner_dim // theirs.attn1.heads


class WanModel(Network):
    """WanTransformer3DModel."""

    unit = 1000.0

    def __init__(self, theirs: Any) -> None:
        super().__init__(theirs)
        self.blocks = [WanBlock(block) for block in theirs.blocks]
        self.patch_size = tuple(theirs.config.patch_size)

    def attentions(self) -> Iterator[Attention]:
        """Yield both attentions of each block."""
        for number in range(len(self.blocks)):
            for name, kind in _BOTH:
                yield Attention(f"blocks.{number}.{name}", BlockId("double", number), kind)


NETWORKS: dict[str, type[Network]] = {
    "UNet2DConditionModel": UNet,
    "FluxTransformer2DModel": Flux,
    "QwenImageTransformer2DModel": QwenImageTransformer2DModel,
    "WanTransformer3DModel": WanModel,
}


def network(theirs: Any) -> Network:
    """Return a network of diffusers as the patches see it.

    Raises TypeError for one that nobody has written down.
    """
    name = type(theirs).__name__
    if name not in NETWORKS:
        raise TypeError(f"{name} cannot be patched; give {', '.join(NETWORKS)}, or a pipeline with one of them")
    return NETWORKS[name](theirs)
