"""Pictures from files, as ComfyUI decodes them: by PyAV where it is installed, else by Pillow, which comes near."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, ImageSequence, UnidentifiedImageError
from torch import Tensor

try:
    import av
except ImportError:
    av = None

FREE, PER_BYTE, MOST = 2**26, 100, 2**28  # pixels of a file: in any one, for each of its bytes, and in the largest
BYTES = ("yuvj420p", "yuvj422p", "yuvj444p", "rgb24", "rgba", "pal8")  # layouts that ComfyUI reads as whole levels
ALIGNED = 32  # pixels; another width would be converted with what lies behind a line
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {2: 2, 3: 2, 5: 3, 6: 3, 7: 1, 8: 1}  # its values, and quarter turns to the left
BATCHES = ("GIF", "PNG", "WEBP")  # formats whose frames are a batch; of others the first picture counts


def read_picture(path: Path) -> tuple[Tensor, Tensor]:
    """Return the frames (b, h, w, 3) of a file in 0..1, and what is transparent of them (b, h, w).

    The mask of a file that knows no transparency is (b, 64, 64), as ComfyUI's. Raises ValueError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags and sizes; what cannot be read says so
            _check_size(path)
            found = _decoded_by_av(path) if av is not None else None
            return found or _decoded_by_pillow(path)
    except MemoryError:
        raise
    except Exception as error:  # Pillow ends in errors of any kind where a file is damaged
        raise ValueError(f"{path.name} cannot be read: {error or type(error).__name__}") from error


def _check_size(path: Path) -> None:
    """Raise ValueError for a file that would fill the memory with pixels that it hardly has."""
    with Image.open(path) as file:
        width, height = file.size
        pixels = width * height * (getattr(file, "n_frames", 1) if file.format in BATCHES else 1)
    most = min(max(FREE, PER_BYTE * path.stat().st_size), MOST)
    if pixels > most:
        raise ValueError(f"{width} x {height} and all its frames are {pixels} pixels, over the {most} that it may have")


# PyAV


def _decoded_by_av(path: Path) -> tuple[Tensor, Tensor] | None:
    """Return what PyAV decodes; None where that is nothing, as of an animated WebP."""
    convert: Callable[[Any], np.ndarray] | None = None
    frames = []
    try:
        with av.open(str(path)) as container:
            for packet in container.demux(container.streams.video[0]):
                try:
                    for frame in packet.decode():
                        convert = convert or _converter(frame)
                        frames.append(convert(frame))
                except av.error.InvalidDataError:  # the rest of a file that was cut off
                    continue
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(str(error) or "it has no picture") from None
    if not frames:
        return None
    images = torch.from_numpy(np.stack(frames))
    images = images.float() / 255.0 if images.dtype == torch.uint8 else images
    mask = 1.0 - images[..., 3] if images.shape[-1] == 4 else torch.zeros(len(images), 64, 64)
    return images[..., :3].contiguous(), mask


def _converter(first: Any) -> Callable[[Any], np.ndarray]:
    """Return what makes (h, w, 3 or 4) of frames like this one."""
    alpha = first.format.name == "pal8" or any(part.is_alpha for part in first.format.components)
    if first.format.name in BYTES:
        return functools.partial(_turned, layout="rgba" if alpha else "rgb24", pad=None)
    pad = None if first.width % ALIGNED == 0 else _Padding(first)
    return functools.partial(_turned, layout="gbrapf32le" if alpha else "gbrpf32le", pad=pad)


def _turned(frame: Any, layout: str, pad: _Padding | None) -> np.ndarray:
    """Return a frame the right way up."""
    pixels = (pad(frame) if pad is not None else frame).to_ndarray(format=layout)[: frame.height, : frame.width]
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation // 90)))


class _Padding:
    """Makes frames whole numbers of `ALIGNED` pixels wide and high, with their borders drawn out."""

    def __init__(self, first: Any) -> None:
        wide, high = (-(-side // ALIGNED) * ALIGNED for side in (first.width, first.height))
        self.graph = av.filter.Graph()
        fill = f"left=0:right={wide - first.width}:top=0:bottom={high - first.height}:mode=smear"
        base = {"width": first.width, "height": first.height, "format": first.format.name}
        steps = [
            self.graph.add_buffer(**base, time_base=first.time_base),
            self.graph.add("pad", f"{wide}:{high}:0:0"),
            self.graph.add("fillborders", fill),
            self.graph.add("buffersink"),
        ]
        for one, other in zip(steps, steps[1:], strict=False):
            one.link_to(other)
        self.graph.configure()
        self.begin, self.end = steps[0], steps[-1]

    def __call__(self, frame: Any) -> Any:
        self.begin.push(frame)
        return self.end.pull()


# Pillow


def _decoded_by_pillow(path: Path) -> tuple[Tensor, Tensor]:
    """Return what Pillow decodes; a file that was cut off as far as it goes."""
    try:
        with Image.open(path) as file:
            return _frames(file)
    except UnidentifiedImageError:
        raise
    except (OSError, SyntaxError, ValueError):
        return _as_far_as_it_goes(path)


def _as_far_as_it_goes(path: Path) -> tuple[Tensor, Tensor]:
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        with Image.open(path) as file:
            return _frames(file)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _frames(file: ImageFile.ImageFile) -> tuple[Tensor, Tensor]:
    alpha = _knows_alpha(file)
    if av is None and (file.format in ("JPEG", "MPO") or (file.format == "WEBP" and not alpha)):
        _say_so(str(file.format))
    pixels = [_pixels(frame, alpha) for frame in _wanted(file)]
    images = torch.from_numpy(np.stack([frame for frame in pixels if frame.shape == pixels[0].shape]))
    mask = 1.0 - images[..., 3] if alpha else torch.zeros(len(images), 64, 64)
    return images[..., :3].contiguous(), mask


def _wanted(file: ImageFile.ImageFile) -> Iterator[Image.Image]:
    if file.format in BATCHES:
        yield from ImageSequence.Iterator(file)
    else:
        yield file


def _knows_alpha(file: ImageFile.ImageFile) -> bool:
    """Return whether ComfyUI makes a mask of a file: it decodes palettes, CMYK and lossless WebP with transparency."""
    if file.format == "WEBP":
        animated = getattr(file, "n_frames", 1) > 1
        return "A" in file.getbands() or (not animated and _is_lossless(file))
    if "A" in file.getbands() or "transparency" in file.info or file.format == "GIF":
        return True
    if file.format == "BMP":
        return file.mode in ("P", "L", "1") or len(str((file.tile[0][3] or "")[0])) == 4  # four bytes a pixel
    return (file.format == "PNG" and file.mode == "P") or (file.format == "JPEG" and file.mode == "CMYK")


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


def _pixels(frame: Image.Image, alpha: bool) -> np.ndarray:
    """Return (h, w, 3 or 4) of a frame, turned as PyAV turns it: a mirrored one is not mirrored back."""
    many = getattr(frame, "n_frames", 1) > 1
    if many and frame.format == "WEBP":  # which ComfyUI leaves to Pillow
        frame = ImageOps.exif_transpose(frame)
        return np.asarray(frame.convert("RGBA" if alpha else "RGB"), np.float32) / np.float32(255.0)
    return np.rot90(_levels(frame, alpha), TURNS.get(frame.getexif().get(ORIENTATION, 1), 0))


def _levels(frame: Image.Image, alpha: bool) -> np.ndarray:
    if frame.mode.startswith("I"):  # 16 bits of grey
        grey = (np.asarray(frame, np.float32) / 65535.0).clip(0.0, 1.0)
        return np.repeat(grey[..., None], 3, -1)
    levels = np.asarray(frame.convert("RGBA" if alpha else "RGB"), np.float32) / np.float32(255.0)
    if frame.format == "GIF":
        levels[levels[..., 3] == 0.0, :3] = 1.0  # white behind what is transparent
    return levels


@functools.cache
def _say_so(kind: str) -> None:
    logging.warning("PyAV is not installed: %s pictures may differ by some levels from ComfyUI's; pip install av", kind)
