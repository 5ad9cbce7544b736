"""What merged tokens and a flat attention to the text do to the demo model's pictures."""

from __future__ import annotations

from typing import Any

import torch
from attention_patchbay.ldm_patched.demo import CHECKPOINT
from attention_patchbay.ldm_patched.loading.sd import load_checkpoint
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.methods.attention_temperature import AttentionTemperature
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging
from attention_patchbay.tools.demo.draws import draw_captions
from attention_patchbay.tools.demo.evaluate import adherence, paint

CAPTIONS = draw_captions(10, 6)


def right(method: Any = None) -> int:
    """Count the pictures that show their caption."""
    model, clip, vae = load_checkpoint(CHECKPOINT)
    patched = model if method is None else attach(model, method)
    with torch.inference_mode():
        return adherence(CAPTIONS, paint((patched, clip, vae), CAPTIONS, steps=5))["all"]["right"]


def test_merging_half_the_tokens_keeps_the_caption_and_flat_attention_to_the_text_loses_it() -> None:
    plain = right()
    assert right(TokenMerging(where=Where(parse("input, output")))) >= plain - 3
    assert right(AttentionTemperature(4.0, where=Where(parse("all cross")))) <= plain - 4
