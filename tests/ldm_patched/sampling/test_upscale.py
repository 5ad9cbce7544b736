"""Resizing by every method, and bislerp's arcs."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched.sampling.upscale import UPSCALE_METHODS, bislerp, common_upscale

from ..tiny import draw


@pytest.mark.parametrize("method", UPSCALE_METHODS)
def test_every_method_keeps_a_constant_picture(method: str) -> None:
    x = draw(0, 1, 4, 1, 1).expand(2, 4, 6, 10)
    out = common_upscale(x, 15, 7, method, "center")
    assert out.shape == (2, 4, 7, 15)
    torch.testing.assert_close(out, x[:, :, :1, :1].expand(2, 4, 7, 15))


def test_the_crop_keeps_the_middle_in_the_new_aspect_ratio() -> None:
    x = draw(0, 1, 4, 6, 10)
    for size, middle in (((3, 3), x[..., 2:8]), ((20, 4), x[..., 2:4, :]), ((5, 3), x)):
        expected = torch.nn.functional.interpolate(middle, size=size[::-1], mode="bilinear")
        assert torch.equal(common_upscale(x, *size, "bilinear", "center"), expected)


def test_bislerp_keeps_the_length_of_vectors_of_one_length() -> None:
    x = torch.nn.functional.normalize(draw(0, 1, 4, 3, 3), dim=1) * 2
    out = bislerp(x, 12, 12)
    torch.testing.assert_close(out.norm(dim=1), torch.full((1, 12, 12), 2.0))
    assert common_upscale(x, 12, 12, "bilinear").norm(dim=1).min() < 1.5


def test_bislerp_of_zeros_and_opposites_is_finite() -> None:
    x = torch.zeros(1, 2, 1, 4)
    x[0, :, 0, 1], x[0, :, 0, 2] = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])
    out = bislerp(x, 8, 1)[0, 0, 0]
    assert out.tolist() == pytest.approx([0, 0.1768, 0.5303, 0.5, -0.5, -0.5303, -0.1768, 0], abs=0.2)
    assert out[3] == pytest.approx(0.5) and out[4] == pytest.approx(-0.5)
