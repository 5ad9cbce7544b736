"""The names that diffusers gives to the parameters of a latent diffusion UNet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
OUTSIDE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def unet_to_diffusers(keys: Iterable[str]) -> dict[str, str]:
    """Return {diffusers key: LDM key} for the state-dict keys of a UNet in LDM layout."""
    names = sorted(keys)
    blocks = {**dict(_input_places(names)), **dict(_output_places(names))}
    mapped = ((_translate(name, blocks), name) for name in names)
    return {there: here for there, here in mapped if there is not None}


def _parts(names: Iterable[str], room: str) -> dict[int, dict[int, set[str]]]:
    """Return {block: {layer: what its keys go on with}} of a room of blocks."""
    found: dict[int, dict[int, set[str]]] = {}
    for name in names:
        match = re.match(rf"{room}\.(\d+)\.(\d+)\.(\w+)", name)
        if match:
            found.setdefault(int(match[1]), {}).setdefault(int(match[2]), set()).add(match[3])
    return found


def _input_places(names: list[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield each input block with its level and place on it; a downsampler ends its level."""
    level, place = 0, 0
    for number, layers in sorted(_parts(names, "input_blocks").items()):
        if number == 0:
            continue
        yield f"input_blocks.{number}", (level, place)
        place += 1
        if "op" in layers[0]:
            level, place = level + 1, 0


def _output_places(names: list[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield each output block with its level and place on it; an upsampler ends its level."""
    level, place = 0, 0
    for number, layers in sorted(_parts(names, "output_blocks").items()):
        yield f"output_blocks.{number}", (level, place)
        place += 1
        if any("conv" in kinds for kinds in layers.values()):
            level, place = level + 1, 0


def _translate(name: str, blocks: dict[str, tuple[int, int]]) -> str | None:
    for ours, theirs in OUTSIDE.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    match = re.fullmatch(r"((?:in|out)put_blocks\.\d+|middle_block)\.(\d+)\.(.+)", name)
    if match is None:
        return None
    block, layer, rest = match[1], int(match[2]), match[3]
    if block == "middle_block":
        return _middle(layer, rest)
    level, place = blocks[block]
    side = "down" if block.startswith("input") else "up"
    if rest.startswith(("op.", "conv.")):
        return f"{side}_blocks.{level}.{side}samplers.0.conv.{rest.rpartition('.')[2]}"
    if layer == 0:
        return f"{side}_blocks.{level}.resnets.{place}.{_resnet(rest)}"
    return f"{side}_blocks.{level}.attentions.{place}.{rest}"


def _middle(layer: int, rest: str) -> str:
    if layer == 1:
        return f"mid_block.attentions.0.{rest}"
    return f"mid_block.resnets.{layer // 2}.{_resnet(rest)}"


def _resnet(rest: str) -> str:
    part, _, end = rest.rpartition(".")
    return f"{RESNET[part]}.{end}"
