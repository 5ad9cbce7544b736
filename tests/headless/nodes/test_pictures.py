"""Pictures of every kind are what ComfyUI makes of them; tests/contract/test_pictures_comfyui.py asks it."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.headless.nodes import image as image_nodes
from attention_patchbay.headless.nodes import pictures, pictures_by_pillow
from attention_patchbay.headless.nodes.pictures import read_picture
from PIL import Image, ImageFile

from .kinds_of_pictures import GREY, NOISE, RGB, RGBA, bare_png, made, only_by_pyav, saved

KINDS = made()
ONLY_BY_PYAV = only_by_pyav()


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_comfyuis_shapes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, shape, has_mask = KINDS[name]
    (tmp_path / name).write_bytes(data)
    for av in {pictures.av, None}:
        monkeypatch.setattr(pictures, "av", av)
        image, mask = read_picture(tmp_path / name)
        assert image.shape == shape and mask.shape == (shape[:3] if has_mask else (shape[0], 64, 64))
        assert image.dtype == mask.dtype == torch.float32 and 0.0 <= float(image.min()) <= float(image.max()) <= 1.0
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def read(name: str, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    (folder / name).write_bytes(KINDS[name][0])
    image, mask = read_picture(folder / name)
    return image.numpy() * 255, mask.numpy()


def test_sixteen_bits_of_grey_are_grey(tmp_path: Path) -> None:
    image, _ = read("l16.png", tmp_path)
    assert np.abs(image - np.linspace(0, 255, GREY.size).reshape(1, *GREY.shape, 1)).max() < 0.01
    image, _ = read("rgb16.png", tmp_path)
    assert np.abs(image[0] - RGB).max() < 1.01


def test_what_is_transparent_by_its_color_or_its_fourth_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "av", None)
    image, mask = read("l16_trns.png", tmp_path)
    assert np.argwhere(mask).tolist() == [[0, 2, 3]]
    assert np.abs(image - np.linspace(0, 255, GREY.size).reshape(1, *GREY.shape, 1)).max() < 0.01
    image, mask = read("rgba.bmp", tmp_path)
    assert np.abs(mask[0] - (1 - RGBA[..., 3] / 255)).max() < 1e-6 and np.abs(image[0] - RGB).max() < 0.01


def test_grey_of_32_bits_saturates_and_ones_of_xbm_are_black(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for av in {pictures.av, None}:
        monkeypatch.setattr(pictures, "av", av)
        image, _ = read("i32.tif", tmp_path)
        assert np.array_equal(image[0, ..., 0] > 0, GREY > 0) and set(np.unique(image)) == {0.0, 255.0}
        image, _ = read("one_bit.xbm", tmp_path)
        assert np.abs(image[0, ..., 0] - np.where(GREY > 127, 0, 255)).max() <= 1


def test_an_animation_begins_with_its_first_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "av", None)
    image, _ = read("default.png", tmp_path)
    assert len(image) == 1 and np.abs(image[0] - (255 - RGB)).max() < 0.01


@pytest.mark.parametrize("name", ONLY_BY_PYAV)
def test_what_only_pyav_shows_right_is_refused_without(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "av", None)
    (tmp_path / name).write_bytes(ONLY_BY_PYAV[name])
    with pytest.raises(ValueError, match=f"{name} cannot be read: an? .* only with PyAV: pip install av"):
        read_picture(tmp_path / name)


@pytest.mark.parametrize("kind", ["ICO", "MSP", "DIB"])
def test_what_comfyui_does_not_read_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(saved(Image.fromarray(GREY > 127), kind))
    for av in {pictures.av, None}:
        monkeypatch.setattr(pictures, "av", av)
        with pytest.raises(ValueError, match=f"ComfyUI reads no {kind} files: open it .* and save it as PNG"):
            read_picture(tmp_path / "a.png")


def test_what_is_there_of_a_file_that_was_cut_off_is_shown(tmp_path: Path) -> None:
    for name, bound in (("cut.png", 0.01), ("cut.jpg", 60.0)):
        image, _ = read(name, tmp_path)
        assert np.abs(image[0, :100] - NOISE[:100]).mean() < bound and image[0, -50:].std() < 1.0


def test_pictures_are_turned_as_comfyui_turns_them(tmp_path: Path) -> None:
    for way, turns in {1: 0, 2: 2, 3: 2, 4: 0, 5: 3, 6: 3, 7: 1, 8: 1}.items():
        for kind in ("jpg", "tif"):
            image, _ = read(f"way{way}.{kind}", tmp_path)
            assert np.abs(image[0] - np.rot90(RGB, turns)).max() <= 4, (way, kind)


def test_without_pyav_it_is_said_that_jpegs_may_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pictures, "av", None)
    pictures_by_pillow._say_so.cache_clear()
    for _ in range(2):
        read("noise.jpg", tmp_path)
        read("rgb.png", tmp_path)
    assert caplog.text.count("PyAV is not installed: JPEG pictures may differ") == 1


def test_a_small_file_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ((8200, 8200), (30_000, 30_000)):
        (tmp_path / "a.png").write_bytes(bare_png((*size, 16, 6), zlib.compress(b"")))
        with pytest.raises(ValueError, match="a.png cannot be read"):
            read_picture(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "FREE", 1000)
    frames = [Image.new("L", (10, 10), 10 * shade) for shade in range(20)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    monkeypatch.setattr(pictures, "PER_BYTE", 0)
    with pytest.raises(ValueError, match="2000 pixels, over the 1000"):
        read_picture(tmp_path / "a.gif")


def test_no_picture_is_said_to_be_none(tmp_path: Path) -> None:
    for data in (b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8L", b"\xff\xd8\xff", b"BM" + bytes(60)):
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(ValueError, match="a.png cannot be read"):
            read_picture(tmp_path / "a.png")


def test_the_end_of_a_name_says_the_folder(tmp_path: Path) -> None:
    folders = Folders(tmp_path, tmp_path / "input", tmp_path / "output", tmp_path / "temp")
    for number, folder in enumerate((folders.input, folders.output, folders.temp)):
        (folder / "clipspace").mkdir(parents=True)
        Image.new("RGB", (1, 1), (number,) * 3).save(folder / "clipspace" / "a.png")
    ends = {"": 0, " [input]": 0, " [output]": 1, " [temp]": 2, "[output]": 1}
    with entered(Session(folders)):
        for end, number in ends.items():
            name = f"clipspace/a.png{end}"
            assert image_nodes.LoadImage.validate_inputs(name) is True
            assert float(image_nodes.LoadImage.execute(name).args[0].max()) * 255 == pytest.approx(number)
        for name in ("../input/clipspace/a.png [output]", "none.png [output]", "/etc/passwd [temp]"):
            assert image_nodes.LoadImage.validate_inputs(name) is not True
