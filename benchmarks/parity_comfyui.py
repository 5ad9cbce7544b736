"""Compare latents with ComfyUI's: the same checkpoint files, the same workflows in API format, 20 steps."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.headless.engine.catalog import catalog
from graph import node, outcomes, text_to_image
from PIL import Image
from random_checkpoint import UNETS, write
from torch import Tensor

BOUND = 1e-3  # of the latent, largest absolute difference
UNET_BOUND = 1e-5  # relative error of one call
EDITS = {"sd15_inpaint": ("InpaintModelConditioning", True), "sd15_ip2p": ("InstructPixToPixConditioning", False)}
SAMPLERS = (
    *("euler", "euler_ancestral", "heun", "dpm_2", "dpmpp_2s_ancestral", "dpmpp_2m", "dpmpp_sde", "dpmpp_2m_sde"),
    *("ddim", "uni_pc", "uni_pc_bh2", "lcm"),
)
SCHEDULERS = ("normal", "karras", "exponential", "simple", "sgm_uniform", "ddim_uniform", "beta")
FAMILIES = ("sd15", "sd15_inpaint", "sd15_ip2p", "sd21_v", "sdxl", "sdxl_refiner")
PICTURE = "fox.png"

Graphs = dict[str, dict[str, Any]]


def graphs_of(family: str, file: str) -> Graphs:
    """Return the workflows to run with one checkpoint."""
    if family in EDITS:
        return {family: with_picture(text_to_image(file), *EDITS[family])}
    if family != "sd15_narrow":
        return {family: text_to_image(file)}
    size = {"width": 64, "height": 64, "cfg": 2.0}
    return {
        f"{sampler} {scheduler}": text_to_image(file, sampler_name=sampler, scheduler=scheduler, **size)
        for sampler in SAMPLERS
        for scheduler in SCHEDULERS
    }


def with_picture(graph: dict[str, Any], name: str, with_mask: bool) -> dict[str, Any]:
    """Return a workflow whose model also sees a picture."""
    sample = graph.pop("sample")
    mask = {"mask": ["picture", 1], "noise_mask": True} if with_mask else {}
    prompts = {"positive": ["positive", 0], "negative": ["negative", 0]}
    graph["picture"] = node("LoadImage", image=PICTURE)
    graph["edit"] = node(name, **prompts, vae=["load", 2], pixels=["picture", 0], **mask)
    links = {"positive": ["edit", 0], "negative": ["edit", 1], "latent_image": ["edit", 2]}
    graph["sample"] = {**sample, "inputs": sample["inputs"] | links}
    return graph


def write_picture(folder: Path) -> None:
    """Write a picture whose right half is transparent, which is the mask."""
    pixels = np.random.default_rng(0).integers(0, 256, (128, 136, 4), dtype=np.uint8)
    pixels[:, :68, 3], pixels[:, 68:, 3] = 255, 0
    folder.mkdir()
    Image.fromarray(pixels).save(folder / PICTURE)


@torch.inference_mode()
def ours(models: str, graphs: Graphs, unet: dict[str, Any]) -> dict[str, Tensor]:
    """Run the workflows in the embedded host."""
    nodes = catalog()
    with entered(Session(Folders(models=Path(models), input=Path(models) / "input"))):
        return outcomes(graphs, lambda name, inputs: nodes[name].execute(**inputs).args, unet)


def theirs(models: str, graphs: Graphs, unet: dict[str, Any]) -> dict[str, Tensor]:
    """Run the workflows in ComfyUI."""
    child = Path(__file__).with_name("comfyui_child.py")
    with tempfile.TemporaryDirectory() as folder:
        job, result = Path(folder) / "job.pt", Path(folder) / "result.pt"
        torch.save({"models": models, "graphs": graphs, "unet": unet}, job)
        command = [os.environ.get("COMFYUI_PYTHON", sys.executable), str(child), str(job), str(result)]
        env = {**os.environ, "PYTHONPATH": os.environ["COMFYUI_PATH"]}
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"ComfyUI failed: {done.stderr[-2000:]}")
        return torch.load(result, weights_only=True)


def unet_inputs(family: str) -> dict[str, Any]:
    """Return inputs for one call of a family's UNet: a 16x16 latent, batch 2, 77 tokens."""
    config, generator = UNETS[family], torch.Generator().manual_seed(0)
    shapes = {"x": (2, config["in_channels"], 16, 16), "context": (2, 77, config["context_dim"])}
    shapes |= {"y": (2, config["adm_in_channels"])} if "adm_in_channels" in config else {}
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**drawn, "timesteps": torch.tensor([20.0, 800.0])}


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a process of its own, whose memory is free again afterwards."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def results(families: tuple[str, ...]) -> Iterator[tuple[str, float, float]]:
    """Yield every comparison; both hosts run in processes of their own, one after the other."""
    for family in families:
        with tempfile.TemporaryDirectory() as models:
            file = Path(models) / "checkpoints" / f"{family}.safetensors"
            apart(write, family, file)
            write_picture(Path(models) / "input")
            graphs = graphs_of(family, file.name)
            unet = unet_inputs(family)
            mine = apart(ours, models, graphs, unet)
            real = theirs(models, graphs, unet)
        error = (mine["UNet"] - real["UNet"]).norm() / real["UNet"].norm()
        yield f"UNet {family}", float(error), UNET_BOUND
        for name in graphs:
            yield f"latent {name}", float((mine[name] - real[name]).abs().max()), BOUND
