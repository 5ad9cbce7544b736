"""ComfyUI's core nodes that blend, blur, sharpen and quantise pictures and find their edges, for the embedded host."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..api import comfy_io as io
from .declared import Nodes
from .sampling import SEED_MAX
from .sizes import image, resized

NODES = Nodes("image/filters")
FLAT = 1e-6  # squared strength of no edge
DITHERS = ("none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16")


def _soft_light(below: Tensor, above: Tensor) -> Tensor:
    lighter = torch.where(below <= 0.25, ((16 * below - 12) * below + 4) * below, torch.sqrt(below))
    darkened = below - (1 - 2 * above) * below * (1 - below)
    return torch.where(above <= 0.5, darkened, below + (2 * above - 1) * (lighter - below))


BLENDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "normal": lambda below, above: above,
    "multiply": torch.mul,
    "screen": lambda below, above: 1 - (1 - below) * (1 - above),
    "overlay": lambda below, above: torch.where(below <= 0.5, 2 * below * above, 1 - 2 * (1 - below) * (1 - above)),
    "soft_light": _soft_light,
    "difference": torch.sub,
}


def with_channels(picture: Tensor, channels: int) -> Tensor:
    """Return pictures (b, h, w, c) with as many channels as others: some cut off, or one of ones put behind."""
    return picture[..., :channels] if picture.shape[-1] >= channels else F.pad(picture, (0, 1), value=1.0)


def gaussian_kernel(size: int, sigma: float) -> Tensor:
    """Return weights (size, size) of a bell over -1..1 whose sum is 1."""
    side = torch.linspace(-1, 1, size)
    distance = torch.sqrt(side.unsqueeze(1) ** 2 + side**2)
    bell = torch.exp(-(distance**2) / (2.0 * sigma * sigma))
    return bell / bell.sum()


def sharpening_kernel(size: int, sigma: float, alpha: float) -> Tensor:
    """Return weights (size, size) that take a blurred picture off, and whose sum is 1."""
    kernel = gaussian_kernel(size, sigma) * -(alpha * 10)
    kernel[size // 2, size // 2] += 1.0 - kernel.sum()
    return kernel


def convolved(samples: Tensor, kernel: Tensor) -> Tensor:
    """Convolve each channel of (b, c, h, w) with a kernel (n, n), over edges that reflect."""
    channels, radius = samples.shape[1], len(kernel) // 2
    padded = F.pad(samples, (radius,) * 4, "reflect")
    return F.conv2d(padded, kernel.to(samples).expand(channels, 1, -1, -1), groups=channels)


def _radius(name: str) -> io.Input:
    return io.Int.Input(name, default=1, min=1, max=31, step=1, tooltip="How far around a pixel, in pixels.")


@NODES.add(
    "ImageBlend",
    "Blend Images",
    [
        io.Image.Input("image1", tooltip="The pictures below."),
        io.Image.Input("image2", tooltip="The pictures laid on them."),
        io.Float.Input("blend_factor", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="How much of the second."),
        io.Combo.Input("blend_mode", options=list(BLENDS), tooltip="How the two are combined."),
    ],
    io.Image,
)
def image_blend(image1: Tensor, image2: Tensor, blend_factor: float, blend_mode: str) -> Tensor:
    """Blend two pictures."""
    above = with_channels(image2, image1.shape[-1])
    if image1.shape != above.shape:
        above = resized(above, image1.shape[2], image1.shape[1], "bicubic", "center")
    blended = image1 * (1 - blend_factor) + BLENDS[blend_mode](image1, above) * blend_factor
    return blended.clamp(0, 1)


@NODES.add(
    "ImageBlur",
    "Blur Image",
    [
        image(),
        _radius("blur_radius"),
        io.Float.Input("sigma", default=1.0, min=0.1, max=10.0, step=0.1, tooltip="The width of the bell."),
    ],
    io.Image,
)
def image_blur(image: Tensor, blur_radius: int, sigma: float) -> Tensor:
    """Blur pictures."""
    return convolved(image.movedim(-1, 1), gaussian_kernel(2 * blur_radius + 1, sigma)).movedim(1, -1)


@NODES.add(
    "ImageSharpen",
    "Sharpen Image",
    [
        image(),
        io.Int.Input(
            "sharpen_radius", default=1, min=1, max=31, step=1, advanced=True, tooltip="How far around, in pixels."
        ),
        io.Float.Input("sigma", default=1.0, min=0.1, max=10.0, step=0.01, advanced=True, tooltip="Width of the bell."),
        io.Float.Input("alpha", default=1.0, min=0.0, max=5.0, step=0.01, advanced=True, tooltip="How strongly."),
    ],
    io.Image,
)
def image_sharpen(image: Tensor, sharpen_radius: int, sigma: float, alpha: float) -> Tensor:
    """Sharpen pictures."""
    kernel = sharpening_kernel(2 * sharpen_radius + 1, sigma, alpha)
    return convolved(image.movedim(-1, 1), kernel).movedim(1, -1).clamp(0, 1)


@NODES.add(
    "ImageQuantize",
    "Quantize Image",
    [
        image(),
        io.Int.Input("colors", default=256, min=1, max=256, step=1, tooltip="How many colours are left."),
        io.Combo.Input("dither", options=DITHERS, tooltip="How colours in between are shown by dots."),
    ],
    io.Image,
)
def image_quantize(image: Tensor, colors: int, dither: str) -> Tensor:
    """Draw pictures in a few colours."""
    levels = (image * 255).to(torch.uint8).numpy()
    frames = [np.asarray(_quantized(Image.fromarray(frame), colors, dither).convert("RGB")) for frame in levels]
    return torch.from_numpy(np.stack(frames).astype(np.float32) / 255)


def _quantized(picture: Image.Image, colors: int, dither: str) -> Image.Image:
    palette = picture.quantize(colors=colors)
    if dither.startswith("bayer"):
        picture = _ordered(picture, len(palette.getpalette() or []) // 3, int(dither.partition("-")[2]))
    method = Image.Dither.FLOYDSTEINBERG if dither == "floyd-steinberg" else Image.Dither.NONE
    return picture.quantize(palette=palette, dither=method)


def _ordered(picture: Image.Image, colors: int, order: int) -> Image.Image:
    """Add a pattern of thresholds (Bayer, 1973) to a picture."""
    pixels = np.asarray(picture).astype(np.float32)
    pattern = 2 * 256 / colors * _bayer(int(math.log2(order))) + 0.5
    tiles = [-(-side // order) for side in pixels.shape[:2]]
    dots = np.tile(pattern, tiles)[: pixels.shape[0], : pixels.shape[1], None]
    return Image.fromarray((pixels + dots).clip(0, 255).astype(np.uint8))


def _bayer(n: int) -> np.ndarray:
    if n == 0:
        return np.zeros((1, 1), np.float32)
    size = 4**n
    inner = size * _bayer(n - 1)
    return np.block([[inner - 1.5, inner + 0.5], [inner + 1.5, inner - 0.5]]) / size


@NODES.add(
    "ImageAddNoise",
    "Add Noise to Image",
    [
        image(),
        io.Int.Input(
            "seed", default=0, min=0, max=SEED_MAX, control_after_generate=True, tooltip="The seed of the noise."
        ),
        io.Float.Input("strength", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="How much noise."),
    ],
    io.Image,
)
def image_add_noise(image: Tensor, seed: int, strength: float) -> Tensor:
    """Add noise to pictures."""
    noise = torch.randn(image.size(), generator=torch.manual_seed(seed))
    return (image + strength * noise.to(image)).clamp(0.0, 1.0)


# Edges


@NODES.add(
    "Canny",
    "Detect Edges (Canny)",
    [
        image(),
        io.Float.Input("low_threshold", default=0.4, min=0.01, max=0.99, step=0.01, tooltip="Weak edges are above."),
        io.Float.Input("high_threshold", default=0.8, min=0.01, max=0.99, step=0.01, tooltip="Strong ones are above."),
    ],
    io.Image,
)
def canny(image: Tensor, low_threshold: float, high_threshold: float) -> Tensor:
    """Find the edges of pictures: strong ones, and weak ones that hang together with them (Canny, 1986)."""
    if low_threshold > high_threshold:
        raise ValueError(f"low_threshold {low_threshold} is above high_threshold {high_threshold}")
    strength, across, down = _gradient(_grey(image.float().movedim(-1, 1)))
    thin = _thinned(strength, across, down)
    strong, weak = thin > high_threshold, thin > low_threshold
    while True:
        grown = (F.max_pool2d(strong.float(), 3, 1, 1) > 0) & weak
        if torch.equal(grown, strong):
            return strong.float().movedim(1, -1).repeat(1, 1, 1, 3)
        strong = grown


def _grey(picture: Tensor) -> Tensor:
    """Return (b, 3, h, w) or (b, 1, h, w) as (b, 1, h, w)."""
    if picture.shape[1] not in (1, 3):
        raise ValueError(f"edges are found in pictures of 3 channels or of 1, and these have {picture.shape[1]}")
    if picture.shape[1] == 1:
        return picture
    red, green, blue = picture.unbind(1)
    weights = picture.new_tensor([0.299, 0.587, 0.114])
    return (red * weights[0]).addcmul(green, weights[1]).addcmul(blue, weights[2]).unsqueeze(1)


def _gradient(grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return strength and direction of the change of (b, 1, h, w) at each pixel."""
    smooth = _smoothed(_smoothed(grey, -1), -2)
    slope = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    both = F.conv2d(F.pad(smooth, (1,) * 4, "replicate"), torch.stack([slope, slope.T]).unsqueeze(1))
    across, down = both[:, :1], both[:, 1:]
    return torch.sqrt(across**2 + down**2 + FLAT), across, down


def _smoothed(grey: Tensor, dim: int) -> Tensor:
    """Blur (b, 1, h, w) along a dimension; tap by tap, so that what is symmetric stays so to the last bit."""
    bell = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / 2)
    padded = F.pad(grey, (2, 2, 0, 0) if dim == -1 else (0, 0, 2, 2), "reflect")
    out = torch.zeros_like(grey)
    for tap, weight in enumerate(bell / bell.sum()):
        out = torch.addcmul(out, padded.narrow(dim, tap, grey.shape[dim]), weight)
    return out


def _thinned(strength: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Keep of (b, 1, h, w) what is largest in the direction of the change; of two that are equal, the left or upper."""
    eighth = torch.round(torch.atan2(down, across) * (4 / math.pi)).long() % 8
    around = F.pad(strength, (1,) * 4, value=math.sqrt(FLAT))
    height, width = strength.shape[-2:]
    steps = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
    neighbours = torch.cat([around[..., 1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in steps], 1)
    kept = strength > math.sqrt(FLAT)
    for direction in (eighth, (eighth + 4) % 8):
        beaten = neighbours.gather(1, direction)
        to_right_or_below = (direction == 0) | (direction == 2)
        kept = kept & ((strength > beaten) | (to_right_or_below & (strength == beaten)))
    return strength * kept
