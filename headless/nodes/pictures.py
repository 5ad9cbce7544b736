"""Pictures from files, as ComfyUI decodes them: by PyAV where it is installed, else by Pillow, which comes near."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .pictures_by_pillow import BATCHES, Refused, in_place_of_av, left_to_pillow

try:
    import av
except ImportError:
    av = None

FREE, PER_BYTE, MOST = 2**26, 100, 2**28  # pixels of a file: in any one, for each of its bytes, and in the largest
BYTES = ("yuvj420p", "yuvj422p", "yuvj444p", "rgb24", "rgba", "pal8")  # layouts that ComfyUI reads as whole levels
ALIGNED = 32  # pixels; another width would be converted with what lies behind a line
NOT_READ = ("BLP", "DIB", "EPS", "ICNS", "ICO", "IM", "MSP", "SPIDER")  # by ComfyUI, though Pillow would
ANEW = "open it in a program for pictures and save it as PNG"


def read_picture(path: Path) -> tuple[Tensor, Tensor]:
    """Return the frames (b, h, w, 3) of a file in 0..1, and what is transparent of them (b, h, w).

    The mask of a file that knows no transparency is (b, 64, 64), as ComfyUI's. Raises ValueError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags and sizes; what cannot be read says so
            _check(path)
            if av is None:
                return in_place_of_av(path)
            return _decoded_by_av(path) or left_to_pillow(path)
    except MemoryError:
        raise
    except Refused as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    except UnidentifiedImageError:
        raise ValueError(f"{path.name} cannot be read: it is damaged or no picture that Pillow knows: {ANEW}") from None
    except Exception as error:  # Pillow ends in errors of any kind where a file is damaged
        raise ValueError(f"{path.name} cannot be read: {error or type(error).__name__}: {ANEW}") from error


def _check(path: Path) -> None:
    """Raise Refused for a file that ComfyUI does not read, or that has more pixels than its bytes can hold."""
    with Image.open(path) as file:
        if file.format in NOT_READ:
            raise Refused(f"ComfyUI reads no {file.format} files: {ANEW}")
        width, height = file.size
        batch = file.format in BATCHES or file.mode in ("I", "F")
        pixels = width * height * (getattr(file, "n_frames", 1) if batch else 1)
    most = min(max(FREE, PER_BYTE * path.stat().st_size), MOST)
    if pixels > most:
        raise Refused(f"{width} x {height} and all its frames are {pixels} pixels, over the {most} that it may have")


def decoders() -> tuple[str, str]:
    """Return the versions of what decodes pictures; an empty one where it is not installed."""
    return PIL.__version__, "" if av is None else f"{av.__version__} {av.library_versions}"


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
