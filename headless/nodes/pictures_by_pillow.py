"""Pictures from files by Pillow: those that PyAV cannot decode, as ComfyUI does, and all where it is not there."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, ImageSequence
from torch import Tensor

T = TypeVar("T")
ORIENTATION, BITS, PHOTOMETRIC, SAMPLES = 0x0112, 0x0102, 0x0106, 0x0115  # tags
TURNS = {2: 2, 3: 2, 5: 3, 6: 3, 7: 1, 8: 1}  # values of the orientation, and quarter turns to the left
MIRRORED = {2: 0, 4: 0, 5: 1, 7: 1}  # those that Pillow mirrors in a TIFF, and the axis that makes a turn of it
BATCHES = ("GIF", "PNG", "WEBP")  # formats whose frames are a batch; of others the first picture counts
MODES: dict[str, tuple[str, ...]] = {  # what Pillow shows as FFmpeg does, within some levels
    **dict.fromkeys(("AVIF", "BMP", "DDS", "GIF", "JPEG", "MPO", "PNG", "QOI", "SGI", "WEBP", "XBM"), ()),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "PCX": ("RGB",),
    "PPM": ("1", "L", "RGB", "I", "I;16"),
    "TGA": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "I;16B", "F"),
}
PACKED = ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "group3", "group4")  # of TIFF
CUT = ("JPEG", "MPO", "TGA", "TIFF")  # of which FFmpeg shows what is there
SYCC = b"colr\x01\0\0\0\0\0\x12"  # in a JPEG 2000 whose channels are luma and chroma


class Refused(ValueError):
    """A file that is not read; the words say what to do."""


def needs_av(what: str) -> Refused:
    return Refused(f"{what} is read as ComfyUI reads it only with PyAV: pip install av")


# What PyAV decodes nothing of


def left_to_pillow(path: Path) -> tuple[Tensor, Tensor]:
    """Return what ComfyUI makes of a file that PyAV cannot decode; of a file that was cut off what is there."""
    images: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    with _leniently(Image.open, path) as file:
        for page in ImageSequence.Iterator(file):
            frame = _leniently(ImageOps.exif_transpose, page)
            pixels = np.asarray(frame.convert("RGB"), np.float32) / np.float32(255.0)
            if images and pixels.shape != images[0].shape:
                continue
            images.append(pixels)
            masks.append(_clear(frame))
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))


def _clear(frame: Image.Image) -> np.ndarray:
    if "A" not in frame.getbands():
        return np.zeros((64, 64), np.float32)
    return np.float32(1.0) - np.asarray(frame.getchannel("A"), np.float32) / np.float32(255.0)


def _leniently(read: Callable[[Any], T], source: Any) -> T:
    """Return what a function of Pillow reads, of a file that was cut off as far as it goes."""
    try:
        return read(source)
    except (OSError, ValueError):
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return read(source)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


# In the place of PyAV


def in_place_of_av(path: Path) -> tuple[Tensor, Tensor]:
    """Return nearly what PyAV decodes. Raises Refused where that would not be near."""
    with Image.open(path) as file:
        kind, many = str(file.format), getattr(file, "n_frames", 1) > 1
        whole = kind != "PNG" or _is_whole(file, path.stat().st_size)
        if many and not whole:
            raise needs_av("an animated PNG file that was cut off")
        if not whole or (kind == "TIFF" and file.mode in ("I", "F")) or (kind == "WEBP" and many):
            return left_to_pillow(path)
        _check_alike(file)
        try:
            return _frames(file)
        except Refused:
            raise
        except (OSError, SyntaxError, ValueError):
            if many or kind not in CUT or (kind == "JPEG" and file.mode == "CMYK"):
                raise needs_av(f"a {kind} file that is damaged or was cut off") from None
    return _leniently(_first, path)


def _first(path: Path) -> tuple[Tensor, Tensor]:
    with Image.open(path) as file:
        return _frames(file)


def _check_alike(file: ImageFile.ImageFile) -> None:
    """Raise Refused for kinds of which Pillow shows other colors or another mask than FFmpeg."""
    kind = str(file.format)
    if kind not in MODES or (MODES[kind] and file.mode not in MODES[kind]):
        raise needs_av(f"a {kind} file of the kind {file.mode}")
    if kind == "TIFF" and not _is_plain(file):
        raise needs_av("a TIFF file with this compression or layout")
    if kind == "JPEG2000" and SYCC in _head(file):
        raise needs_av("a JPEG 2000 file of the kind YCbCr")
    if kind == "PNG" and "transparency" in file.info and "16" in _raw_mode(file) and file.mode == "RGB":
        raise needs_av("a PNG file of 16 bits with a transparent color")


def _is_plain(file: Any) -> bool:
    """Return whether Pillow unpacks a TIFF as FFmpeg does."""
    tags, mode = file.tag_v2, file.mode
    plain = tags.get(PHOTOMETRIC) in ((0, 1) if mode in ("1", "L") else (1, 2, 3, 5))
    deep = tags.get(BITS, (1,))[0] in ((16,) if mode.startswith("I") else (1, 2, 4, 8, 16))
    return plain and deep and file.info.get("compression") in PACKED and tags.get(SAMPLES, 1) == len(file.getbands())


def _head(file: ImageFile.ImageFile) -> bytes:
    assert file.fp is not None
    file.fp.seek(0)
    return file.fp.read(4096)


def _is_whole(file: ImageFile.ImageFile, size: int) -> bool:
    """Return whether no chunk of a PNG was cut off."""
    assert file.fp is not None
    place, name, back = 8, b"", file.fp.tell()
    while place < size and name != b"IEND":
        file.fp.seek(place)
        head = file.fp.read(8)
        name = head[4:]
        place += 12 + int.from_bytes(head[:4], "big")
    file.fp.seek(back)
    return place <= size


def _raw_mode(file: ImageFile.ImageFile) -> str:
    """Return how the pixels lie in a file, in Pillow's words."""
    given = file.tile[0][3] if file.tile else ""
    return str(given[0] if isinstance(given, tuple) else given)


def _frames(file: ImageFile.ImageFile) -> tuple[Tensor, Tensor]:
    alpha = _knows_alpha(file)
    if file.format in ("AVIF", "JPEG", "MPO") or (file.format == "WEBP" and not alpha):
        _say_so(str(file.format))
    pixels = [_pixels(frame, alpha) for frame in _wanted(file, alpha)]
    images = torch.from_numpy(np.stack([frame for frame in pixels if frame.shape == pixels[0].shape]))
    mask = 1.0 - images[..., 3] if alpha else torch.zeros(len(images), 64, 64)
    return images[..., :3].contiguous(), mask


def _wanted(file: ImageFile.ImageFile, alpha: bool) -> Iterator[Image.Image]:
    if file.format not in BATCHES or getattr(file, "n_frames", 1) == 1:
        yield file
        return
    first = int(getattr(file, "default_image", False))  # which is shown where nothing moves
    for place, frame in enumerate(ImageSequence.Iterator(file)):
        _check_over(frame, place, first, alpha)
        if place >= first:
            yield frame


def _check_over(frame: Any, place: int, first: int, alpha: bool) -> None:
    """Raise Refused for a frame that Pillow lays over others in another way than FFmpeg."""
    blend, disposal = frame.info.get("blend"), frame.info.get("disposal")
    if frame.format == "PNG" and ((place > first and alpha and blend == 1) or (first and disposal == 2)):
        raise needs_av("an animated PNG with transparent frames over each other")
    if frame.format == "GIF" and ((place and frame.info.get("duration") is None) or frame.disposal_method == 3):
        raise needs_av("an animated GIF with frames that have no duration or restore what was before")


def _knows_alpha(file: ImageFile.ImageFile) -> bool:
    """Return whether FFmpeg makes a mask of a file: it decodes palettes, CMYK and lossless WebP with transparency."""
    kind, bands = file.format, file.getbands()
    if kind == "WEBP":
        return "A" in bands or _is_lossless(file)
    if kind == "BMP":
        return file.mode in ("P", "L", "1") or bool(_fourth_of_bmp(file).any())
    if kind == "AVIF" or (kind, file.mode) == ("PNG", "1"):
        return False
    if "A" in bands or "transparency" in file.info or kind == "GIF":
        return True
    return (kind in ("PNG", "TGA", "TIFF") and file.mode == "P") or (kind == "JPEG" and file.mode == "CMYK")


def _fourth_of_bmp(file: Any) -> np.ndarray:
    """Return the fourth bytes (h, w) of the pixels of a BMP, which Pillow passes over; nothing of three."""
    if len(_raw_mode(file)) != 4 or not file.tile or file.tile[0][0] != "raw":
        return np.zeros(0, np.uint8)
    file.fp.seek(file.tile[0][2])
    lines = np.frombuffer(file.fp.read(4 * file.width * file.height), np.uint8)
    lines = np.pad(lines, (0, 4 * file.width * file.height - len(lines))).reshape(file.height, file.width, 4)
    settings: Any = file.tile[0][3]
    return lines[:: settings[2], :, 3]


def _is_lossless(file: ImageFile.ImageFile) -> bool:
    assert file.fp is not None
    place = 12
    while True:  # one part after the other, each a name, a size and an even number of bytes
        file.fp.seek(place)
        head = file.fp.read(8)
        if len(head) < 8 or head[:4] in (b"VP8L", b"VP8 "):
            return head[:4] == b"VP8L"
        size = int.from_bytes(head[4:], "little")
        place += 8 + size + size % 2


def _pixels(frame: Any, alpha: bool) -> np.ndarray:
    """Return (h, w, 3 or 4) of a frame, turned as PyAV turns it: a mirrored one is not mirrored back."""
    way = frame.getexif().get(ORIENTATION, 1)
    fourth = _fourth_of_bmp(frame) if alpha and frame.format == "BMP" else np.zeros(0)  # before the file is closed
    levels = _levels(frame, alpha)
    if fourth.size:
        levels[..., 3] = fourth / np.float32(255.0)
    if frame.format == "TIFF":  # which Pillow has turned
        return np.flip(levels, MIRRORED[way]) if way in MIRRORED else levels
    return np.rot90(levels, TURNS.get(way, 0))


def _levels(frame: Image.Image, alpha: bool) -> np.ndarray:
    if frame.mode.startswith("I"):
        return _grey(frame, alpha)
    levels = np.asarray(frame.convert("RGBA" if alpha else "RGB"), np.float32) / np.float32(255.0)
    if frame.format == "GIF":
        levels[levels[..., 3] == 0.0, :3] = 1.0  # white behind what is transparent
    return np.float32(1.0) - levels if frame.format == "XBM" else levels  # its ones are black


def _grey(frame: Image.Image, alpha: bool) -> np.ndarray:
    """Return (h, w, 3 or 4) of a frame of 16 bits of grey."""
    values = np.asarray(frame, np.float32)
    grey = (values / np.float32(65535.0)).clip(0.0, 1.0)
    clear = [values != frame.info["transparency"]] if alpha else []
    return np.stack([grey, grey, grey, *clear], -1).astype(np.float32)


@functools.cache
def _say_so(kind: str) -> None:
    logging.warning("PyAV is not installed: %s pictures may differ by some levels from ComfyUI's; pip install av", kind)
