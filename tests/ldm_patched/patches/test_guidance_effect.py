"""What guidance does for the demo model: more of its pictures show what the caption says."""

from __future__ import annotations

import torch
from attention_patchbay.ldm_patched.modules.demo import CHECKPOINT
from attention_patchbay.ldm_patched.modules.demo.captions import draw_captions
from attention_patchbay.ldm_patched.modules.demo.evaluate import adherence, paint
from attention_patchbay.ldm_patched.modules.sd import load_checkpoint
from attention_patchbay.ldm_patched.patches.attach import attach
from attention_patchbay.ldm_patched.patches.guidance import Guidance
from attention_patchbay.ldm_patched.patches.weak_attention import SmoothedEnergy


def test_smoothed_energy_guidance_makes_more_pictures_right() -> None:
    model, clip, vae = load_checkpoint(CHECKPOINT)
    captions = draw_captions(40, 5)

    def right(patcher: object) -> int:
        return adherence(captions, paint((patcher, clip, vae), captions, cfg=1.0))["all"]["right"]  # type: ignore[arg-type]

    with torch.inference_mode():
        plain, better = right(model), right(attach(model, Guidance(SmoothedEnergy(), 2.0)))
    assert better >= plain + 3, (plain, better)
