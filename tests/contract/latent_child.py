"""Run ComfyUI's latent and VAE nodes: `python latent_child.py JOB.pt RESULT.pt`, ComfyUI on PYTHONPATH."""

from __future__ import annotations

import sys
from typing import Any

import torch


def main(job_path: str, result_path: str) -> None:
    """Load a job, run the node of every case in it and save what each gives."""
    from comfy.cli_args import args

    args.cpu = True
    args.fp32_vae = True
    import comfy.sd

    import nodes

    job = torch.load(job_path, weights_only=True)
    vae = comfy.sd.VAE(sd=job["vae"], config={"params": {"ddconfig": job["config"], "embed_dim": 4}})

    def run(name: str, inputs: dict[str, Any]) -> Any:
        node = nodes.NODE_CLASS_MAPPINGS[name]
        if "vae" in node.INPUT_TYPES()["required"]:
            inputs = {**inputs, "vae": vae}
        return getattr(node(), node.FUNCTION)(**inputs)[0]

    with torch.inference_mode():  # as ComfyUI runs its nodes
        torch.save({key: run(*case) for key, case in job["cases"].items()}, result_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
