"""Weights that ComfyUI makes of LoRA files: `python lora_child.py JOBS.pt RESULT.pt`, ComfyUI on PYTHONPATH."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

import torch


def main(jobs_path: str, result_path: str) -> None:
    """Apply each file to its weights, and list ComfyUI's names for UNets and text encoders."""
    from comfy.cli_args import args

    args.cpu = True
    import comfy.lora
    import comfy.lora_convert

    def applied(job: dict[str, Any]) -> dict[str, Any]:
        skipped: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: skipped.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger().addHandler(handler)
        patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(job["file"])), job["names"])
        weights = {
            key: comfy.lora.calculate_weight(
                [(job["strength"], patch, 1.0, None, None)], job["weights"][key].clone(), key
            )
            for key, patch in patches.items()
        }
        logging.getLogger().removeHandler(handler)
        return {"weights": weights, "skipped": skipped}

    def unet_names(model: dict[str, Any]) -> dict[str, str]:
        state = {key: None for key in model["keys"]}
        fake = SimpleNamespace(state_dict=lambda: state, model_config=SimpleNamespace(unet_config=model["config"]))
        return comfy.lora.model_lora_keys_unet(fake, {})

    def clip_names(keys: list[str]) -> dict[str, str]:
        return comfy.lora.model_lora_keys_clip(SimpleNamespace(state_dict=lambda: dict.fromkeys(keys)), {})

    saved = torch.load(jobs_path, weights_only=True)
    result = {
        "applied": [applied(job) for job in saved["jobs"]],
        "unets": [unet_names(model) for model in saved["unets"]],
        "clips": [clip_names(keys) for keys in saved["clips"]],
    }
    torch.save(result, result_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
