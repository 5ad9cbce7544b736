"""Write tiny transformers as the files that ComfyUI's loaders read: `python tiny_files_child.py FOLDER/RESULT.json`.

ComfyUI and this pack are on PYTHONPATH. What a file does not tell has the size that ComfyUI gives every model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(result: str) -> None:
    """Write a Flux of 3 double and 12 single blocks and a Wan of 12 blocks beside the result, which has their names."""
    from comfy.cli_args import args

    args.cpu = True
    from attention_patchbay.tests.contract.tiny_families import FLUX, IMAGE, VIDEO, WAN, Tiny, load
    from safetensors.torch import save_file

    flux = {**FLUX, "hidden_size": 256, "axes_dim": [16, 56, 56], "mlp_ratio": 4.0, "depth": 3}
    wan = {**WAN, "num_layers": 12, "freq_dim": 256, "text_dim": 4096}
    tiny = {"flux": Tiny("Flux", {**flux, "depth_single_blocks": 12}, IMAGE), "wan": Tiny("WAN21_T2V", wan, VIDEO)}
    for name, one in tiny.items():
        weights = load(one).model.diffusion_model.state_dict()
        whole = {key: weight.contiguous() for key, weight in weights.items()}
        save_file(whole, Path(result).with_name(f"tiny-{name}.safetensors"))
    Path(result).write_text(json.dumps(list(tiny)))


if __name__ == "__main__":
    main(*sys.argv[1:])
