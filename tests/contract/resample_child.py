"""Sample parts of a picture anew, or all of it larger, behind nodes of ours: `resample_child.py RESULT.json`.

By Ultimate SD Upscale and the detailer and iterative upscaler of Impact Pack, where PATCHBAY_PACKS has them. The
result has a row for each of them and each node of ours.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F

(result,) = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import server  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.attach import attach  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt  # noqa: E402
from attention_patchbay.ldm_patched.patches.record.archive import ARCHIVE  # noqa: E402
from attention_patchbay.tests.contract.beside import HOST, apart, unet  # noqa: E402
from attention_patchbay.tests.contract.mine import MINE  # noqa: E402
from attention_patchbay.tests.unets import draw  # noqa: E402

import nodes  # noqa: E402

POSITIVE, NEGATIVE = ([[draw(seed, 1, 7, 16), {}]] for seed in (1, 2))
HEIGHT, WIDTH, TILE = 128, 256, 128  # two tiles beside each other
PICTURE = F.interpolate(draw(3, 1, 3, 8, 16).sigmoid(), (HEIGHT, WIDTH), mode="bicubic").clamp(0, 1).movedim(1, -1)
SAMPLING = {"seed": 0, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.7}
PROMPTS = {"positive": POSITIVE, "negative": NEGATIVE}
Model = Any
LEFT = torch.zeros(1, HEIGHT, WIDTH)
LEFT[..., : WIDTH // 2] = 1.0
OURS = {name: MINE[name].method for name in ("temperature", "merging", "perturbed", "rule", "values", "skip", "free u")}
OURS |= {"regions": RegionalPrompt((Region(draw(5, 1, 5, 16), LEFT),)), "guard": MINE["guard"].method}


class Vae:
    """A VAE whose latents are the picture, eight times smaller, with its mean as the fourth channel."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        small = F.avg_pool2d(pixels[..., :3].movedim(-1, 1), 8)
        return torch.cat([small, small.mean(1, keepdim=True)], dim=1) * 2 - 1

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        return F.interpolate((latent[:, :3] / 20 + 1) / 2, scale_factor=8).clamp(0, 1).movedim(1, -1)


def tiles(model: Model, batch: int = 1, seams: str = "None") -> torch.Tensor:
    """Sample both tiles with Ultimate SD Upscale."""
    cls = nodes.NODE_CLASS_MAPPINGS["UltimateSDUpscaleNoUpscale"]
    entries = cls.INPUT_TYPES()["required"].items()
    given = {name: entry[1]["default"] for name, entry in entries if "default" in dict(*entry[1:])}
    given |= {"upscaled_image": PICTURE, "model": model, "vae": Vae(), **PROMPTS, **SAMPLING, "batch_size": batch}
    given |= {"mode_type": "Linear", "tile_width": TILE, "tile_height": TILE, "tile_padding": 0, "mask_blur": 0}
    return cls().upscale(**given, seam_fix_mode=seams)[0]


def details(model: Model) -> torch.Tensor:
    """Sample two parts of the picture with Impact Pack's detailer."""
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 40:90, 30:80] = mask[:, 40:90, 170:220] = 1.0
    (parts,) = nodes.NODE_CLASS_MAPPINGS["MaskToSEGS"].doit(mask, False, 1.5, False, 10)
    size = {"guide_size": 128, "guide_size_for": True, "max_size": 256}
    more = {"feather": 5, "noise_mask": True, "force_inpaint": True, "wildcard": "", "cycle": 1}
    given = {"image": PICTURE, "segs": parts, "model": model, "clip": None, "vae": Vae(), **PROMPTS, **SAMPLING}
    return nodes.NODE_CLASS_MAPPINGS["DetailerForEach"]().doit(**given, **size, **more)[0]


def larger(model: Model) -> torch.Tensor:
    """Sample the whole picture larger with Impact Pack's iterative upscaler."""
    provider = nodes.NODE_CLASS_MAPPINGS["PixelKSampleUpscalerProvider"]()
    (upscaler,) = provider.doit("nearest-exact", model, Vae(), **SAMPLING, **PROMPTS, use_tiled_vae=False)
    node = nodes.NODE_CLASS_MAPPINGS["IterativeImageUpscale"]()
    return node.doit(PICTURE, 1.5, 1, "", upscaler, Vae())[0]


THEIRS: dict[str, tuple[str, Callable[[Model], torch.Tensor]]] = {
    "tiles": ("ComfyUI_UltimateSDUpscale", tiles),
    "tiles at once": ("ComfyUI_UltimateSDUpscale", lambda model: tiles(model, 2)),
    "seams": ("ComfyUI_UltimateSDUpscale", lambda model: tiles(model, 1, "Half Tile")),
    "details": ("ComfyUI-Impact-Pack", details),
    "larger": ("ComfyUI-Impact-Pack", larger),
}


def load(folder: Path) -> set[str]:
    """Load the packs that are there, and return their names."""
    server.PromptServer(asyncio.new_event_loop())  # to which packs add their routes
    asyncio.run(nodes.init_builtin_extra_nodes())
    detectors = ModuleType("impact.subpack_nodes")  # Impact Pack fetches it when it is installed
    detectors.NODE_CLASS_MAPPINGS = detectors.NODE_DISPLAY_NAME_MAPPINGS = {}
    sys.modules[detectors.__name__] = detectors
    packs = sorted({pack for pack, _ in THEIRS.values()})
    return {pack for pack in packs if asyncio.run(nodes.load_custom_node(str(folder / pack)))}


def main() -> list[dict[str, Any]]:
    loaded = load(Path(os.environ["PATCHBAY_PACKS"]).resolve())
    base, rows = unet(), []
    for name, (pack, sample) in THEIRS.items():
        if pack not in loaded:
            rows.append({"theirs": name, "missing": pack})
            continue
        plain = sample(base)
        for ours, method in OURS.items():
            out = sample(attach(base, method, HOST))
            told = sorted([run for run, _ in ARCHIVE._runs.values()][-1].notes)
            rows.append({"theirs": name, "ours": ours, "effect": apart(out, plain), "told": told})
        rows.append({"theirs": name, "size": list(plain.shape), "plain": apart(sample(base), plain)})
    return rows


Path(result).write_text(json.dumps(main()))
