"""Run workflows with ComfyUI: `python comfyui_child.py JOB.pt RESULT.pt`, ComfyUI on PYTHONPATH.

A job is {"models": folder, "graphs": {name: graph}, "unet": inputs}; the result is what `graph.outcomes` gives.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(1, str(Path(__file__).parent))


def call(name: str, inputs: dict[str, Any]) -> tuple[Any, ...]:
    """Run one node."""
    import nodes

    cls = nodes.NODE_CLASS_MAPPINGS[name]
    answer = getattr(cls(), cls.FUNCTION)(**inputs)
    return tuple(getattr(answer, "args", answer))


@torch.inference_mode()
def main(job_path: str, result_path: str) -> None:
    """Load a job, run it and save the latents."""
    from comfy.cli_args import args

    args.cpu = True
    import folder_paths
    from graph import outcomes

    import nodes

    job = torch.load(job_path, weights_only=True)
    for kind in ("checkpoints", "controlnet", "loras"):
        folder_paths.add_model_folder_path(kind, str(Path(job["models"]) / kind))
    folder_paths.set_input_directory(str(Path(job["models"]) / "input"))
    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    torch.save(outcomes(job["graphs"], call, job["unet"]), result_path)


if __name__ == "__main__":
    main(*sys.argv[1:])
