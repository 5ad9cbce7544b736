"""The layers that change the tokens, in a video model: pictures are changed, attention over time is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.ldm.modules.transformer import SpatialVideoTransformer
from attention_patchbay.ldm_patched.patches.engine.stack import Stack
from attention_patchbay.ldm_patched.patches.methods.key_value_downsampling import KeyValueDownsampling
from attention_patchbay.ldm_patched.patches.methods.tiled_attention import TiledAttention
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging

from .layers import HERE, layers, options
from .models import draw

FRAMES = 3
OWN = ((6, 64), (6, 64))
TIME = ((2 * 64, FRAMES), (2 * 64, FRAMES))  # queries and keys: each pixel of two videos by itself
PICTURES = [  # the batch and the tokens of queries and keys
    (TokenMerging(0.5), ((6, 32), (6, 32))),
    (TiledAttention(32, 1), ((24, 16), (24, 16))),
    (KeyValueDownsampling(2), ((6, 64), (6, 16))),
]


@pytest.mark.parametrize(("method", "pictures"), PICTURES, ids=lambda value: getattr(value, "name", ""))
def test_attention_over_time_sees_every_frame(method: Any, pictures: tuple) -> None:
    seen = []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: Any) -> torch.Tensor:
        seen.append((tuple(q.shape[:2]), tuple(k.shape[:2])))
        return q

    torch.manual_seed(0)
    model = SpatialVideoTransformer(32, 4, 8, context_dim=16, time_context_dim=16, use_linear=True)
    slots = {tuple(HERE): Stack("attn1", layers(method).layers, attend)}
    with torch.no_grad():
        model(
            draw(0, 6, 32, 8, 8),
            context=draw(1, 6, 5, 16),
            time_context=draw(2, 2, 5, 16),
            timesteps=FRAMES,
            image_only_indicator=torch.zeros(2, FRAMES),
            transformer_options=options(8, 8, 6) | {"patches_replace": {"attn1": slots}},
        )
    assert seen == [pictures, OWN, TIME]  # the last patch of a slot may record, so it sees the call's own tokens too
