"""Train the demo model's autoencoder on drawn pictures."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...ldm_patched.demo import LATENT_SCALE, SIZE, VAE
from ...ldm_patched.ldm.models.autoencoder import AutoencoderKL
from ...ldm_patched.modules.ops import plain
from .draws import draw_things
from .picture import CENTRES, draw
from .training import Run

log = logging.getLogger(__name__)

KL_WEIGHT = 1e-4
EDGE_WEIGHT = 1.0


def draw_batch(count: int, rng: random.Random, crop: int = SIZE) -> Tensor:
    """Draw pictures as (count, 3, crop, crop) in -1..1, cropped around an object when crop < SIZE."""
    batch = np.empty((count, crop, crop, 3), dtype=np.float32)
    for picture in batch:
        things = draw_things(rng)
        full, _ = draw(things, rng)
        x, y = (int(part * SIZE - crop / 2 + rng.uniform(-16, 16)) for part in CENTRES[rng.choice(things).place or ""])
        x, y = (max(0, min(SIZE - crop, at)) for at in (x, y))
        picture[:] = full[y : y + crop, x : x + crop]
    return torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous() * 2.0 - 1.0


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Give the differences between neighbouring pixels, downwards and to the right."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def vae_loss(vae: AutoencoderKL, x: Tensor) -> Tensor:
    """Add up absolute and squared error, edge error and the divergence of the latents from a normal distribution."""
    with torch.autocast("cpu", torch.bfloat16):
        mean, logvar = vae.moments(x)
        out = vae.decode(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean))
    out, mean, logvar = out.float(), mean.float(), logvar.float()
    pixel = F.l1_loss(out, x) + F.mse_loss(out, x)
    edge = sum(F.l1_loss(a, b) for a, b in zip(edges(out), edges(x), strict=True))
    kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
    return pixel + EDGE_WEIGHT * edge + KL_WEIGHT * kl


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, latents: Tensor) -> None:
    """Fold a shift and a scale into the 1x1 convolutions: then latents * LATENT_SCALE have mean 0 and deviation 1."""
    shift = latents.mean(dim=(0, 2, 3))
    scale = latents.std(dim=(0, 2, 3)) * LATENT_SCALE
    channels = len(shift)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:channels] /= scale[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - shift) / scale
    quant.bias[channels:] -= 2.0 * scale.log()
    post.bias += post.weight[:, :, 0, 0] @ shift
    post.weight *= scale[None, :, None, None]


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pictures: Sequence[Tensor]) -> Tensor:
    """Encode batches of pictures to the latents' means."""
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([vae.encode(x).float() for x in pictures])


def train_vae(directory: Path, minutes: float, seed: int) -> AutoencoderKL:
    """Train the autoencoder: four fifths of the time on crops, the rest on whole pictures."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(VAE, operations=plain)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    run = Run("vae", {"vae": vae}, optimizer, directory, minutes, peak=1e-3)
    run.resume()
    rng = random.Random(seed + run.step)

    def loss_of() -> Tensor:
        whole = run.budget.share() > 0.8
        return vae_loss(vae, draw_batch(4, rng) if whole else draw_batch(8, rng, SIZE // 2))

    run.loop(loss_of, after=lambda: None)
    latents = encode_pictures(vae, [draw_batch(16, rng) for _ in range(16)])
    normalise_latents(vae, latents)
    log.info("vae: latents had deviation %s", latents.std(dim=(0, 2, 3)).tolist())
    return vae.eval()
