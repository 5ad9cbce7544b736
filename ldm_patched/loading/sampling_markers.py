"""What a model predicts and on which noise levels, read from a file as ComfyUI reads it.

SDXL files say it with entries that no network computes with; SD2 files in the spread of one bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..sampling.latent_formats import SDXLPlayground25

V_PREDICTION_SPREAD = 0.09
VELOCITY = {"prediction": "v_prediction"}

Settings = dict[str, Any]  # fields of ModelConfig


def _playground(markers: Mapping[str, Any]) -> Settings:
    noise = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
    return {"prediction": "edm", "continuous": noise, "latent_format": SDXLPlayground25()}


def _cosxl(markers: Mapping[str, Any]) -> Settings:
    ends = {"sigma_min": 0.002} | {
        end: float(markers[f"edm_vpred.{end}"]) for end in ("sigma_min", "sigma_max") if f"edm_vpred.{end}" in markers
    }
    return {**VELOCITY, "continuous": ends}


# the first whose markers are all there
SDXL_MARKERS: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Settings]], ...] = (
    (("edm_mean", "edm_std"), _playground),
    (("edm_vpred.sigma_max",), _cosxl),
    (("v_pred", "ztsnr"), lambda markers: {**VELOCITY, "zsnr": True}),
    (("v_pred",), lambda markers: VELOCITY),
)


def sampling_of(family: str, channels: int, markers: Mapping[str, Any], spread: float | None) -> Settings:
    """Return what differs from noise prediction on trained steps.

    Args:
        channels: of the UNet's input.
        markers: the tensors among which SDXL's markers lie.
        spread: standard deviation of the last output transformer's first norm bias.
    """
    if family == "sdxl":
        return next((read(markers) for names, read in SDXL_MARKERS if all(n in markers for n in names)), {})
    # SD2 for inpainting may have the wide bias too, and predicts noise
    wide = family == "sd2" and channels == 4 and (spread or 0.0) > V_PREDICTION_SPREAD
    return VELOCITY if wide else {}
