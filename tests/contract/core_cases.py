"""Calls of core nodes over many widget values, the same for ComfyUI and for the embedded host; needs torch alone.

A tensor is written as a `T` of its shape, so that a case is plain data; `made` draws it.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST = 40  # cases of a node


@dataclass(frozen=True)
class T:
    """A tensor of uniform numbers, or of normal ones, or of whole ones."""

    shape: tuple[int, ...]
    seed: int = 0
    kind: str = "uniform"

    def draw(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        if self.kind == "normal":
            return torch.randn(self.shape, generator=generator)
        if self.kind == "blocks":  # of 8 pixels, for what looks at neighbours
            small = [max(1, side // 8) if 0 < i < 3 else side for i, side in enumerate(self.shape)]
            found = torch.rand(small, generator=generator)
            for dim in (1, 2):
                found = found.repeat_interleave(-(-self.shape[dim] // found.shape[dim]), dim)
            return found[:, : self.shape[1], : self.shape[2]]
        if self.kind == "sigmas":
            return torch.rand(self.shape, generator=generator).mul(14).sort(descending=True).values
        drawn = torch.rand(self.shape, generator=generator)
        if self.kind == "muted":  # near black sRGB makes large differences of small ones
            return 0.3 + 0.4 * drawn
        return drawn.round() if self.kind == "whole" else drawn


def made(value: Any) -> Any:
    """Return a value with its tensors drawn."""
    if isinstance(value, T):
        return value.draw()
    if isinstance(value, dict):
        return {name: made(one) for name, one in value.items()}
    if isinstance(value, list):
        return [made(one) for one in value]
    return value


def of(node: str, **choices: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the cases of a node: every combination of the values in tuples, or some of them."""
    lists = [value if isinstance(value, tuple) else (value,) for value in choices.values()]
    every = list(itertools.product(*lists))
    if len(every) > MOST:
        every = random.Random(node).sample(every, MOST)
    return [(node, dict(zip(choices, values, strict=True))) for values in every]


PICTURE = T((2, 24, 32, 3))
OTHER = T((1, 16, 40, 3), 1)
ALPHA = T((1, 24, 32, 4), 2)
GREY = T((2, 24, 32, 1), 2)
MASK = T((2, 24, 32), 3)
FLAT = T((24, 32), 4)
METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
CROPS = ("disabled", "center")

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
PROMPT = [[T((1, 7, 8), 20, "normal"), {"pooled_output": T((1, 6), 21, "normal"), "strength": 0.5}]]
BARE = [[T((1, 9, 8), 22, "normal"), {}], [T((1, 4, 8), 23, "normal"), {"area": [1, 2, 3, 4]}]]
CONDITIONINGS = [
    *of(
        "ConditioningAverage",
        conditioning_to=(PROMPT, BARE),
        conditioning_from=(PROMPT, BARE),
        conditioning_to_strength=(0.0, 0.4, 1.0),
    ),
    *of("ConditioningMultiply", conditioning=(PROMPT, BARE), multiplier=(-2.0, 0.0, 1.5)),
    *of(
        "ConditioningSetAreaPercentage",
        conditioning=(PROMPT, BARE),
        width=(0.3, 1.0),
        height=0.5,
        x=(0.0, 0.2),
        y=0.1,
        strength=(0.0, 2.0),
    ),
    *of("ConditioningSetAreaStrength", conditioning=(PROMPT, BARE), strength=(0.0, 2.0)),
    *of("ConditioningSetArea", conditioning=BARE, width=(64, 100), height=72, x=(0, 20), y=8, strength=(1.0, 2.0)),
    *of(
        "ConditioningSetMask",
        conditioning=BARE,
        mask=(MASK, FLAT),
        strength=1.5,
        set_cond_area=("default", "mask bounds"),
    ),
    *of("ConditioningZeroOut", conditioning=(PROMPT, BARE)),
    *of("ConditioningSetTimestepRange", conditioning=(PROMPT, BARE), start=(0.0, 0.2), end=(0.5, 1.0)),
    *of(
        "ConditioningSetPropertiesAndCombine",
        cond=PROMPT,
        cond_NEW=BARE,
        strength=1.5,
        set_cond_area=("default", "mask bounds"),
        mask=(MASK, FLAT, None),
        timesteps=(None, (0.2, 0.7)),
    ),
    *of(
        "PairConditioningSetProperties",
        positive_NEW=PROMPT,
        negative_NEW=BARE,
        strength=0.5,
        set_cond_area="default",
        mask=MASK,
    ),
    *of("PairConditioningCombine", positive_A=PROMPT, negative_A=BARE, positive_B=BARE, negative_B=PROMPT),
    *of("ConditioningTimestepsRange", start_percent=0.2, end_percent=(0.6, 1.0)),
    *of("ConditioningCombine", conditioning_1=PROMPT, conditioning_2=BARE),
    *of("ConditioningConcat", conditioning_to=(PROMPT, BARE), conditioning_from=(PROMPT, BARE)),
]
TEXT = "Hello, (red) hello\nblue 12-34"
FORMULAS = (
    "a + b",
    "a*b - -b % 3 ** 2",
    " a // b / 0.5\n",
    "a > b",
    "1 < a <= 7 and not b == 2",
    "a and b or 3",
    "b if a > 100 else -a",
    "max(values) + min(a, b) + sum(values) + sum(a, b)",
    "values[0] + values[-1]",
    "sum(values[1:])",
    "round(a / 3, 2) + round(a / b)",
    "pow(a, b) + sqrt(abs(b)) + ceil(a) + floor(2.5)",
    "log(a) + log2(a) + log10(a) + sin(b) + cos(b) + tan(b)",
    "log(a, 10)",
    "int(2.9) + float(b)",
    "True + a",
    "a & 3 | 8 ^ 1",
    "7 << 2 >> 1",
    "~5",
    "2 in values",
    "2 ** 2000 % 7",
    "10 ** 400",
    "9 ** 9 ** 9",
    "pow(2, 4001)",
    "1e308 * 10",
    "a / 0",
    "c + 1",
    "",
    "a +",
    "__import__('os')",
    "values",
    "[1, 2]",
    "lambda: 1",
    "a if",
    "(" * 300 + "a" + ")" * 300,
)
VALUES = [
    *of("ComfyNumberConvert", value=(3, 2.7, -2.7, "12", " 1.5 ", "1e3", "nan", "x", "", True, False, float("inf"))),
    *of(
        "ResolutionSelector", aspect_ratio=("1:1 (Square)", "21:9 (Ultrawide)"), megapixels=(0.1, 1.7), multiple=(8, 60)
    ),
    *of("PreviewAny", source=("a", 1, 2.5, True, None, [1, {"a": "\u00e9"}], 1e30)),
    *of("PrimitiveInt", value=(0, -5)),
    *of("ComfySwitchNode", switch=(True, False), on_true="a", on_false="b"),
    *of("CustomCombo", choice="b", index=(0, 3)),
    *of("StringConcatenate", string_a=TEXT, string_b=("", "b"), delimiter=("", ", ")),
    *of("StringSubstring", string=TEXT, start=(0, 3, -4), end=(5, -1, 99)),
    *of("StringLength", string=(TEXT, "")),
    *of("CaseConverter", string=TEXT, mode=("UPPERCASE", "lowercase", "Capitalize", "Title Case")),
    *of("StringTrim", string="  a b \n", mode=("Both", "Left", "Right")),
    *of("StringReplace", string=TEXT, find=("l", ""), replace=("L", "")),
    *of("StringContains", string=TEXT, substring=("RED", "red"), case_sensitive=(True, False)),
    *of(
        "StringCompare",
        string_a=TEXT,
        string_b=("hello", "34", TEXT),
        mode=("Starts With", "Ends With", "Equal"),
        case_sensitive=(True, False),
    ),
    *of(
        "RegexMatch",
        string=TEXT,
        regex_pattern=("HELLO$", "^blue", "(", "red.*12"),
        case_insensitive=(True, False),
        multiline=(True, False),
        dotall=(True, False),
    ),
    *of(
        "RegexExtract",
        string=TEXT,
        regex_pattern=("hello", "(h)(e)", r"(\d+)-(\d+)", "(", "z", r"(z)?l"),
        mode=("First Match", "All Matches", "First Group", "All Groups"),
        case_insensitive=(True, False),
        multiline=False,
        dotall=False,
        group_index=(0, 1, 2),
    ),
    *of("RegexReplace", string=TEXT, regex_pattern=("hello", "(h)(e)", "("), replace=("x", r"\2"), count=(0, 1)),
    *of("ComfyMathExpression", expression=FORMULAS, values={"a": 7, "b": 2}),
    *of("ComfyMathExpression", expression=FORMULAS, values={"a": 2.5, "b": True}),
    *of("JsonExtractString", json_string=('{"a": 1, "b": null, "c": [1]}', "[1]", "{"), key=("a", "b", "c", "d")),
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
SIGMAS = T((8,), 30, "sigmas")
ENDS = {"sigma_max": (14.6, 80.0), "sigma_min": (0.03, 0.5)}
SCHEDULES = [
    *of("KarrasScheduler", steps=(1, 5, 20), **ENDS, rho=(1.0, 7.0)),
    *of("ExponentialScheduler", steps=(1, 5, 20), **ENDS),
    *of("PolyexponentialScheduler", steps=(1, 5, 20), **ENDS, rho=(0.5, 1.0, 3.0)),
    *of("VPScheduler", steps=(1, 5, 20), beta_d=(19.9, 5.0), beta_min=0.1, eps_s=(0.001, 0.1)),
    *of("AlignYourStepsScheduler", model_type=("SD1", "SDXL", "SVD"), steps=(1, 5, 10, 25), denoise=(0.0, 0.3, 1.0)),
    *of("SplitSigmas", sigmas=SIGMAS, step=(0, 3, 7, 99)),
    *of("SplitSigmasDenoise", sigmas=SIGMAS, denoise=(0.0, 0.3, 1.0)),
    *of("FlipSigmas", sigmas=SIGMAS),
    *of("SetFirstSigma", sigmas=SIGMAS, sigma=(0.0, 99.5)),
    *of(
        "ExtendIntermediateSigmas",
        sigmas=SIGMAS,
        steps=(1, 2, 5),
        start_at_sigma=(-1.0, 8.0),
        end_at_sigma=(0.0, 4.0),
        spacing=("linear", "cosine", "sine"),
    ),
    *of("ManualSigmas", sigmas=("1, 0.5", "14.6,2 .5;0", "-1 1e3", "")),
]
CASES = [*SIZES, *PARTS, *FILTERS, *COMPOSITING, *MASKS, *LATENTS, *CONDITIONINGS, *VALUES, *BATCHES, *SCHEDULES]
