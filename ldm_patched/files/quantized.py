"""Weights that a file holds in fewer bits: fp8 with scales is read, every other layout is refused by name."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from .checkpoint import Checkpoint, CheckpointError

KIND = ".comfy_quant"  # its tensor holds JSON: {"format": "float8_e4m3fn", ...}
KINDS_IN_METADATA = "_quantization_metadata"  # the same for all layers: {"layers": {name: {"format": ...}}}
READ = ("float8_e4m3fn", "float8_e5m2")
UNREADABLE = "an unreadable format"

# what the keys of layouts that are not read look like; the first that fits a key is its name
LAYOUTS = {
    r"\.quant_state\.bitsandbytes__nf4$": "nf4 of bitsandbytes",
    r"\.quant_state\.bitsandbytes__fp4$": "fp4 of bitsandbytes",
    r"\.(SCB|weight_format)$": "int8 of bitsandbytes",
    r"\.(absmax|quant_map|nested_absmax|nested_quant_map)$": "4 bit of bitsandbytes",
    r"\.(wscales|smooth_factor|smooth|lora_up_smooth)$": "SVDQuant of nunchaku",
    r"\.(qweight|qzeros|g_idx)$": "GPTQ or AWQ",
    r"\.weight\._(data|scale|shift)$": "optimum-quanto",
    r"\.weight_s_(rel|channel)$": "asym_w4a8_int8 of comfy-kitchen",
    r"\.weight_scale_2$": "nvfp4 of comfy-kitchen",
    r"\.(pre_quant_scale|weight_scale_inv|weight_zero_point)$": "scales of another kind than one factor for a row",
}


def refuse_quantized(file: Checkpoint) -> None:
    """Refuse a file with weights in a layout that is not computed with.

    Raises CheckpointError, which names the layouts and in how many layers they are.
    """
    found = Counter(_declared(file))
    if not found:
        found = Counter(name for key in file.shapes for name in [_layout(key)] if name)
    if found:
        layouts = ", ".join(f"{name} ({count} tensors)" for name, count in found.most_common())
        raise CheckpointError(
            f"quantised as {layouts}; of such files only fp8, with or without scales, is read here: "
            "take a float16, bfloat16 or fp8 version of the model, or run it in ComfyUI"
        )


def _declared(file: Checkpoint) -> Iterator[str]:
    """Yield the format of each layer whose format the file names and that is not read."""
    layers = [(key.removesuffix(KIND), _json(file[key].numpy().tobytes())) for key in file.shapes if key.endswith(KIND)]
    in_metadata = _json(file.metadata.get(KINDS_IN_METADATA, "{}")).get("layers", {})
    layers += in_metadata.items() if isinstance(in_metadata, dict) else [("", {})]
    for _, config in layers:
        kind = str(config.get("format", UNREADABLE)) if isinstance(config, dict) else UNREADABLE
        if kind not in READ:
            yield f"{kind} of comfy-kitchen" if kind != UNREADABLE else kind


def _json(text: bytes | str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _layout(key: str) -> str | None:
    return next((name for pattern, name in LAYOUTS.items() if re.search(pattern, key)), None)
