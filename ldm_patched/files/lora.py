"""LoRA files (Hu et al. 2021, arXiv 2106.09685): which weight each entry belongs to, and the patches they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from .diffusers_keys import unet_to_diffusers

# how a name goes on to its up, down and middle matrix in the layouts of kohya, diffusers and peft
LAYOUTS = (
    (".lora_up.weight", ".lora_down.weight", ".lora_mid.weight"),
    ("_lora.up.weight", "_lora.down.weight", None),
    (".lora_B.weight", ".lora_A.weight", None),
    (".lora.up.weight", ".lora.down.weight", None),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight", None),
    (".lora_B.default.weight", ".lora_A.default.weight", None),
)
TEXT_LAYERS = ("mlp.fc1", "mlp.fc2", "self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj", "self_attn.out_proj")
UNET = "diffusion_model."
END = ".weight"


def unet_names(keys: Iterable[str]) -> dict[str, str]:
    """Return {name in a LoRA file: weight} for the state-dict keys of a model (`diffusion_model.*`)."""
    own = [key.removeprefix(UNET) for key in keys if key.startswith(UNET)]
    names = {}
    for key in own:
        if key.endswith(END):
            stem = key.removesuffix(END)
            names[UNET + stem] = UNET + key
            names["lora_unet_" + stem.replace(".", "_")] = UNET + key
    for there, here in unet_to_diffusers(own).items():
        if there.endswith(END):
            names |= dict.fromkeys(_diffusers_names(there.removesuffix(END)), UNET + here)
    return names


def _diffusers_names(stem: str) -> list[str]:
    flat = stem.replace(".", "_")
    processor = stem.replace(".to_", ".processor.to_").removesuffix(".0" if stem.endswith(".to_out.0") else "")
    return [f"lora_unet_{flat}", f"lycoris_{flat}", processor, f"unet.{processor}", f"unet.{stem}"]


def clip_names(keys: Iterable[str]) -> dict[str, str]:
    """Return {name in a LoRA file: weight} for the state-dict keys of text encoders (`clip_l.transformer.*`, ...).

    With two encoders `lora_te1` is the first (CLIP-L) and `lora_te2` the second (CLIP-G).
    """
    all_keys = list(keys)
    encoders = [name for name in ("clip_l", "clip_h", "clip_g") if any(k.startswith(name + ".") for k in all_keys)]
    names = {f"text_encoders.{key.removesuffix(END)}": key for key in all_keys if key.endswith(END)}
    for key in all_keys:
        encoder, _, rest = key.partition(".transformer.text_model.encoder.layers.")
        number, _, layer = rest.removesuffix(END).partition(".")
        if encoder in encoders and layer in TEXT_LAYERS and key.endswith(END):
            place = encoders.index(encoder) + 1
            flat = f"text_model_encoder_layers_{number}_{layer.replace('.', '_')}"
            plain = "text_encoder" if place == 1 else f"text_encoder_{place}"
            names[f"lora_te{place}_{flat}"] = key
            names[f"{plain}.text_model.encoder.layers.{number}.{layer}"] = key
            if place == 1:
                names[f"lora_te_{flat}"] = key
    return names


def load_lora(file: Mapping[str, Tensor], names: Mapping[str, str]) -> tuple[dict[str, Any], set[str]]:
    """Return the patches of a LoRA file by weight, and the keys of the file that belong to none of `names`."""
    patches: dict[str, Any] = {}
    unused = set(file)
    for name, weight in names.items():
        for key, patch, used in _entries(file, name, weight):
            patches[key] = patch
            unused -= used
    return patches, unused


def _entries(file: Mapping[str, Tensor], name: str, weight: str) -> list[tuple[str, Any, set[str]]]:
    """Return (weight, patch, keys of the file) for what a file holds under a name."""
    found: list[tuple[str, Any, set[str]]] = []
    for up, down, mid in LAYOUTS:
        if name + up in file and name + down in file:
            extra = {key for key in (f"{name}.alpha", name + mid if mid else "") if key in file}
            alpha = float(file[f"{name}.alpha"]) if f"{name}.alpha" in extra else None
            middle = file[name + mid] if mid and name + mid in extra else None
            patch = ("lora", (file[name + up], file[name + down], alpha, middle))
            found.append((weight, patch, {name + up, name + down, *extra}))
    bias = weight.removesuffix(END) + ".bias"
    for end, kind, key in ((".diff", "diff", weight), (".diff_b", "diff", bias), (".set_weight", "set", weight)):
        if name + end in file:
            found.append((key, (kind, (file[name + end],)), {name + end}))
    return found
