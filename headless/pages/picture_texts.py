"""The texts in a picture, read without decoding a pixel: a small file may hold gigabytes of those."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
MOST = 64 * 2**20  # bytes of all texts of a picture
COMMENT = 0x9286  # the EXIF tag UserComment
EXIF = 0x8769  # the tag of the folder that it lies in


def texts_in(data: bytes) -> dict[str, str]:
    """Return the text chunks of a PNG by keyword, or those of the EXIF tags of another picture that name themselves.

    ComfyUI writes `prompt:...` and `workflow:...` into tags of WebP files. Raises ValueError for what is no picture.
    """
    return dict(_png_texts(data) if data.startswith(PNG) else _exif_texts(data))


def _png_texts(data: bytes) -> Iterator[tuple[str, str]]:
    place, left = len(PNG), MOST
    while place + 8 <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        found = _chunk(kind, data[place + 8 : place + 8 + size], left)
        if found is not None:
            left -= len(found[1])
            yield found
        place += size + 12


def _chunk(kind: bytes, data: bytes, left: int) -> tuple[str, str] | None:
    keyword, _, rest = data.partition(b"\0")
    if kind == b"tEXt":
        text = rest
    elif kind == b"zTXt":
        text = _inflated(rest[1:], left)
    elif kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        text = _inflated(rest, left) if packed else rest
    else:
        return None
    if len(text) > left:
        raise ValueError(f"its texts have more than {MOST} bytes")
    return keyword.decode("latin-1"), text.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")


def _inflated(data: bytes, most: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, most + 1)
    except zlib.error as error:
        raise ValueError(f"a text in it is damaged: {error}") from None


def _exif_texts(data: bytes) -> Iterator[tuple[str, str]]:
    from PIL import Image  # only the extra `headless` brings it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that are damaged
            exif = Image.open(io.BytesIO(data)).getexif()
            values = [*exif.values(), exif.get_ifd(EXIF).get(COMMENT)]
    except Exception as error:  # Pillow ends in errors of any kind where a file is damaged
        raise ValueError(str(error) or type(error).__name__) from None
    for value in values:
        name, colon, text = _text(value).partition(":")
        if colon and name.strip().lower() in ("prompt", "workflow"):
            yield name.strip().lower(), text


def _text(value: object) -> str:
    """Return the text of a tag; Pillow reads text as Latin letters, whatever they are."""
    if isinstance(value, bytes):
        code, value = value[:8], value[8:]
        return value.decode("utf-16" if code == b"UNICODE\0" else "utf-8", "replace")
    if not isinstance(value, str):
        return ""
    try:
        return value.encode("latin-1").decode("utf-8").rstrip("\0")
    except UnicodeError:
        return value.rstrip("\0")
