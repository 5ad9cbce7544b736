"""The names that diffusers gives to the parameters of a latent diffusion UNet, and the way back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
RESNET_BACK = {theirs: ours for ours, theirs in RESNET.items()}
VIDEO_RESNET = {"spatial_res_block.": "", "temporal_res_block.": "time_stack."}
VIDEO_ATTENTION = {
    "temporal_transformer_blocks.": "time_stack.",
    "time_pos_embed.linear_1": "time_pos_embed.0",
    "time_pos_embed.linear_2": "time_pos_embed.2",
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
OVER_TIME = (".time_stack.", ".time_mixer.", ".time_pos_embed.")


def unet_to_diffusers(keys: Iterable[str]) -> dict[str, str]:
    """Return {diffusers key: LDM key} for the state-dict keys of a UNet in LDM layout, without layers over time."""
    names = sorted(key for key in keys if not any(part in key for part in OVER_TIME))
    blocks = {**dict(_input_places(names)), **dict(_output_places(names))}
    mapped = ((_translate(name, blocks), name) for name in names)
    return {there: here for there, here in mapped if there is not None}


def _parts(names: Iterable[str], blocks: str) -> dict[int, dict[int, set[str]]]:
    """Return {block: {layer: what its keys go on with}} of a list of blocks, such as input_blocks."""
    found: dict[int, dict[int, set[str]]] = {}
    for name in names:
        match = re.match(rf"{blocks}\.(\d+)\.(\d+)\.(\w+)", name)
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
    return f"{RESNET.get(part, part)}.{end}"


def unet_from_diffusers(keys: Iterable[str]) -> dict[str, str]:
    """Return {LDM key: diffusers key} for the state-dict keys of a UNet in diffusers' layout."""
    names = sorted(keys)
    levels = {side: _levels(names, side) for side in ("down", "up")}
    mapped = ((_back(name, levels), name) for name in names)
    return {here: there for here, there in mapped if here is not None}


class _Level(NamedTuple):
    """A level of diffusers' UNet: its first block's number, its blocks, and the upsampler's place in the last one."""

    start: int
    blocks: int
    upsampler: int


def _levels(names: list[str], side: str) -> dict[int, _Level]:
    """Return the levels of one side; block 0 of the input side is a convolution."""
    parts: dict[int, dict[str, int]] = {}
    for name in names:
        if match := re.match(rf"{side}_blocks\.(\d+)\.(\w+)\.(\d+)\.", name):
            found = parts.setdefault(int(match[1]), {})
            found[match[2]] = max(found.get(match[2], 0), int(match[3]) + 1)
    levels, number = {}, 1 if side == "down" else 0
    for level, found in sorted(parts.items()):
        levels[level] = _Level(number, found["resnets"], 2 if "attentions" in found else 1)
        number += found["resnets"] + found.get("downsamplers", 0)
    return levels


def _back(name: str, levels: dict[str, dict[int, _Level]]) -> str | None:
    for ours, theirs in OUTSIDE.items():
        if name.startswith(theirs + "."):
            return ours + name.removeprefix(theirs)
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        layer = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{layer}.{_inner(match[1], match[3])}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|(?:down|up)samplers)\.(\d+)\.(.+)", name)
    if match is None:
        return None
    side, level, kind, place, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    at = levels[side][level]
    if kind == "downsamplers":
        return f"input_blocks.{at.start + at.blocks}.0.op.{rest.rpartition('.')[2]}"
    if kind == "upsamplers":
        return f"output_blocks.{at.start + at.blocks - 1}.{at.upsampler}.conv.{rest.rpartition('.')[2]}"
    blocks = "input_blocks" if side == "down" else "output_blocks"
    return f"{blocks}.{at.start + place}.{0 if kind == 'resnets' else 1}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    if kind == "attentions":
        for theirs, ours in VIDEO_ATTENTION.items():
            rest = rest.replace(theirs, ours)
        return rest
    start = ""
    for theirs, ours in VIDEO_RESNET.items():
        if rest.startswith(theirs):
            start, rest = ours, rest.removeprefix(theirs)
    part, _, end = rest.rpartition(".")
    return f"{start}{RESNET_BACK.get(part, part)}.{end}"
