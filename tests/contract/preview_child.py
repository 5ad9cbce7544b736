"""Compare the picture so far with ComfyUI's preview, of every latent format: `python preview_child.py RESULT.json`.

ComfyUI and this pack are on PYTHONPATH. Writes for each format with colours the shape of the pictures and the largest
difference of the first one, in levels of 255; `unlike` is what a latent of other channels gives.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch


def main(result: str) -> None:
    """Look at a random latent in each format."""
    from comfy.cli_args import args

    args.cpu = True
    import numpy as np
    from attention_patchbay.nodes._comfyui import picture_so_far
    from comfy import latent_formats
    from latent_preview import Latent2RGBPreviewer

    def seen(form: Any, latent: torch.Tensor) -> torch.Tensor | None:
        return picture_so_far({"model": SimpleNamespace(latent_format=form), "denoised": latent})  # type: ignore[typeddict-item]

    found: dict[str, Any] = {}
    for name, cls in inspect.getmembers(latent_formats, inspect.isclass):
        if not issubclass(cls, latent_formats.LatentFormat) or cls().latent_rgb_factors is None:
            continue
        form = cls()
        size = {2: (8, 6), 3: (3, 8, 6)}[form.latent_dimensions]
        latent = torch.randn(2, form.latent_channels, *size, generator=torch.Generator().manual_seed(0))
        pictures = seen(form, latent)
        if pictures is None:  # ComfyUI's preview of such a format fails: it has colours for fewer channels
            found[name] = None
            continue
        factors = form.latent_rgb_factors, form.latent_rgb_factors_bias, form.latent_rgb_factors_reshape
        theirs = torch.from_numpy(np.asarray(Latent2RGBPreviewer(*factors).decode_latent_to_preview(latent)).copy())
        apart = ((pictures[0] * 255).int() - theirs.int()).abs().max()
        found[name] = [list(latent.shape), list(pictures.shape), int(apart)]
    found["unlike"] = seen(latent_formats.SD15(), torch.zeros(1, 1, 900))
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
