"""The VAE of diffusers' layout under the names of single-file checkpoints."""

from __future__ import annotations

import re

from .diffusers_keys import RESNET_BACK
from .weights import Source, Weights, WeightView

ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}
VIDEO = {
    ".spatial_res_block.": ".",
    ".time_mixer.mix_factor": ".mix_factor",
    "decoder.time_conv_out.": "decoder.conv_out.time_mix_conv.",
}
REST = {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut"}


def vae_from_diffusers(weights: Weights) -> WeightView:
    """Return diffusers' AutoencoderKL in the layout of single files, where linear layers are 1x1 convolutions."""
    numbers = [int(match[1]) for key in weights.shapes if (match := re.match(r"decoder\.up_blocks\.(\d+)\.", key))]
    top = max(numbers, default=0)
    sources = {_over_time(_name(key, top)): _source(weights, key) for key in weights.shapes}
    return WeightView(weights, sources, getattr(weights, "prefix", ""))


def _over_time(name: str) -> str:
    """Rename the layers over the frames of a video VAE."""
    for theirs, ours in VIDEO.items():
        name = name.replace(theirs, ours)
    return re.sub(r"\.temporal_res_block\.(\w+)\.", lambda found: f".time_stack.{RESNET_BACK[found[1]]}.", name)


def _name(key: str, top: int) -> str:
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d)\.(.+)", key):
        if match[2] == "resnets":
            return f"{match[1]}.mid.block_{int(match[3]) + 1}.{_rest(match[4])}"
        part, _, end = match[4].rpartition(".")
        return f"{match[1]}.mid.attn_1.{ATTENTION[part]}.{end}"
    if match := re.fullmatch(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(.+)", key):
        level = int(match[3]) if match[2] == "down" else top - int(match[3])
        return f"{match[1]}.{match[2]}.{level}.{_block(match[4])}"
    return _rest(key)


def _block(rest: str) -> str:
    rest = re.sub(r"^(down|up)samplers\.0\.", r"\1sample.", rest)
    return _rest(re.sub(r"^resnets\.", "block.", rest))


def _rest(key: str) -> str:
    return ".".join(REST.get(part, part) for part in key.split("."))


def _source(weights: Weights, key: str) -> Source:
    shape = weights.shapes[key]
    linear = len(shape) == 2 and ".attentions." in key
    return Source(key, shape=(*shape, 1, 1) if linear else None)
