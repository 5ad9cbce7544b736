"""Nodes that put pictures over each other, and make and change masks."""

from __future__ import annotations

from .case import ALPHA, FLAT, MASK, OTHER, PICTURE, T, of

DUFF = (
    "ADD CLEAR DARKEN DST DST_ATOP DST_IN DST_OUT DST_OVER LIGHTEN MULTIPLY OVERLAY SCREEN SRC SRC_ATOP SRC_IN SRC_OUT "
    "SRC_OVER XOR"
)
COMPOSITING = [
    *of(
        "ImageCompositeMasked",
        destination=(PICTURE, ALPHA),
        source=(OTHER, ALPHA, T((1, 8, 9, 3), 8)),
        x=(0, 5, 30, 99),
        y=(0, 3, 99),
        resize_source=(False, True),
        mask=(None, MASK, FLAT),
    ),
    *of("SplitImageWithAlpha", image=(PICTURE, ALPHA)),
    *of("JoinImageWithAlpha", image=(PICTURE, ALPHA, OTHER), alpha=(MASK, FLAT, T((3, 5, 6)))),
    *of(
        "PorterDuffImageComposite",
        source=(PICTURE, OTHER),
        source_alpha=(MASK, T((1, 9, 9), 9)),
        destination=T((2, 20, 30, 3), 10),
        destination_alpha=(T((2, 20, 30), 11), MASK),
        mode=tuple(DUFF.split()),
    ),
]
MASKS = [
    *of("MaskToImage", mask=(MASK, FLAT)),
    *of("ImageToMask", image=(PICTURE, ALPHA), channel=("red", "green", "blue", "alpha")),
    *of("ImageColorToMask", image=T((1, 6, 7, 3), 0, "whole"), color=(0, 255, 0xFF00FF, 0xFFFFFF)),
    *of("CropMask", mask=(MASK, FLAT), x=(0, 7, 99), y=(0, 20), width=(1, 99), height=(3, 99)),
    *of("FeatherMask", mask=(MASK, FLAT), left=(0, 4, 99), top=(0, 1), right=(0, 7, 30), bottom=(0, 5, 24)),
    *of(
        "GrowMask",
        mask=(MASK, FLAT, T((1, 20, 20), 1, "whole")),
        expand=(0, 1, 5, -1, -3, 99),
        tapered_corners=(True, False),
    ),
    *of("ThresholdMask", mask=(MASK, FLAT), value=(0.0, 0.5, 1.0)),
    *of(
        "MaskComposite",
        destination=(MASK, FLAT),
        source=(MASK, T((1, 10, 12), 5)),
        x=(0, 9),
        y=(0, 20),
        operation=("multiply", "add", "subtract", "and", "or", "xor"),
    ),
]
