from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attention_patchbay.headless.engine.workflow import PromptError, check
from attention_patchbay.headless.pages import picture_texts
from attention_patchbay.headless.pages.workflow_file import load, metadata, parse_json
from PIL import Image
from PIL.PngImagePlugin import PngInfo

PROMPT = {"1": {"class_type": "A", "inputs": {"text": "Grün, 赤"}}}
CHANGED = '{"1": {"class_type": "A", "inputs": {"text": "Gr\\u00fcn, \\u8d64"}, "is_changed": [NaN]}}'


def png(size: tuple[int, int] = (4, 4), **texts: str) -> bytes:
    chunks = PngInfo()
    for name, text in texts.items():
        chunks.add_text(name, text, zip=name == "workflow")
    return saved(Image.new("RGB", size), "PNG", pnginfo=chunks)


def saved(picture: Image.Image, kind: str, **more: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **more)
    return file.getvalue()


def exif(tags: dict[int, str | bytes]) -> Image.Exif:
    found = Image.Exif()
    for tag, text in tags.items():
        found[tag] = text
    return found


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_comfyui_notes_of_changes_is_no_part_of_a_workflow(tmp_path: Path, constant: str) -> None:
    text = CHANGED.replace("NaN", constant)
    (tmp_path / "a.png").write_bytes(png(prompt=text))
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "b.json").write_text(f'{{"prompt": {text}}}')
    for name in ("a.png", "a.json", "b.json"):
        assert load(tmp_path / name, dict) == PROMPT
    with pytest.raises(PromptError, match=f"{constant} is no JSON value"):
        parse_json(
            f'{{"1": {{"class_type": "A", "inputs": {{"cfg": {constant}}}, "is_changed": [NaN]}}}}'.encode(), "x"
        )
    assert check({"1": {"class_type": "A", "is_changed": ["old"]}}) == {"1": {"class_type": "A", "inputs": {}}}


@pytest.mark.parametrize(
    ("kind", "tags"),
    [
        ("WEBP", {0x0110: f"prompt:{json.dumps(PROMPT)}", 0x010F: 'workflow:{"nodes": []}'}),
        ("JPEG", {0x0110: f"Prompt: {CHANGED}", 0x010F: 'Workflow: {"nodes": []}'}),
        ("WEBP", {0x0110: b"prompt:" + json.dumps(PROMPT, ensure_ascii=False).encode(), 0x010E: "a note: no workflow"}),
    ],
)
def test_pictures_have_it_in_their_exif_tags(kind: str, tags: dict[int, str | bytes]) -> None:
    found = metadata(saved(Image.new("RGB", (4, 4)), kind, exif=exif(tags)), "x")
    assert check(found["prompt"]) == PROMPT and found.get("workflow") == ({"nodes": []} if 0x010F in tags else None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_may_begin_with_the_mark_of_its_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_bytes(json.dumps(PROMPT, ensure_ascii=False).encode(encoding))
    assert load(tmp_path / "a.json", dict) == PROMPT


def test_no_pixel_is_decoded_and_no_text_is_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_texts, "MOST", 2**20)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 16, 6, 0, 0, 0))
    large = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"damaged")
    assert metadata(large + chunk(b"tEXt", b"prompt\0" + CHANGED.encode()), "x")["prompt"] == PROMPT
    bomb = zlib.compress(np.zeros(2**24, np.uint8).tobytes(), 9)
    for text in (chunk(b"zTXt", b"prompt\0\0" + bomb), chunk(b"iTXt", b"prompt\0\1\0\0\0" + bomb)):
        with pytest.raises(PromptError, match="more than"):
            metadata(large + text, "x")
