"""Predictions of ComfyUI from model files: `python quantized_child.py FILES.json RESULT.pt`, ComfyUI on PYTHONPATH."""

from __future__ import annotations

import json
import sys

import torch


def main(files_path: str, result_path: str) -> None:
    """Load each file as UNETLoader does and predict once."""
    from comfy.cli_args import args

    args.cpu = True
    import comfy.model_management
    import comfy.sd

    with open(files_path, encoding="utf-8") as file:
        paths = json.load(file)
    results = []
    for path in paths:
        patcher = comfy.sd.load_diffusion_model(path)
        comfy.model_management.load_models_gpu([patcher])
        inputs = torch.load(path + ".inputs", weights_only=True)
        with torch.no_grad():
            results.append(patcher.model.apply_model(inputs["x"], inputs["sigma"], c_crossattn=inputs["context"]))
    torch.save(results, result_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
