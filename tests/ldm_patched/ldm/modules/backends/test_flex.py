"""Flex attention as torch computes it without its compiler."""

from __future__ import annotations

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.backends import flex
from torch.nn.attention.flex_attention import flex_attention

from .conftest import float64_attention
from .test_kernels import merged
from .test_parity import draw_mask, full_mask, inputs

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex, "_compiled", lambda: flex_attention)


def test_layouts_scale_and_grouped_keys() -> None:
    q, k, v = inputs(2, 4, 16, 33, 21, kv_heads=2)
    truth = float64_attention(q, k, v, scale=0.3)
    flat = flex.attention_flex(merged(q), merged(k), merged(v), 4, enable_gqa=True, scale=0.3)
    assert (flat.double() - merged(truth)).abs().max() < 1e-5
    whole = flex.attention_flex(q, k, v, 4, skip_reshape=True, skip_output_reshape=True, scale=0.3)
    assert (whole.double() - truth).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(33, 21), (2, 1, 33, 21), (1, 4, 1, 21), (2, 4, 33, 21)])
@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_masks(shape: tuple[int, ...], kind: torch.dtype) -> None:
    q, k, v = inputs(2, 4, 16, 33, 21)
    mask = draw_mask(shape, kind, 3)
    out = flex.attention_flex(q, k, v, 4, mask, skip_reshape=True, skip_output_reshape=True)
    truth = float64_attention(q, k, v, full_mask(mask, 2, 4, 33, 21))
    assert (out.double() - truth).abs().max() < 1e-5
    assert (out[(truth == 0.0).all(-1)] == 0.0).all()
