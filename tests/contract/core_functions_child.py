"""Hash the functions of ComfyUI that this pack builds on: `core_functions_child.py RESULT.json`.

Indentation, empty lines and lines of comment do not count, so that every Python gives the same hash; null stands for a
function that is gone.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import sys
from pathlib import Path

(result,) = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

FUNCTIONS = (
    "comfy.ldm.modules.attention:wrap_attn",
    "comfy.ldm.modules.attention:CrossAttention.forward",
    "comfy.ldm.modules.attention:BasicTransformerBlock.forward",
    "comfy.ldm.modules.attention:SpatialTransformer.forward",
    "comfy.ldm.modules.diffusionmodules.openaimodel:UNetModel._forward",
    "comfy.ldm.flux.layers:DoubleStreamBlock.forward",
    "comfy.ldm.flux.layers:SingleStreamBlock.forward",
    "comfy.ldm.wan.model:WanSelfAttention.forward",
    "comfy.ldm.qwen_image.model:Attention.forward",
    "comfy.ldm.cosmos.predict2:Block.forward",
    "comfy.ldm.lumina.model:JointAttention.forward",
    "comfy.model_base:BaseModel.apply_model",
    "comfy.model_base:BaseModel._apply_model",
    "comfy.model_patcher:ModelPatcher.clone",
    "comfy.model_patcher:ModelPatcher.set_model_patch_replace",
    "comfy.model_patcher:create_model_options_clone",
    "comfy.patcher_extension:merge_nested_dicts",
    "comfy.samplers:_calc_cond_batch",
    "comfy.samplers:cfg_function",
    "comfy.samplers:CFGGuider.outer_sample",
    "comfy.samplers:CFGGuider.inner_sample",
    "execution:validate_inputs",
)


def hashed(name: str) -> str | None:
    """Return the hash of the source of `module:function`; None where there is none."""
    module, _, path = name.partition(":")
    try:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        lines = map(str.strip, inspect.getsource(inspect.unwrap(found)).splitlines())
    except (ImportError, AttributeError):
        return None
    source = "\n".join(line for line in lines if line and not line.startswith("#"))
    return hashlib.sha256(source.encode()).hexdigest()[:16]


import comfyui_version  # noqa: E402

found = {"version": comfyui_version.__version__, "functions": {name: hashed(name) for name in FUNCTIONS}}
Path(result).write_text(json.dumps(found))
