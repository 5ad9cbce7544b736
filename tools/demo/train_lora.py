"""Train a LoRA of the demo model's transformers in minutes: every object yellow, or every object a ring.

    python -m attention_patchbay.tools.demo.train_lora gold|ring FILE.safetensors

The captions go on naming other colours and shapes, so it is the LoRA that makes the difference. Steps are counted and
all that is drawn is seeded, so the same torch on the same machine gives the same file.
"""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...ldm_patched.demo import CHECKPOINT, LATENT_SCALE
from ...ldm_patched.images.vae import VAE
from ...ldm_patched.loading.sd import load_checkpoint
from .picture import draw
from .train_unet import Data, DemoNet, alphas_cumprod, caption_batch, describe, unet_loss
from .training import learning_rate, save_atomic

log = logging.getLogger(__name__)

TRAITS = {"gold": {"colour": "yellow"}, "ring": {"shape": "ring"}}  # what becomes of every object
PEAK = 4e-3
Pairs = Mapping[str, tuple[nn.Parameter, nn.Parameter]]  # down and up by the path of their layer


def load_net() -> DemoNet:
    """Load the networks of the demo checkpoint, in float32 and frozen."""
    net, weights = DemoNet(), load_file(CHECKPOINT)
    for part, prefix in ((net.unet, "model.diffusion_model."), (net.clip, "cond_stage_model.transformer.")):
        part.load_state_dict({k.removeprefix(prefix): v.float() for k, v in weights.items() if k.startswith(prefix)})
    return net.requires_grad_(False)


def add_pairs(net: DemoNet, rank: int) -> Pairs:
    """Put a LoRA that changes nothing yet beside each linear layer of the transformers."""
    pairs = {}
    for path, layer in net.unet.named_modules():
        if "transformer_blocks" in path and isinstance(layer, nn.Linear):
            down = nn.Parameter(torch.randn(rank, layer.in_features) * layer.in_features**-0.5)
            pairs[path] = pair = down, nn.Parameter(torch.zeros(layer.out_features, rank))
            layer.register_forward_hook(lambda _, x, out, pair=pair: out + x[0] @ pair[0].t() @ pair[1].t())
    return pairs


@torch.inference_mode()
def draw_data(trait: Mapping[str, str], vae: VAE, count: int, seed: int) -> Data:
    """Draw and encode pictures in which every object has a trait; what they show is told without it."""
    rng = random.Random(seed)
    things = describe(count, rng)
    pictures = [draw(tuple(replace(thing, **trait) for thing in some), rng)[0] for some in things]
    latents = [vae.encode(torch.from_numpy(np.stack(pictures[i : i + 16]))) for i in range(0, count, 16)]
    return Data(torch.cat(latents) * LATENT_SCALE, things)


def train_lora(net: DemoNet, pairs: Pairs, data: Data, steps: int, seed: int, batch: int = 16) -> None:
    """Train the pairs."""
    parameters = [part for pair in pairs.values() for part in pair]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK, betas=(0.9, 0.99), weight_decay=0.01)
    rng, alphas, running = random.Random(seed), alphas_cumprod(), 0.0
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate(PEAK, step, step / steps, warmup=20)
        chosen = torch.randint(0, len(data.things), (batch,))
        ids, muted = caption_batch([data.things[i] for i in chosen.tolist()], rng)
        loss = unet_loss(net, data.latents[chosen], ids, muted, alphas, half=False)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        running += float(loss.detach())
        if (step + 1) % 50 == 0:
            log.info("step %d of %d: loss %.4f", step + 1, steps, running / 50)
            running = 0.0


def kohya(pairs: Pairs) -> dict[str, Tensor]:
    """Name the pairs as kohya does, in float16."""
    entries: dict[str, Tensor] = {}
    for path, (down, up) in pairs.items():
        name = f"lora_unet_{path.replace('.', '_')}"
        entries |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        entries[f"{name}.alpha"] = torch.tensor(float(len(down)))
    return {key: value.detach().to(torch.float16).contiguous() for key, value in entries.items()}


def make_lora(trait: str, steps: int, rank: int, pictures: int, seed: int) -> dict[str, Tensor]:
    """Train a LoRA of a trait and return its entries."""
    torch.manual_seed(seed)
    net, (_, _, vae) = load_net(), load_checkpoint(CHECKPOINT)
    pairs = add_pairs(net, rank)
    train_lora(net, pairs, draw_data(TRAITS[trait], vae, pictures, seed), steps, seed)
    return kohya(pairs)


def main() -> None:
    """Train and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trait", choices=tuple(TRAITS))
    parser.add_argument("output", type=Path)
    for name, default in (("steps", 400), ("rank", 4), ("pictures", 640), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    for name in ("steps", "rank", "pictures"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: give 1 or more")
    if options.output.is_dir() or not options.output.absolute().parent.is_dir():
        parser.error(f"{options.output}: give the name of a file in a folder that is there")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)  # so that sums are added in the same order everywhere
    entries = make_lora(options.trait, options.steps, options.rank, options.pictures, options.seed)
    about = {"format": "pt", "modelspec.title": f"Attention Patchbay demo: {options.trait}", "modelspec.license": "MIT"}
    save_atomic(options.output, lambda partial: save_file(entries, partial, about))
    log.info("wrote %s, %.0f kB", options.output, options.output.stat().st_size / 1e3)


if __name__ == "__main__":
    main()
