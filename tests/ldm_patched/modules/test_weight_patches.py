"""Weight patches against plain float64 arithmetic."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched.modules.weight_patches import WeightPatch, calculate_weight
from torch import Tensor

from ..tiny import draw

W = draw(0, 6, 8)
D = draw(1, 6, 8)


@pytest.mark.parametrize(
    ("patch", "wanted"),
    [
        (WeightPatch(0.5, (D,)), W + 0.5 * D),
        (WeightPatch(0.5, ("diff", (D,)), strength_model=0.2), 0.2 * W + 0.5 * D),
        (WeightPatch(0.5, ("set", (D,))), D),
        (WeightPatch(0.0, (D,)), W),
        (WeightPatch(2.0, (D,), function=torch.neg), W - 2 * D),
        (WeightPatch(1.0, (D[2:4],), offset=(0, 2, 2)), torch.cat([W[:2], W[2:4] + D[2:4], W[4:]])),
        (WeightPatch(1.0, ("lora", (D[:, :3], D[:3], None, None))), W + D[:, :3] @ D[:3]),
        (WeightPatch(0.5, ("lora", (D[:, :3], D[:3], 6.0, None))), W + 0.5 * 2.0 * (D[:, :3] @ D[:3])),
    ],
)
def test_patch(patch: WeightPatch, wanted: Tensor) -> None:
    before = W.clone()
    torch.testing.assert_close(calculate_weight([patch], W, "w"), wanted)
    assert torch.equal(W, before)


def test_patches_apply_in_order() -> None:
    patches = [WeightPatch(1.0, ("set", (D,))), WeightPatch(1.0, (W,), strength_model=2.0)]
    torch.testing.assert_close(calculate_weight(patches, W, "w"), 2 * D + W)


def test_lora_of_a_convolution() -> None:
    weight, up, down = draw(0, 6, 5, 3, 3), draw(1, 6, 2, 1, 1), draw(2, 2, 5, 3, 3)
    patched = calculate_weight([WeightPatch(1.0, ("lora", (up, down, None, None)))], weight, "w")
    x = draw(3, 1, 5, 7, 7)
    conv = torch.nn.functional.conv2d
    wanted = conv(x, weight) + conv(conv(x, down), up)
    torch.testing.assert_close(conv(x, patched), wanted, rtol=1e-4, atol=1e-4)


def test_lora_with_a_middle() -> None:
    weight, up, mid, down = draw(0, 6, 5, 3, 3), draw(1, 6, 2, 1, 1), draw(2, 2, 2, 3, 3), draw(3, 2, 5, 1, 1)
    patched = calculate_weight([WeightPatch(1.0, ("lora", (up, down, None, mid)))], weight, "w")
    x = draw(4, 1, 5, 7, 7)
    conv = torch.nn.functional.conv2d
    wanted = conv(x, weight) + conv(conv(conv(x, down), mid), up)
    torch.testing.assert_close(conv(x, patched), wanted, rtol=1e-4, atol=1e-4)


def test_half_weights_are_summed_in_single_precision() -> None:
    weight, small = torch.ones(4).half(), torch.full((4,), 2e-4).half()
    patched = calculate_weight([WeightPatch(1.0, (small,))] * 10, weight, "w")
    assert patched.dtype == torch.float16
    torch.testing.assert_close(patched.float(), torch.full((4,), 1.002), rtol=0, atol=6e-4)


@pytest.mark.parametrize("value", [(D[:3],), ("lora", (D[:, :3], D[:3, :4], None, None))])
def test_a_wrong_shape_is_refused(value: tuple) -> None:
    with pytest.raises((ValueError, RuntimeError), match="shape"):
        calculate_weight([WeightPatch(1.0, value)], W, "some.weight")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'loha' for some.weight; known are diff, set, lora"):
        calculate_weight([WeightPatch(1.0, ("loha", (D,)))], W, "some.weight")
