"""Train the demo model's UNet and text encoder together on latents of drawn pictures."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...ldm_patched.demo import CLIP, CONTEXT_LENGTH, LATENT_SCALE, UNET
from ...ldm_patched.demo.captions import COLOURS, PLACES, SHAPES, Thing, write
from ...ldm_patched.demo.tokenizer import DemoTokenizer, pad
from ...ldm_patched.ldm.models.autoencoder import AutoencoderKL
from ...ldm_patched.ldm.modules.diffusionmodules.openaimodel import UNetModel
from ...ldm_patched.modules.ops import plain
from ...ldm_patched.text.clip_model import CLIPTextModel
from .draws import draw_things
from .picture import draw
from .training import Run

log = logging.getLogger(__name__)

EMPTY_SHARE = 0.1  # samples trained without a caption, for classifier-free guidance
SILENT_SHARE = 0.1  # attributes the caption leaves out
MUTED_SHARE = 0.15  # samples with a word of weight 0
SNR_LIMIT = 5.0
BLANK_SHARE, BLANK_WEIGHT = 0.15, 2.0  # samples of pure noise
WORDS_OF = {word: kind for kind in (COLOURS, SHAPES, tuple(PLACES)) for word in kind}


class DemoNet(nn.Module):
    """The two networks that are trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNetModel(**UNET, dtype=torch.float32, operations=plain)
        self.clip = CLIPTextModel(CLIP, torch.float32, None, plain)

    @torch.no_grad()
    def start(self) -> DemoNet:
        """Set the first weights: branches that add to a skip start at zero, embeddings small."""
        for name, module in self.unet.named_modules():
            if name.endswith(("out_layers.3", "proj_out", "out.2")):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        embeddings = self.clip.text_model.embeddings
        nn.init.normal_(embeddings.token_embedding.weight, std=0.5)
        nn.init.normal_(embeddings.position_embedding.weight, std=0.2)
        return self

    def encode(self, ids: Tensor, muted: Tensor | None = None) -> Tensor:
        """Encode token ids (b, tokens); muted positions get the empty caption's vector, as a weight of 0 does."""
        context = self.clip(ids)[0]
        if muted is None:
            return context
        empty = self.clip(tokenize([""]))[0]
        return torch.where(muted[..., None], empty, context)


def tokenize(captions: Sequence[str]) -> Tensor:
    """Give the token ids of captions, (captions, CONTEXT_LENGTH)."""
    tokenizer = DemoTokenizer()
    return torch.tensor([pad(tokenizer(caption)["input_ids"]) for caption in captions])


def alphas_cumprod() -> Tensor:
    """Give the signal share at each of the 1000 training times of Stable Diffusion."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, 0).float()


# Data


@dataclass
class Data:
    """Latents (n, 4, h, w), scaled to deviation 1, with what each picture shows."""

    latents: Tensor
    things: list[tuple[Thing, ...]]


def describe(count: int, rng: random.Random) -> list[tuple[Thing, ...]]:
    """Draw what the pictures show."""
    return [draw_things(rng) for _ in range(count)]


def make_data(vae: AutoencoderKL, count: int, seed: int, batch: int = 32) -> Data:
    """Draw and encode pictures."""
    rng = random.Random(seed)
    things = describe(count, rng)
    latents = []
    for i in range(0, count, batch):
        pictures = np.stack([draw(one, rng)[0] for one in things[i : i + batch]])
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous() * 2.0 - 1.0
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode(x).float() * LATENT_SCALE)
    return Data(torch.cat(latents), things)


def mute_words(words: list[str], rng: random.Random) -> NDArray[np.bool_]:
    """Choose one or two attribute words, change them to any of their kind, and mark their token positions."""
    muted = np.zeros(CONTEXT_LENGTH, dtype=bool)
    at = [i for i, word in enumerate(words) if word in WORDS_OF]
    for i in rng.sample(at, min(len(at), rng.choice((1, 1, 2)))):
        phrase = 3 if words[i] in PLACES and rng.random() < 0.5 else 1
        muted[i + 2 - phrase : i + 2] = True  # the start token is at 0
        words[i] = rng.choice(WORDS_OF[words[i]])
    return muted


def caption_batch(things: Sequence[tuple[Thing, ...]], rng: random.Random) -> tuple[Tensor, Tensor]:
    """Describe pictures, some of them in part or not at all; gives token ids and muted positions."""
    captions, muted = [], np.zeros((len(things), CONTEXT_LENGTH), dtype=bool)
    for row, one in enumerate(things):
        if rng.random() < EMPTY_SHARE:
            captions.append("")
            continue
        said = tuple(
            replace(
                thing,
                colour=None if rng.random() < SILENT_SHARE else thing.colour,
                place=None if rng.random() < SILENT_SHARE else thing.place,
            )
            for thing in rng.sample(one, len(one))
        )
        words = write(said).split()
        if rng.random() < MUTED_SHARE:
            muted[row] = mute_words(words, rng)
        captions.append(" ".join(words))
    return tokenize(captions), torch.from_numpy(muted)


# Training


def written_out(
    func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, *args: object, **kwargs: object
) -> Tensor:
    """Compute attention without a fused kernel: on a CPU the fused one is slow to differentiate in bfloat16."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (b, h, n, d)
    weights = torch.softmax(q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2), dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


OPTIONS = {"optimized_attention_override": written_out}


def draw_times(count: int, times: int) -> Tensor:
    """Draw training times, half of them from the noisiest third, where the picture is laid out."""
    return ((1.0 - torch.rand(count) ** 1.6) * times).long().clamp(max=times - 1)


def loss_weight(alpha: Tensor) -> Tensor:
    """Give the weight of the noise's error at signal share `alpha`.

    In units of the clean latent's error it is SNR up to a limit (min-SNR, Hang et al. 2023, arXiv 2303.09556), and
    sqrt(SNR) below 1: there the caption alone can say where things are, and the plain loss hardly looks.
    """
    snr = alpha / (1.0 - alpha)
    return torch.where(snr < 1.0, snr.sqrt(), snr.clamp(max=SNR_LIMIT)) / snr


def unet_loss(net: DemoNet, latents: Tensor, ids: Tensor, muted: Tensor, alphas: Tensor, half: bool = True) -> Tensor:
    """Give the weighted error of the predicted noise at random times; `half` computes in bfloat16.

    A share of the samples are pure noise at the last time, as when sampling starts (Lin et al. 2023, arXiv
    2305.08891): with nothing to see in the latent, what is where can only come from the caption.
    """
    t = draw_times(len(latents), len(alphas))
    blank = torch.rand(len(latents)) < BLANK_SHARE
    t[blank] = len(alphas) - 1
    alpha = alphas[t]
    signal, spread = (x.sqrt()[:, None, None, None] for x in (alpha, 1.0 - alpha))
    noise = torch.randn_like(latents)
    noisy = torch.where(blank[:, None, None, None], noise, signal * latents + spread * noise)
    context = net.encode(ids, muted)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = net.unet(noisy, t, context, transformer_options=OPTIONS)
    target = (noisy - signal * latents) / spread
    weight = loss_weight(alpha) * torch.where(blank, BLANK_WEIGHT, 1.0)
    return ((out.float() - target).square().mean(dim=(1, 2, 3)) * weight).mean()


class Average:
    """An exponential moving average of a network's weights."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.weights = {name: p.detach().clone() for name, p in net.named_parameters()}

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move a small way towards the present weights, a longer one in the first steps."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(list(self.weights.values()), list(net.parameters()), 1.0 - decay)

    def state_dict(self) -> dict[str, Tensor | int]:
        """Give the weights and the number of updates."""
        return {**self.weights, "steps": self.steps}

    def load_state_dict(self, saved: dict[str, Tensor | int]) -> None:
        """Take over weights and the number of updates."""
        self.steps = int(saved["steps"])
        self.weights = {name: saved[name] for name in self.weights}  # type: ignore[misc]


def train_unet(directory: Path, minutes: float, seed: int, data: Data, batch: int = 32) -> tuple[DemoNet, Average]:
    """Train UNet and text encoder; gives the network and the average of its weights."""
    torch.manual_seed(seed)
    net = DemoNet().start()
    average = Average(net, decay=0.998)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    run = Run("unet", {"net": net, "average": average}, optimizer, directory, minutes, peak=1e-3)
    if run.resume():
        torch.manual_seed(seed + run.step)
    rng, alphas = random.Random(seed + run.step), alphas_cumprod()

    def loss_of() -> Tensor:
        chosen = torch.randint(0, len(data.things), (batch,))
        ids, muted = caption_batch([data.things[i] for i in chosen.tolist()], rng)
        return unet_loss(net, data.latents[chosen], ids, muted, alphas)

    run.loop(loss_of, after=lambda: average.update(net))
    return net, average
