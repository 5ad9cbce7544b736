"""Nodes that change latents, and batches of latents, pictures and masks."""

from __future__ import annotations

from typing import Any

from .case import ALPHA, CROPS, FLAT, MASK, OTHER, PICTURE, T, of

NORMAL = T((3, 4, 16, 24), 12, "normal")
LATENT = {"samples": NORMAL}
MASKED = {"samples": NORMAL, "noise_mask": T((2, 1, 30, 40), 13)}
PLACED = {"samples": NORMAL, "noise_mask": T((1, 1, 30, 40), 13), "batch_index": [5, 2, 3]}
SMALL = {"samples": T((2, 4, 9, 12), 14, "normal"), "batch_index": [1, 4]}
SQUARE = {"samples": T((1, 4, 16, 16), 15, "normal")}
LATENTS = [
    *of("LatentFromBatch", samples=(LATENT, MASKED, PLACED), batch_index=(0, 1, 2, 9, -1, -9), length=(1, 2, 9)),
    *of("RepeatLatentBatch", samples=(LATENT, MASKED, PLACED, SMALL), amount=(1, 2, 3)),
    *of("LatentBatch", samples1=(LATENT, PLACED, SMALL), samples2=(LATENT, SMALL, SQUARE)),
    *of("LatentRotate", samples=(LATENT, MASKED), rotation=("none", "90 degrees", "180 degrees", "270 degrees")),
    *of("LatentFlip", samples=LATENT, flip_method=("x-axis: vertically", "y-axis: horizontally")),
    *of("LatentCrop", samples=LATENT, width=(64, 999), height=(72, 999), x=(0, 65, 999), y=(0, 999)),
    *of(
        "LatentComposite",
        samples_to=LATENT,
        samples_from=({"samples": T((3, 4, 9, 12), 1, "normal")}, {"samples": T((1, 4, 16, 24), 2, "normal")}),
        x=(0, 16, 120),
        y=(0, 24, 88),
        feather=(0, 8, 32, 160),
    ),
    *of(
        "LatentCompositeMasked",
        destination=(LATENT, PLACED),
        source=(SMALL, SQUARE),
        x=(0, 40, 180),
        y=(0, 64),
        resize_source=(False, True),
        mask=(None, MASK, FLAT),
    ),
    *of(
        "LatentConcat",
        samples1=LATENT,
        samples2=(LATENT, {"samples": T((1, 4, 16, 24), 3)}),
        dim=("x", "-x", "y", "-y"),
    ),
    *of("LatentBlend", samples1=(LATENT, SMALL), samples2=(LATENT, SQUARE), blend_factor=(0, 0.3, 1)),
    *of("LatentAdd", samples1=(LATENT, PLACED, SMALL), samples2=(LATENT, SMALL, SQUARE)),
    *of("LatentSubtract", samples1=(LATENT, PLACED, SMALL), samples2=(LATENT, SMALL, SQUARE)),
    *of("LatentMultiply", samples=(LATENT, PLACED), multiplier=(-2.0, 0.0, 1.5)),
    *of("LatentInterpolate", samples1=(SQUARE, LATENT), samples2=(SQUARE, SMALL), ratio=(0.0, 0.4, 1.0)),
    *of(
        "LatentUpscale", samples=LATENT, upscale_method=("bislerp", "area"), width=(0, 100), height=(0, 72), crop=CROPS
    ),
    *of("SetLatentNoiseMask", samples=LATENT, mask=(MASK, FLAT)),
]


def resizing(**choice: Any) -> list[tuple[str, dict[str, Any]]]:
    cases = of("", **{name.removeprefix("_"): value for name, value in choice.items()})
    how = tuple(made for _, made in cases)
    return of("ResizeImageMaskNode", input=(PICTURE, ALPHA, MASK), resize_type=how, scale_method=("area", "bicubic"))


BATCHES = [
    *of("BatchImagesNode", images=({"image0": PICTURE}, {"image0": PICTURE, "image1": OTHER, "image2": ALPHA})),
    *of("BatchMasksNode", masks=({"mask0": MASK}, {"mask0": MASK, "mask1": T((1, 9, 20))})),
    *of("BatchLatentsNode", latents=({"latent0": LATENT}, {"latent0": PLACED, "latent1": SMALL, "latent2": SQUARE})),
    *resizing(resize_type="scale dimensions", width=(0, 20), height=(0, 31), crop=CROPS),
    *resizing(resize_type="scale by multiplier", multiplier=(0.5, 1.3)),
    *resizing(resize_type="scale longer dimension", longer_size=(11, 60)),
    *resizing(resize_type="scale shorter dimension", shorter_size=(11, 60)),
    *resizing(resize_type="scale width", width=(0, 45)),
    *resizing(resize_type="scale height", height=45),
    *resizing(resize_type="scale total pixels", megapixels=0.01),
    *resizing(resize_type="match size", match=(OTHER, T((1, 9, 20))), crop=CROPS),
    *resizing(resize_type="scale to multiple", multiple=(1, 7, 8, 10, 99)),
    *of(
        "ResizeImageMaskNode",
        input=PICTURE,
        resize_type={"resize_type": "scale width", "width": 40},
        scale_method="lanczos",
    ),
]
