"""How far an image is from another: in levels of 255, decibels, and structural similarity."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

WINDOW = 7  # pixels of the similarity's window


def differences(pairs: Sequence[tuple[Path, Path]]) -> dict[str, float | None]:
    """Return the difference over several pairs of images: the largest `max`, else means; of equal sizes only."""
    found = [part for part in (difference(*pair) for pair in pairs) if part]
    if not found:
        return {}
    means = {name: _mean([part.get(name) for part in found]) for name in found[0]}
    return means | {"max": max(part["max"] or 0.0 for part in found)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def difference(path: Path, other: Path) -> dict[str, float | None]:
    """Return `max` and `mean` in levels of 255, `psnr` in dB (None for equal images) and `ssim`; empty sizes differ.

    SSIM is that of Wang et al. (2004) over colour channels. LPIPS is added where the package `lpips` is installed.
    """
    from PIL import Image
    from skimage.metrics import structural_similarity

    first, second = (np.asarray(Image.open(file).convert("RGB"), dtype=np.float64) for file in (path, other))
    if first.shape != second.shape:
        return {}
    error = np.abs(first - second)
    square = float((error**2).mean())
    found: dict[str, float | None] = {"max": float(error.max()), "mean": float(error.mean())}
    found["psnr"] = 10.0 * math.log10(255.0**2 / square) if square else None
    if min(first.shape[:2]) >= WINDOW:
        found["ssim"] = float(structural_similarity(first, second, win_size=WINDOW, channel_axis=2, data_range=255.0))
    return found | _lpips(first, second)


def _lpips(first: Any, second: Any) -> dict[str, float | None]:
    model = lpips_model()
    if model is None:
        return {}
    import torch

    images = (torch.from_numpy(x).float().permute(2, 0, 1)[None] / 127.5 - 1.0 for x in (first, second))
    with torch.inference_mode():
        return {"lpips": float(model(*images))}


@functools.cache
def lpips_model() -> Any:
    """Return the LPIPS metric of Zhang et al. (2018) on AlexNet; None where it or its weights are missing."""
    try:
        import lpips

        return lpips.LPIPS(net="alex", verbose=False)
    except ModuleNotFoundError:
        return None
    except (OSError, RuntimeError) as error:  # no network to fetch its weights, or a torchvision that does not fit
        logging.warning("LPIPS is left out: %s", error)
        return None
