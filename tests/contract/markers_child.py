"""Say what ComfyUI reads about sampling: `python markers_child.py JOBS.pt RESULT.json`, ComfyUI on PYTHONPATH."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch


def main(jobs_path: str, result_path: str) -> None:
    """Detect each state dict the way ComfyUI's two loaders do."""
    from comfy.cli_args import args

    args.cpu = True
    import comfy.model_base
    import comfy.model_detection as detection
    import comfy.utils

    def described(state: dict[str, Any], loader: str) -> dict[str, Any]:
        prefix = detection.unet_prefix_from_state_dict(state)
        if loader == "unet":
            state = comfy.utils.state_dict_prefix_replace(state, {prefix: ""}, filter_keys=True) or state
            prefix = ""
        config = detection.model_config_from_unet(state, prefix)
        kind = config.model_type(state, prefix)
        sampling = comfy.model_base.model_sampling(config, kind)
        latent = config.latent_format.process_in(torch.ones(1, 4, 1, 1))
        return {
            "kind": kind.name,
            "ends": [float(sampling.sigmas[0]), float(sampling.sigmas[-1])],
            "sigma_data": float(sampling.sigma_data),
            "latent": latent.flatten().tolist(),
        }

    saved = torch.load(jobs_path, weights_only=True)
    found = []
    for job in saved["jobs"]:
        shapes = saved["unets"][job["unet"]]
        state = {job["prefix"] + key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        found.append(described({**state, **job["markers"]}, job["loader"]))
    with open(result_path, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
