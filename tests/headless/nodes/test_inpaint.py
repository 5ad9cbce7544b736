"""What inpainting and editing models are given."""

from __future__ import annotations

import torch
from attention_patchbay.headless.nodes.inpaint import InpaintModelConditioning, InstructPixToPixConditioning
from torch import Tensor


class Pixels:
    """A VAE whose latents are the pixels of each 8x8 square's corner."""

    def encode(self, pixels: Tensor) -> Tensor:
        top, left = (pixels.shape[dim] % 8 // 2 for dim in (1, 2))
        cut = pixels[:, top : top + pixels.shape[1] // 8 * 8, left : left + pixels.shape[2] // 8 * 8]
        return cut.movedim(-1, 1)[..., ::8, ::8]


PROMPT = [[torch.ones(1, 2, 3), {"strength": 0.5}]]


def picture(height: int, width: int) -> Tensor:
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(0))


def test_an_inpainting_model_sees_grey_under_the_mask() -> None:
    pixels, mask = picture(19, 36), torch.zeros(1, 19, 36)
    mask[..., 18:] = 1.0
    positive, negative, latent = InpaintModelConditioning.execute(PROMPT, PROMPT, Pixels(), pixels, mask).args
    entries = positive[0][1]
    assert entries["concat_mask"].shape == (1, 1, 16, 32) and entries["strength"] == 0.5
    seen = entries["concat_latent_image"]
    assert seen.shape == (1, 3, 2, 4) and (seen[..., 2:] == 0.5).all()
    assert torch.allclose(seen[..., :2], latent["samples"][..., :2])
    assert torch.equal(latent["samples"], Pixels().encode(pixels)) and latent["noise_mask"] is entries["concat_mask"]
    assert "concat_mask" not in PROMPT[0][1] and negative[0][1].keys() == entries.keys()


def test_the_noise_mask_can_be_left_out() -> None:
    latent = InpaintModelConditioning.execute(PROMPT, PROMPT, Pixels(), picture(8, 8), torch.ones(4, 4), False).args[2]
    assert "noise_mask" not in latent


def test_an_editing_model_starts_from_nothing_and_sees_the_picture() -> None:
    pixels = picture(17, 24)
    positive, _, latent = InstructPixToPixConditioning.execute(PROMPT, PROMPT, Pixels(), pixels).args
    assert torch.equal(positive[0][1]["concat_latent_image"], Pixels().encode(pixels))
    assert latent["samples"].shape == (1, 3, 2, 3) and not latent["samples"].any()
