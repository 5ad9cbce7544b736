"""Sample a UNet in core's areas and in Tiled Diffusion's tiles behind nodes of ours: `tiles_child.py RESULT.json`.

PATCHBAY_PACKS, where it is set, is a folder of pack folders. The result has, for each kind of tiles and order of the
nodes, how far methods under a mask are from the mask of all and of nothing, and those without a mask from other tiles.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

(result,) = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import comfy.sample  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.attach import attach  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.style_aligned import StyleAligned  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight  # noqa: E402
from attention_patchbay.tests.contract.beside import HOST, apart, unet  # noqa: E402
from attention_patchbay.tests.unets import draw  # noqa: E402

import nodes  # noqa: E402

# Two tiles of 16 pixels, beside each other
HEIGHT, WIDTH, TILE = 16, 32, 16
POSITIVE, NEGATIVE = ([[draw(seed, 1, 7, 16), {}]] for seed in (1, 2))
AREAS = [[POSITIVE[0][0], {"area": (TILE, TILE, 0, left)}] for left in (0, TILE)]
Model = Any
Node = Callable[[Model], Model]
EVERYWHERE = torch.ones(1, HEIGHT, WIDTH)
LEFT = EVERYWHERE.clone()
LEFT[..., TILE:] = 0.0
MASKED: dict[str, Callable[[torch.Tensor], Any]] = {
    "words": lambda mask: WordMask((1, 2), mask, 7),
    "regions": lambda mask: RegionalPrompt((Region(draw(7, 1, 5, 16), 1 - mask),)),
}
UNMASKED = {
    "weight": WordWeight((1, 2), 3.0, 7),
    "style": StyleAligned(),
    "reference": Reference(draw(9, 1, 4, TILE, TILE)),
}


def tiles(kind: str, batch: int) -> Node:
    """Return Tiled Diffusion with tiles that do not overlap, so many of them in one call."""
    node = nodes.NODE_CLASS_MAPPINGS["TiledDiffusion"]
    return lambda model: node().apply(model, kind, 8 * TILE, 8 * TILE, 0, batch)[0]


def sample(model: Model, positive: Any = POSITIVE) -> torch.Tensor:
    noise = draw(0, 2, 4, HEIGHT, WIDTH)
    settings = {"denoise": 1.0, "seed": 0, "disable_pbar": True}
    latent = torch.zeros_like(noise)
    out: torch.Tensor = comfy.sample.sample(
        model, noise, 1, 4.0, "euler", "normal", positive, NEGATIVE, latent, **settings
    )
    return out


def masked(base: Model, cut: Node, positive: Any, first: bool, make: Callable[[torch.Tensor], Any]) -> dict[str, float]:
    def under(mask: torch.Tensor) -> torch.Tensor:
        method = make(mask)
        return sample(cut(attach(base, method, HOST)) if first else attach(cut(base), method, HOST), positive)

    half, whole, nothing = under(LEFT), under(EVERYWHERE), under(EVERYWHERE * 0)
    return {
        "left": apart(half[..., :TILE], whole[..., :TILE]),
        "right": apart(half[..., TILE:], nothing[..., TILE:]),
        "effect": apart(whole[..., TILE:], nothing[..., TILE:]),
    }


def main() -> dict[str, Any]:
    base = unet()
    plain = sample(base)
    pack = Path(os.environ.get("PATCHBAY_PACKS", ".")).resolve() / "ComfyUI-TiledDiffusion"
    loaded = pack.is_dir() and asyncio.run(nodes.load_custom_node(str(pack)))
    cuts: dict[str, tuple[Node, Any]] = {"areas": (lambda model: model, AREAS)}
    if loaded:
        for kind in ("MultiDiffusion", "Mixture of Diffusers"):
            cuts |= {f"{kind} {batch}": (tiles(kind, batch), POSITIVE) for batch in (1, 4)}
    rows = [
        {"tiles": name, "ours": ours, "ours first": first, **masked(base, cut, positive, first, make)}
        for name, (cut, positive) in cuts.items()
        for ours, make in MASKED.items()
        for first in (True, False)
    ]
    found = {"tiled diffusion": loaded, "masked": rows, "unmasked": unmasked(base) if loaded else {}}
    return {**found, "plain": apart(sample(base), plain)}


def unmasked(base: Model) -> dict[str, dict[str, float]]:
    """Compare tiles in one call with tiles one after the other, and both orders of the nodes."""
    one, together = tiles("MultiDiffusion", 1), tiles("MultiDiffusion", 4)
    cut = sample(together(base))
    spots = tiles("SpotDiffusion", 4)
    found = {}
    for name, method in UNMASKED.items():
        out = sample(together(attach(base, method, HOST)))
        found[name] = {
            "by itself": apart(out, sample(one(attach(base, method, HOST)))),
            "other order": apart(out, sample(attach(together(base), method, HOST))),
            "effect": apart(out, cut),
            "spots": apart(sample(spots(attach(base, method, HOST))), sample(spots(base))),
        }
    return found


Path(result).write_text(json.dumps(main()))
