"""What a UNet configuration means, and which ones are refused."""

from __future__ import annotations

from collections.abc import Sequence


def check_config(
    levels: int,
    blocks: Sequence[int],
    num_heads: int,
    num_head_channels: int,
    disable_self_attentions: Sequence[bool] | None,
    num_attention_blocks: Sequence[int] | None,
) -> None:
    """Refuse a UNet configuration that names no heads or has a list of another length than its levels."""
    if num_heads == -1 and num_head_channels == -1:
        raise ValueError("set num_heads or num_head_channels")
    lists = {
        "num_res_blocks": blocks,
        "disable_self_attentions": disable_self_attentions,
        "num_attention_blocks": num_attention_blocks,
    }
    for name, values in lists.items():
        if values is not None and len(values) != levels:
            raise ValueError(f"{name} has {len(values)} entries for the {levels} levels of channel_mult")


def expand_depth(depth: int | Sequence[int], blocks: Sequence[int]) -> list[int]:
    """Return the transformer depth after each input residual block."""
    depths = [depth] * sum(blocks) if isinstance(depth, int) else list(depth)
    if len(depths) != sum(blocks):
        raise ValueError(f"transformer_depth has {len(depths)} entries for {sum(blocks)} residual blocks")
    return depths


def output_depth(depths_in: Sequence[int], blocks: Sequence[int]) -> list[int]:
    """Return the transformer depths of the output, each level as deep as the end of that level's input."""
    depths: list[int] = []
    end = 0
    for count in blocks:
        end += count
        depths += [depths_in[end - 1]] * (count + 1)
    return depths
