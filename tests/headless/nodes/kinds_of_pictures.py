"""Pictures of every kind, and what ComfyUI makes of each: the shapes of its pictures and of its masks."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

H, W = 24, 32
ONE, TWO, BIG = (1, H, W, 3), (2, H, W, 3), (1, 256, 256, 3)
GREY = np.linspace(0, 255, H * W).reshape(H, W).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)
RGBA = np.concatenate([RGB, GREY[..., None] // 2 + 60], -1)
NOISE = np.random.RandomState(0).randint(0, 255, (256, 256, 3), np.uint8)

Made = dict[str, tuple[bytes, tuple[int, ...], bool]]  # a file, the shape of its pictures, and whether it has a mask


def made() -> Made:
    """Return every kind of file by name."""
    rgb, grey, rgba = Image.fromarray(RGB), Image.fromarray(GREY), Image.fromarray(RGBA)
    other, small, palette = Image.fromarray(255 - RGB), rgb.resize((16, 12)), rgb.quantize(16)
    deep = np.linspace(0, 65535, H * W).reshape(H, W)
    files: Made = {
        "rgb.png": (saved(rgb, "PNG"), ONE, False),
        "l.png": (saved(grey, "PNG"), ONE, False),
        "la.png": (saved(rgba.convert("LA"), "PNG"), ONE, True),
        "rgba.png": (saved(rgba, "PNG"), ONE, True),
        "one_bit.png": (saved(Image.fromarray(GREY > 127), "PNG"), ONE, False),
        "p.png": (saved(palette, "PNG"), ONE, True),
        "p_trns.png": (saved(palette, "PNG", transparency=3), ONE, True),
        "rgb_trns.png": (saved(rgb, "PNG", transparency=(0, 255, 31)), ONE, True),
        "l16.png": (saved(Image.fromarray(deep.astype(np.uint16)), "PNG"), ONE, False),
        "rgb16.png": (deep_png(np.stack([deep, deep[::-1], deep[:, ::-1]], -1), 2), ONE, False),
        "la16.png": (deep_png(np.stack([deep, deep / 2 + 9999], -1), 4), ONE, True),
        "l16_trns.png": (deep_png(deep[..., None], 0, {b"tRNS": struct.pack(">H", int(deep[2, 3]))}), ONE, True),
        "one_bit_trns.png": (saved(Image.fromarray(GREY > 127), "PNG", transparency=1), ONE, False),
        "l16.tif": (saved(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"), ONE, False),
        "i32.tif": (saved(Image.fromarray(GREY.astype(np.int32) * 1000), "TIFF"), ONE, False),
        "f32.tif": (saved(Image.fromarray(GREY.astype(np.float32) / 200), "TIFF"), ONE, False),
        "p.tif": (saved(palette, "TIFF"), ONE, True),
        "p.tga": (saved(palette, "TGA"), ONE, True),
        "one_bit.xbm": (saved(Image.fromarray(GREY > 127), "XBM"), ONE, False),
        "cmyk.tif": (saved(rgb.convert("CMYK"), "TIFF"), ONE, False),
        "cmyk.jpg": (saved(rgb.convert("CMYK"), "JPEG", quality=95), ONE, True),
        "l.bmp": (saved(grey, "BMP"), ONE, True),
        "rgb.bmp": (saved(rgb, "BMP"), ONE, False),
        "rgba.bmp": (saved(rgba, "BMP"), ONE, True),
        "clear.bmp": (saved(Image.fromarray(RGBA * np.array([1, 1, 1, 0], np.uint8)), "BMP"), ONE, False),
        "lossless.webp": (saved(rgb, "WEBP", lossless=True), ONE, True),
        "turned.webp": (saved(rgb, "WEBP", lossless=True, exif=turned(6)), (1, W, H, 3), True),
        "lossy.webp": (saved(rgb, "WEBP", quality=90), ONE, False),
        "lossy_rgba.webp": (saved(rgba, "WEBP", quality=90), ONE, True),
        "still.gif": (saved(palette, "GIF"), ONE, True),
        "still_t.gif": (saved(palette, "GIF", transparency=3), ONE, True),
        "many.gif": (saved(rgb, "GIF", save_all=True, append_images=[other]), TWO, True),
        "many.png": (saved(rgb, "PNG", save_all=True, append_images=[other]), TWO, False),
        "default.png": (
            saved(rgba, "PNG", save_all=True, default_image=True, append_images=[other.convert("RGBA")]),
            ONE,
            True,
        ),
        "many.webp": (saved(rgb, "WEBP", save_all=True, append_images=[other], lossless=True), TWO, False),
        "many_a.webp": (saved(rgba, "WEBP", save_all=True, append_images=[rgba.rotate(180)], lossless=True), TWO, True),
        "many.tif": (saved(rgb, "TIFF", save_all=True, append_images=[other]), ONE, False),
        "many.jpg": (saved(rgb, "MPO", save_all=True, append_images=[other]), ONE, False),
        "thumb.jpg": (saved(rgb, "MPO", save_all=True, append_images=[small]), ONE, False),
        "noise.jpg": (saved(Image.fromarray(NOISE), "JPEG", quality=95), BIG, False),
    }
    for way in range(1, 9):
        shape = ONE if way < 5 else (1, W, H, 3)
        exif = turned(way)
        files[f"way{way}.jpg"] = (saved(rgb, "JPEG", quality=100, subsampling=0, exif=exif), shape, False)
        files[f"way{way}.tif"] = (saved(rgb, "TIFF", exif=exif), shape, False)
    for name, kind in (("cut.png", "PNG"), ("cut.jpg", "JPEG")):
        whole = saved(Image.fromarray(NOISE), kind)
        files[name] = (whole[: len(whole) // 2], BIG, False)
    for name in (
        "p.png",
        "p_trns.png",
        "rgb_trns.png",
        "l16_trns.png",
    ):  # without the end of the pixels, and of the file
        whole = files[name][0]
        files[f"cut_{name}"] = (whole[:-60], ONE, False)
        files[f"end_{name}"] = (whole[:-3], ONE, False)
        files[f"no_end_{name}"] = (whole[:-12], ONE, True)
    if features.check("avif"):
        files["rgba.avif"] = (saved(rgba, "AVIF", quality=100), ONE, False)
    return files


def only_by_pyav() -> dict[str, bytes]:
    """Return files by name that Pillow shows in another way than ComfyUI."""
    rgb, rgba = Image.fromarray(RGB), Image.fromarray(RGBA)
    deep = RGB.astype(np.uint16) * 257
    both: dict[str, Any] = {"save_all": True, "append_images": [rgba.rotate(180)]}
    first, *others = (Image.fromarray(NOISE[at : at + H, :W]) for at in (0, 50, 100))
    frames: dict[str, Any] = {"save_all": True, "append_images": others}
    return {
        "rgb16_trns.png": deep_png(deep, 2, {b"tRNS": deep[2, 3].astype(">u2").tobytes()}),
        "over.png": saved(rgba, "PNG", blend=1, **both),
        "cut_many.png": saved(rgba, "PNG", **both)[:-60],
        "cut.gif": saved(rgb.quantize(64), "GIF")[:-60],
        "cut_many.gif": saved(first, "GIF", duration=50, **frames)[:-500],
        "before.gif": saved(rgba, "GIF", disposal=3, **both),
        "no_times.gif": re.sub(
            rb"\x21\xf9\x04....\x00", b"", saved(first, "GIF", duration=50, **frames), flags=re.DOTALL
        ),
        "jpeg.tif": saved(rgb, "TIFF", compression="jpeg"),
        "ycc.tif": saved(rgb.convert("YCbCr"), "TIFF"),
        "ycc_packed.tif": saved(rgb.convert("YCbCr"), "TIFF", compression="packbits"),
        "ycc.jp2": saved(rgb.convert("YCbCr"), "JPEG2000"),
        "f32.pfm": saved(Image.fromarray(GREY.astype(np.float32) / 255), "PPM"),
        "la.tga": saved(rgba.convert("LA"), "TGA"),
        "l.pcx": saved(Image.fromarray(GREY), "PCX"),
    }


def saved(picture: Image.Image, kind: str, **more: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **more)
    return file.getvalue()


def turned(way: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = way
    return exif


def deep_png(pixels: np.ndarray, color: int, more: dict[bytes, bytes] | None = None) -> bytes:
    """Return a PNG of 16 bits, which Pillow does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return bare_png((pixels.shape[1], pixels.shape[0], 16, color), zlib.compress(rows), more)


def bare_png(head: tuple[int, int, int, int], data: bytes, more: dict[bytes, bytes] | None = None) -> bytes:
    """Return a PNG of width, height, bits and kind of color, with packed rows and more parts before them."""
    parts = {b"IHDR": struct.pack(">IIBBBBB", *head, 0, 0, 0), **(more or {}), b"IDAT": data, b"IEND": b""}
    whole = b"\x89PNG\r\n\x1a\n"
    for name, part in parts.items():
        whole += struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
    return whole


def write_all(folder: Path) -> None:
    """Write every kind into a folder."""
    files = {name: data for name, (data, _, _) in made().items()} | only_by_pyav()
    for name, data in files.items():
        (folder / name).write_bytes(data)
