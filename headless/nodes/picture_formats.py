"""Write PNG of 16 bits and OpenEXR, which Pillow does not; only what every reader knows of the formats is used."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # of PNG, by the number of channels
PLANES = {1: "Y", 3: "RGB", 4: "RGBA"}  # of OpenEXR
FLOAT = 2
SHORT_NAME, LONGEST_NAME, LONG_NAMES = 31, 255, 0x400  # bytes of an attribute's name, and the flag for longer ones
PRIMARIES = {
    "Rec. 709": (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290),
    "Rec. 2020": (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290),
}
HLG_A, HLG_B, HLG_C = 0.17883277, 0.28466892, 0.55991072928  # BT.2100, table 5


def levels(picture: Tensor, bits: int) -> np.ndarray:
    """Return a picture (h, w, c) in 0..1 as whole numbers of 8 or 16 bits."""
    most = 2**bits - 1
    return (picture * most).clamp(0, most).to(torch.int32).cpu().numpy().astype(np.uint8 if bits == 8 else ">u2")


def png(pixels: np.ndarray, texts: Mapping[str, str]) -> bytes:
    """Return a PNG file of whole numbers (h, w, c) with text chunks."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, pixels.itemsize * 8, COLOUR_TYPES[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # each with no filter
    words = [_chunk(b"tEXt", key.encode("latin-1", "replace") + b"\0" + text.encode("latin-1", "replace"))
             for key, text in texts.items()]  # fmt: skip
    parts = [_chunk(b"IHDR", header), *words, _chunk(b"IDAT", zlib.compress(rows, 4)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def linear(picture: Tensor, space: str) -> Tensor:
    """Return a picture (h, w, c) of sRGB, of HDR (hybrid log-gamma) or of linear light as linear light."""
    colours, alpha = (picture[..., :3], picture[..., 3:]) if picture.shape[-1] == 4 else (picture, picture[..., :0])
    if space == "sRGB":
        colours = torch.where(colours <= 0.04045, colours / 12.92, ((colours.clamp(min=0.0) + 0.055) / 1.055) ** 2.4)
    elif space == "HDR":
        bright = (torch.exp((colours.clamp(min=0.5) - HLG_C) / HLG_A) + HLG_B) / 12.0
        colours = torch.where(colours <= 0.5, colours**2 / 3.0, bright)
    return torch.cat([colours, alpha], -1)


def exr(pixels: np.ndarray, texts: Mapping[str, str], primaries: str) -> bytes:
    """Return an OpenEXR file of numbers (h, w, c), uncompressed, with those texts whose names an attribute may have."""
    height, width, channels = pixels.shape
    planes = sorted(
        zip(PLANES[channels], np.moveaxis(pixels.astype("<f4"), -1, 0), strict=True), key=lambda one: one[0]
    )
    texts = {key: text for key, text in texts.items() if 0 < len(key.encode()) <= LONGEST_NAME and "\0" not in key}
    version = 2 | (LONG_NAMES if any(len(key.encode()) > SHORT_NAME for key in texts) else 0)
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    names = b"".join(name.encode() + b"\0" + struct.pack("<iB3xii", FLOAT, 0, 1, 1) for name, _ in planes)
    head = b"\x76\x2f\x31\x01" + struct.pack("<I", version) + b"".join([
        _attribute("channels", "chlist", names + b"\0"),
        _attribute("compression", "compression", b"\0"),
        _attribute("dataWindow", "box2i", window),
        _attribute("displayWindow", "box2i", window),
        _attribute("lineOrder", "lineOrder", b"\0"),
        _attribute("pixelAspectRatio", "float", struct.pack("<f", 1.0)),
        _attribute("screenWindowCenter", "v2f", struct.pack("<2f", 0.0, 0.0)),
        _attribute("screenWindowWidth", "float", struct.pack("<f", 1.0)),
        *(_attribute(key, "string", text.encode()) for key, text in texts.items()),
        _attribute("chromaticities", "chromaticities", struct.pack("<8f", *PRIMARIES[primaries])),
    ])  # fmt: skip
    lines = np.stack([plane for _, plane in planes], 1)  # (h, c, w)
    size = lines[0].nbytes
    start = len(head) + 1 + 8 * height
    table = struct.pack(f"<{height}Q", *(start + row * (8 + size) for row in range(height)))
    rows = b"".join(struct.pack("<ii", row, size) + line.tobytes() for row, line in enumerate(lines))
    return head + b"\0" + table + rows


def _attribute(name: str, kind: str, value: bytes) -> bytes:
    return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value
