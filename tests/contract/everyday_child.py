"""Everyday models in ComfyUI and in the embedded host: `everyday_child.py RESULT.json`, in ComfyUI's Python.

Writes, for each comparison, the largest difference between the two.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file

(result,) = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True
import folder_paths  # noqa: E402

import nodes  # noqa: E402

asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))

from attention_patchbay.headless.api.folders import Folders  # noqa: E402
from attention_patchbay.headless.api.session import Session, entered  # noqa: E402
from attention_patchbay.headless.engine.catalog import catalog  # noqa: E402

OURS = catalog()
DIFFERENCES: dict[str, float] = {}


def theirs(name: str, **inputs: Any) -> tuple[Any, ...]:
    cls = nodes.NODE_CLASS_MAPPINGS[name]
    answer = cls.execute(**inputs).result if hasattr(cls, "GET_SCHEMA") else getattr(cls(), cls.FUNCTION)(**inputs)
    return tuple(answer)


def ours(name: str, **inputs: Any) -> tuple[Any, ...]:
    return OURS[name].execute(**inputs).args


def compare(what: str, mine: torch.Tensor, real: torch.Tensor) -> None:
    assert mine.shape == real.shape, f"{what}: {tuple(mine.shape)}, not {tuple(real.shape)}"
    DIFFERENCES[what] = float((mine.float() - real.float()).abs().max())


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def esrgan() -> dict[str, torch.Tensor]:
    """Return a small ESRGAN of random weights that doubles both sides."""
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    torch.manual_seed(0)
    return RRDBNet(num_filters=8, num_blocks=1, scale=2).state_dict()


def gligen(dims: tuple[int, ...], key_dim: int) -> dict[str, torch.Tensor]:
    """Return a GLIGEN of random weights with a gated layer for each number of channels."""
    torch.manual_seed(1)
    from comfy.gligen import GatedSelfAttentionDense, PositionNet

    state = {}
    places = ("input_blocks.1", "input_blocks.11", "middle_block.1", "output_blocks.3")
    for place, dim in zip(places, dims, strict=True):
        heads = 8 if key_dim == 768 else dim // 64
        layer = GatedSelfAttentionDense(dim, key_dim, heads, dim // heads)
        between = "" if place.startswith("middle") else "1."
        name = f"{place}.{between}transformer_blocks.0.fuser."
        state |= {name + key: torch.randn_like(value) * 0.1 for key, value in layer.state_dict().items()}
    net = PositionNet(key_dim, key_dim)
    return state | {f"position_net.{key}": torch.randn_like(value) for key, value in net.state_dict().items()}


def compare_upscaling(folder: Path) -> None:
    save_file(esrgan(), folder / "upscale_models" / "tiny.safetensors")
    (real,), (mine,) = (node("UpscaleModelLoader", model_name="tiny.safetensors") for node in (theirs, ours))
    for size in ((1, 20, 31, 3), (2, 16, 16, 3), (1, 530, 40, 3)):
        picture = rand(*size).abs().clamp(0, 1)
        answers = (
            n("ImageUpscaleWithModel", upscale_model=m, image=picture) for n, m in ((ours, mine), (theirs, real))
        )
        (a,), (b,) = answers
        compare(f"upscaling {size}", a, b)


def compare_gligen(folder: Path) -> None:
    for key_dim in (768, 128):
        save_file(gligen((64, 128, 192, 64), key_dim), folder / "gligen" / f"g{key_dim}.safetensors")
        (real,), (mine,) = (node("GLIGENLoader", gligen_name=f"g{key_dim}.safetensors") for node in (theirs, ours))
        boxes = [(rand(1, key_dim, seed=i), 3 + i, 4, i, 2) for i in range(3)]
        for what, params in (("boxes", boxes), ("none", [])):
            patches = [
                one.model.set_position((2, 4, 16, 16), params, torch.device("cpu"))
                if params
                else one.model.set_empty((2, 4, 16, 16), torch.device("cpu"))
                for one in (mine, real)
            ]
            for index, dim in enumerate((64, 128, 192, 64)):
                x = rand(2, 9, dim, seed=index)
                a, b = (patch(x.clone(), {"transformer_index": index}) for patch in patches)
                compare(f"gligen {key_dim} {what} {index}", a, b)


class Stub:
    """A model that keeps the functions that nodes put on it."""

    def __init__(self, channels: int = 8) -> None:
        unet = {"model_channels": channels}
        self.model = SimpleNamespace(model_config=SimpleNamespace(unet=unet, unet_config=unet))
        self.kept: list[Any] = []

    def clone(self) -> Stub:
        return Stub(self.model.model_config.unet["model_channels"])

    def get_model_object(self, name: str) -> Any:
        return None

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("set_model_"):
            raise AttributeError(name)
        return self.kept.append


def functions(name: str, **inputs: Any) -> list[Any]:
    """Return what a node puts on a model in the embedded host, and in ComfyUI."""
    return [node(name, model=Stub(), **inputs)[0].kept[0] for node in (ours, theirs)]


def compare_patches() -> None:
    for name in ("FreeU", "FreeU_V2"):
        pair = functions(name, b1=1.3, b2=1.4, s1=0.9, s2=0.2)
        for channels in (16, 32, 24):
            h, skip = rand(2, channels, 10, 13), rand(2, 7, 10, 13, seed=1)
            (a, c), (b, d) = (patch(h.clone(), skip.clone(), {}) for patch in pair)
            compare(f"{name} {channels} backbone", a, b)
            compare(f"{name} {channels} skip", c, d)
    x, cond, uncond = (rand(2, 4, 8, 8, seed=seed) for seed in range(3))
    for multiplier in (0.0, 0.7, 1.0):
        shared = {"input": x, "cond": cond, "uncond": uncond, "cond_scale": 7.0, "sigma": torch.tensor([3.0, 0.5])}
        a, b = (function(dict(shared)) for function in functions("RescaleCFG", multiplier=multiplier))
        compare(f"RescaleCFG {multiplier}", a, b)
    sampling = SimpleNamespace(sigma_min=torch.tensor(0.03), timestep=lambda sigma: sigma.log() * 100)
    extra = {"model": SimpleNamespace(inner_model=SimpleNamespace(model_sampling=sampling))}
    for sigmas in ([14.0, 3.0, 0.5, 0.0], [10.0, 4.0, 1.0]):
        for strength in (0.0, 0.4, 1.0):
            options = {**extra, "sigmas": torch.tensor(sigmas)}
            call = (torch.tensor([3.0]), rand(1, 1, 8, 8).abs())
            pair = functions("DifferentialDiffusion", strength=strength)
            a, b = (function(*call, extra_options=options) for function in pair)
            compare(f"DifferentialDiffusion {sigmas} {strength}", a, b)


with tempfile.TemporaryDirectory() as place, torch.no_grad():
    models = Path(place)
    for kind in ("upscale_models", "gligen"):
        (models / kind).mkdir()
        folder_paths.add_model_folder_path(kind, str(models / kind))
    with entered(Session(Folders(models=models))):
        compare_upscaling(models)
        compare_gligen(models)
    compare_patches()
Path(result).write_text(json.dumps(DIFFERENCES))
