"""OpenEXR files are read by the library of the format; `pip install OpenEXR`, without it the tests are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.headless.nodes.picture_formats import PLANES, PRIMARIES, exr
from attention_patchbay.headless.nodes.saving import encoded

OpenEXR = pytest.importorskip("OpenEXR", reason="needs OpenEXR: pip install OpenEXR")
TEXTS = {"prompt": '{"1": "\u00e9"}', "workflow": "{}"}


def read(folder: Path, data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return channels and header as the library reads them."""
    path = folder / "a.exr"
    path.write_bytes(data)
    with OpenEXR.File(str(path), separate_channels=True) as file:
        return {name: channel.pixels.copy() for name, channel in file.channels().items()}, dict(file.header())


@pytest.mark.parametrize("channels", PLANES)
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (64, 33)])
def test_every_number_is_read_as_it_was_written(channels: int, size: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.random.default_rng(channels).normal(size=(*size, channels)).astype("f4")
    pixels.reshape(-1)[:1] = np.inf
    pixels.reshape(-1)[-1:] = np.nan
    found, header = read(tmp_path, exr(pixels, TEXTS, "Rec. 709"))
    assert set(found) == set(PLANES[channels])
    for name, plane in zip(PLANES[channels], np.moveaxis(pixels, -1, 0), strict=True):
        np.testing.assert_array_equal(found[name], plane)
    assert {name: header[name] for name in TEXTS} == TEXTS
    assert [side.tolist() for side in header["dataWindow"]] == [[0, 0], [size[1] - 1, size[0] - 1]]


@pytest.mark.parametrize("primaries", PRIMARIES)
def test_the_colours_are_those_of_the_standard(primaries: str, tmp_path: Path) -> None:
    _, header = read(tmp_path, exr(np.zeros((2, 2, 3)), {}, primaries))
    assert header["chromaticities"] == pytest.approx(PRIMARIES[primaries])


def test_srgb_is_written_as_linear_light(tmp_path: Path) -> None:
    grey = torch.tensor([0.0, 0.04045, 0.5, 1.0]).reshape(2, 2, 1)
    found, _ = read(tmp_path, encoded(grey, {"format": "exr"}, {}))
    assert found["Y"].ravel().tolist() == pytest.approx([0.0, 0.0031308, 0.2140411, 1.0], rel=1e-4)


def test_names_that_no_attribute_may_have_are_left_out(tmp_path: Path) -> None:
    names = ("k" * 31, "k" * 32, "\u00e9" * 127, "k" * 256, "", "a\0b")
    found, header = read(tmp_path, exr(np.ones((3, 4, 3)), dict.fromkeys(names, "x"), "Rec. 709"))
    assert set(found) == set("RGB")
    assert [name for name in names if header.get(name) == "x"] == list(names[:3])
