"""Train the demo checkpoint from nothing: the autoencoder first, then UNet and text encoder together.

    python -m attention_patchbay.tools.demo.train --directory build/demo

It stops when its minutes are spent. Ctrl-C saves the state; the same command then goes on from there.
"""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...ldm_patched.demo import CHECKPOINT, VAE
from ...ldm_patched.ldm.models.autoencoder import AutoencoderKL
from ...ldm_patched.modules.ops import plain
from .train_unet import Data, describe, make_data, train_unet
from .train_vae import train_vae
from .training import save_atomic

log = logging.getLogger(__name__)

METADATA = {
    "format": "pt",
    "modelspec.title": "Attention Patchbay demo: coloured shapes",
    "modelspec.license": "MIT",
    "modelspec.architecture": "stable-diffusion-v1 layout, reduced",
    "modelspec.resolution": "128x128",
    "modelspec.prediction_type": "epsilon",
}


def export(path: Path, vae: AutoencoderKL, weights: Mapping[str, Tensor], seed: int) -> None:
    """Write one checkpoint in the public layout, in float16; `weights` are those of a DemoNet."""
    prefixes = {"unet.": "model.diffusion_model.", "clip.": "cond_stage_model.transformer."}
    tensors = {f"first_stage_model.{key}": value for key, value in vae.state_dict().items()}
    for key, value in weights.items():
        tensors[prefixes[key[:5]] + key[5:]] = value
    tensors = {key: value.detach().to(torch.float16).contiguous() for key, value in tensors.items()}
    save_atomic(path, lambda partial: save_file(tensors, partial, {**METADATA, "seed": str(seed)}))


def get_vae(directory: Path, minutes: float, seed: int) -> AutoencoderKL:
    """Load the finished autoencoder, or train it."""
    path = directory / "vae.safetensors"
    if not path.exists():
        vae = train_vae(directory, minutes, seed)
        save_atomic(path, lambda partial: save_file(vae.state_dict(), partial))
        return vae
    vae = AutoencoderKL(VAE, operations=plain)
    vae.load_state_dict(load_file(path))
    return vae.eval()


def get_data(directory: Path, vae: AutoencoderKL, count: int, seed: int) -> Data:
    """Load the encoded pictures, or draw and encode them."""
    path = directory / "latents.safetensors"
    if path.exists():
        latents = load_file(path)["latents"].float()
        return Data(latents, describe(len(latents), random.Random(seed)))
    log.info("encoding %d pictures", count)
    data = make_data(vae, count, seed)
    save_atomic(path, lambda partial: save_file({"latents": data.latents.half()}, partial))
    return data


def main() -> None:
    """Train and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True, help="for the state, some 300 MB")
    parser.add_argument("--output", type=Path, default=CHECKPOINT)
    parser.add_argument("--vae-minutes", type=float, default=20.0)
    parser.add_argument("--minutes", type=float, default=80.0, help="for UNet and text encoder")
    parser.add_argument("--pictures", type=int, default=16000)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    options.directory.mkdir(parents=True, exist_ok=True)
    try:
        vae = get_vae(options.directory, options.vae_minutes, options.seed)
        data = get_data(options.directory, vae, options.pictures, options.seed)
        _, average = train_unet(options.directory, options.minutes, options.seed, data)
    except KeyboardInterrupt:
        log.info("stopped; the same command goes on from here")
        raise SystemExit(130) from None
    export(options.output, vae, average.weights, options.seed)
    log.info("wrote %s, %.1f MB", options.output, options.output.stat().st_size / 1e6)


if __name__ == "__main__":
    main()
