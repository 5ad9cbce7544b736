"""Nodes that give pictures another size, cut, join and filter them."""

from __future__ import annotations

from .case import ALPHA, CROPS, GREY, METHODS, OTHER, PICTURE, T, of

SIZES = [
    *of("ImageScale", image=(PICTURE, ALPHA), upscale_method=METHODS, width=(0, 17, 64), height=(0, 33), crop=CROPS),
    *of("ImageScaleBy", image=PICTURE, upscale_method=METHODS, scale_by=(0.3, 1.0, 1.37, 2.0)),
    *of(
        "ImageScaleToTotalPixels",
        image=PICTURE,
        upscale_method=METHODS,
        megapixels=(0.01, 0.02),
        resolution_steps=(1, 8, 64),
    ),
    *of(
        "ImageScaleToMaxDimension",
        image=(PICTURE, OTHER, T((1, 40, 16, 3)), T((1, 9, 9, 3))),
        upscale_method=METHODS,
        largest_size=(7, 50),
    ),
    *of(
        "ResizeAndPadImage",
        image=(PICTURE, OTHER, ALPHA),
        target_width=(20, 41),
        target_height=(20, 64),
        padding_color=("white", "black"),
        interpolation=METHODS,
    ),
]
PARTS = [
    *of("ImageCrop", image=PICTURE, width=(1, 10, 99), height=(5, 99), x=(0, 7, 99), y=(0, 3, 99)),
    *of("ImageRotate", image=PICTURE, rotation=("none", "90 degrees", "180 degrees", "270 degrees")),
    *of("ImageFlip", image=PICTURE, flip_method=("x-axis: vertically", "y-axis: horizontally")),
    *of(
        "ImagePadForOutpaint",
        image=(PICTURE, ALPHA),
        left=(0, 8),
        top=(0, 16),
        right=(0, 24),
        bottom=(0, 8),
        feathering=(0, 1, 5, 11, 12, 40),
    ),
    *of("ImageInvert", image=(PICTURE, ALPHA)),
    *of("ImageBatch", image1=(PICTURE, OTHER, ALPHA), image2=(PICTURE, OTHER, ALPHA)),
    *of("EmptyImage", width=(1, 20), height=9, batch_size=(1, 3), color=(0, 255, 0x123456, 0xFFFFFF)),
    *of("RepeatImageBatch", image=PICTURE, amount=(1, 3)),
    *of("ImageFromBatch", image=T((4, 5, 6, 3)), batch_index=(0, 2, 3, 9, -1, -3, -9), length=(1, 2, 9)),
    *of("GetImageSize", image=(PICTURE, OTHER)),
    *of(
        "ImageStitch",
        image1=(PICTURE, OTHER),
        image2=(OTHER, ALPHA, T((3, 48, 20, 3), 5)),
        direction=("right", "down", "left", "up"),
        match_image_size=(True, False),
        spacing_width=(0, 3, 8),
        spacing_color=("white", "black", "red"),
    ),
    *of(
        "ImageStitch",
        image1=PICTURE,
        direction=("right", "down"),
        match_image_size=True,
        spacing_width=4,
        spacing_color="white",
    ),
]
FILTERS = [
    *of(
        "ImageBlend",
        image1=(PICTURE, ALPHA),
        image2=(T((2, 24, 32, 3), 7), OTHER, ALPHA),
        blend_factor=(0.0, 0.3, 1.0),
        blend_mode=("normal", "multiply", "screen", "overlay", "soft_light", "difference"),
    ),
    *of("ImageBlur", image=(PICTURE, ALPHA), blur_radius=(1, 3, 9, 24), sigma=(0.1, 1.0, 10.0)),
    *of("ImageSharpen", image=PICTURE, sharpen_radius=(1, 2, 7), sigma=(0.1, 0.5, 10.0), alpha=(0.0, 0.5, 5.0)),
    *of(
        "ImageQuantize",
        image=(T((2, 20, 27, 3), 0), T((1, 40, 48, 3), 6, "blocks")),
        colors=(1, 2, 9, 256),
        dither=("none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16"),
    ),
    *of("ImageAddNoise", image=(PICTURE, ALPHA), seed=(0, 7), strength=(0.0, 0.5, 1.0)),
    *of(
        "Canny",
        image=(PICTURE, GREY, ALPHA),
        low_threshold=(0.01, 0.2, 0.4),
        high_threshold=(0.3, 0.8, 0.99),
    ),
    *of(  # below 256 x 256 kornia blurs another way, and which of two equal neighbours is larger depends on it
        "Canny",
        image=T((1, 384, 352, 3), 1, "blocks"),
        low_threshold=(0.1, 0.4),
        high_threshold=0.8,
    ),
]
BASELINES = (
    {"source_stats": "per_frame"},
    {"source_stats": "uniform"},
    {"source_stats": "target_frame", "target_index": 1},
    {"source_stats": "target_frame", "target_index": 99},
)
MUTED = {
    "image_target": (T((2, 24, 32, 3), 0, "muted"), T((3, 8, 9, 3), 40, "muted")),
    "image_ref": (T((1, 16, 40, 3), 1, "muted"), T((2, 12, 10, 3), 41, "muted")),
}
FILTERS += [
    *of("ColorTransfer", **MUTED, method="mkl_lab", source_stats=BASELINES, strength=(1.0, 0.4)),
    *of(
        "ColorTransfer",
        **MUTED,
        method=("reinhard_lab", "histogram"),
        source_stats=BASELINES[:3],
        strength=(1.0, 2.0),
    ),
    *of(
        "ColorTransfer",
        image_target=(PICTURE, ALPHA),
        image_ref=OTHER,
        method=("reinhard_lab", "histogram"),
        source_stats=BASELINES[1],
        strength=(0.0, 1.0),
    ),
]
