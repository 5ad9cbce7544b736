"""Small VAEs, hypernetworks and embeddings in files of torch.save, in both hosts: `files_child.py RESULT.json`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from attention_patchbay.tests.contract import patched_child as hosts

import folder_paths  # isort: skip
import comfy.sd1_clip  # isort: skip
from comfy.taesd.taesd import TAESD  # isort: skip

from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.ldm_patched.text.embeddings import load_embedding
from safetensors.torch import save_file

MODELS = Path(tempfile.mkdtemp())


def apart(mine: torch.Tensor, real: torch.Tensor) -> float:
    assert mine.shape == real.shape, f"{tuple(mine.shape)}, not {tuple(real.shape)}"
    return float((mine - real).abs().max() / real.abs().max())


def compare_small_vaes() -> None:
    torch.manual_seed(0)
    for kind, ending in (("taesd", "safetensors"), ("taesdxl", "pth")):
        network = TAESD()
        for part in ("encoder", "decoder"):
            weights = {
                key: torch.randn_like(value) / (value[0].numel() ** 0.5 if value.ndim > 1 else 10)
                for key, value in getattr(network, f"taesd_{part}").state_dict().items()
            }
            path = MODELS / "vae_approx" / f"{kind}_{part}.{ending}"
            save_file(weights, path) if ending == "safetensors" else torch.save(weights, path)
    pixels = torch.rand(2, 50, 66, 3)
    latent = {"samples": hosts.draw(3, 2, 4, 6, 9) * 4}
    for kind in ("taesd", "taesdxl"):
        found: list[Any] = []
        for node in (hosts.ours, hosts.theirs):
            (vae,) = node("VAELoader", vae_name=kind)
            encoded = node("VAEEncode", pixels=pixels, vae=vae)[0]["samples"]
            found.append((encoded, *node("VAEDecode", samples=latent, vae=vae)))
        for what, mine, real in zip(("encode", "decode"), *found, strict=True):
            hosts.FOUND[f"{kind} {what}"] = apart(mine, real), 1.0


def hypernetwork(dims: tuple[int, ...], normed: bool, layers: int = 2) -> dict[Any, Any]:
    """Return the networks for keys and values as the web UI saves them."""
    values: dict[Any, Any] = {}
    for dim in dims:
        pair = []
        for seed in (0, 1):
            weights, place = {}, 0
            for i in range(layers):
                rows, columns = (2 * dim, dim) if i == 0 else (dim, 2 * dim)
                weights[f"linear.{place}.weight"] = hosts.draw(seed + i, rows, columns) * 0.2
                weights[f"linear.{place}.bias"] = hosts.draw(seed + i + 5, rows) * 0.2
                place += 2
                if normed:
                    weights[f"linear.{place}.weight"] = 1 + hosts.draw(seed + i, rows) * 0.2
                    weights[f"linear.{place}.bias"] = hosts.draw(seed + i, rows) * 0.2
                    place += 1
            pair.append(weights)
        values[dim] = tuple(pair)
    return values


def compare_hypernetworks() -> None:
    hosts.use({})
    cases = {
        "linear": ({}, False),
        "relu": ({"activation_func": "relu", "name": "a", "step": 12, "use_dropout": True}, False),
        "normed": ({"activation_func": "mish", "is_layer_norm": True, "activate_output": True}, True),
        "swish": ({"activation_func": "swish", "sd_checkpoint": None, "optional_info": "x"}, False),
    }
    for what, (settings, normed) in cases.items():
        torch.save({**hypernetwork((32, 64, 16), normed), **settings}, MODELS / "hypernetworks" / f"{what}.pt")
        inputs = {"hypernetwork_name": f"{what}.pt", "strength": 0.7}
        hosts.compare(f"hypernetwork {what}", hosts.on_model("HypernetworkLoader", **inputs)())


def compare_embeddings() -> None:
    vectors = hosts.draw(1, 3, 768)
    files: dict[str, Any] = {
        "webui": {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "a", "step": 1},
        "plain": {"<a>": vectors[0]},
        "both": {"clip_g": hosts.draw(2, 3, 1280), "clip_l": vectors},
    }
    for name, values in files.items():
        path = MODELS / f"{name}.pt"
        torch.save(values, path)
        real = comfy.sd1_clip.load_embed(name, str(MODELS), 768, "clip_l")
        hosts.FOUND[f"embedding {name}"] = apart(load_embedding(path, "clip_l"), real.reshape(-1, 768)), 1.0


if __name__ == "__main__":
    for place in ("vae_approx", "hypernetworks"):
        (MODELS / place).mkdir()
        folder_paths.add_model_folder_path(place, str(MODELS / place))
    with entered(Session(Folders(models=MODELS))), torch.no_grad():
        compare_small_vaes()
        compare_hypernetworks()
        compare_embeddings()
    Path(sys.argv[1]).write_text(json.dumps(hosts.FOUND))
