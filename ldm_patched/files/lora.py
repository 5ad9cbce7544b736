"""LoRA files (Hu et al. 2021, arXiv 2106.09685): which weight each entry belongs to, and the patches they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from ..modules.weight_adapters import BOFT, GLORA, LOHA, LOKR, LORA, OFT, Adapter, Kind
from .diffusers_keys import unet_to_diffusers

# how a name goes on to its up, down and middle matrix in the layouts of kohya, diffusers and peft
LAYOUTS: tuple[tuple[str, str, str | None], ...] = (
    (".lora_up.weight", ".lora_down.weight", ".lora_mid.weight"),
    ("_lora.up.weight", "_lora.down.weight", None),
    (".lora_B.weight", ".lora_A.weight", None),
    (".lora.up.weight", ".lora.down.weight", None),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight", None),
    (".lora_B.default.weight", ".lora_A.default.weight", None),
    (".lora_B", ".lora_A", None),
)
# lengths of the rows, as LyCORIS and ComfyUI read them and as peft does
LENGTHS = {"dora_scale": (".dora_scale",)}
PEFT_LENGTHS = {
    "magnitude": (
        ".lora_magnitude_vector",
        ".lora_magnitude_vector.weight",
        ".lora_magnitude_vector.default",
        ".lora_magnitude_vector.default.weight",
    )
}
LORA_ROWS = tuple(
    (LORA, {"up": (up,), "down": (down,), **({"mid": (mid,)} if mid else {}), **LENGTHS, **PEFT_LENGTHS})
    for up, down, mid in LAYOUTS
)
# each kind with the endings of its parts
KINDS: tuple[tuple[Kind, Mapping[str, tuple[str, ...]]], ...] = (
    *LORA_ROWS,
    (LOHA, {**{name: (f".hada_{name}",) for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")}, **LENGTHS}),
    (LOKR, {**{n: (f".lokr_{n}",) for n in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")}, **LENGTHS}),
    (GLORA, {**{name: (f".{name}.weight",) for name in ("a1", "a2", "b1", "b2")}, **LENGTHS}),
    (OFT, {"blocks": (".oft_blocks",)}),
    (BOFT, {"blocks": (".oft_blocks",), "rescale": (".rescale",)}),
)
# entries that are a tensor of the weight's own shape, or of its bias's
WHOLE = (
    (".w_norm", "diff", "weight"),
    (".b_norm", "diff", "bias"),
    (".diff", "diff", "weight"),
    (".diff_b", "diff", "bias"),
    (".set_weight", "set", "weight"),
)
# what keys end in behind the name of their layer, the longest first
ENDINGS = sorted(
    {end for _, roles in KINDS for ends in roles.values() for end in ends} | {end for end, _, _ in WHOLE},
    key=len,
    reverse=True,
)
# ends of keys that only peft writes
PEFT_ROTATIONS = re.compile(r"\.b?oft_[rRs](\.\w+)*")
TEXT_LAYERS = ("mlp.fc1", "mlp.fc2", "self_attn.k_proj", "self_attn.q_proj", "self_attn.v_proj", "self_attn.out_proj")
UNET = "diffusion_model."
PEFT_IN_UNET = "unet.base_model.model."
PROJECTIONS = {
    "lora_te1_text_projection": "clip_l.transformer.text_projection.weight",
    "lora_te2_text_projection": "clip_g.transformer.text_projection.weight",
    "lora_prior_te_text_projection": "clip_g.transformer.text_projection.weight",
}
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
        else:
            names[UNET + key] = UNET + key
    for there, here in unet_to_diffusers(own).items():
        if there.endswith(END):
            stem = there.removesuffix(END)
            for name in (stem, stem.replace("add_embedding.", "class_embedding.")):
                names |= dict.fromkeys(_diffusers_names(name), UNET + here)
    return names


def _diffusers_names(stem: str) -> list[str]:
    flat = stem.replace(".", "_")
    processor = stem.replace(".to_", ".processor.to_").removesuffix(".0" if stem.endswith(".to_out.0") else "")
    peft = [f"{before}{stem}" for before in ("unet.", "base_model.model.", "base_model.model.unet.", PEFT_IN_UNET)]
    return [f"lora_unet_{flat}", f"lycoris_{flat}", processor, f"unet.{processor}", *peft]


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
                names |= dict.fromkeys((f"lora_te_{flat}", f"lora_prior_te_{flat}"), key)
    return names | {name: key for name, key in PROJECTIONS.items() if key in all_keys}


def fault_of(file: Mapping[str, Tensor]) -> str | None:
    """Return why no LoRA can be computed from these tensors, by the first key that is at fault; None if none is."""
    if not file:
        return "it holds no tensors; take another copy of the file"
    for key, tensor in file.items():
        if tensor.numel() == 0:
            shape = tuple(tensor.shape)
            return f"{key} is empty, its shape is {shape}, as of a layer of rank 0; take another copy of the file"
        if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
            return f"{key} holds NaN or infinity; take another copy of the file"
    return None


def load_lora(file: Mapping[str, Tensor], names: Mapping[str, str]) -> tuple[dict[str, Any], set[str]]:
    """Return the patches of a LoRA file by weight, and the keys of the file that belong to none of `names`.

    Raises ValueError for kinds that would come out wrong.
    """
    _refuse_rotations(file)
    patches: dict[str, Any] = {}
    unused = set(file)
    for name, weight in names.items():
        for key, patch, used in _entries(file, name, weight):
            patches[key] = patch
            unused -= {*used, f"{name}.alpha"}
    return patches, unused


def named_patches(file: Mapping[str, Tensor]) -> Iterator[tuple[str, Any, set[str]]]:
    """Yield (name of a layer, patch, keys of the file) for all that a LoRA file holds, whatever model it is for.

    Raises ValueError as `load_lora` does.
    """
    _refuse_rotations(file)
    stems = (key.removesuffix(end) for key in file for end in ENDINGS if key.endswith(end))
    for name in dict.fromkeys(stems):
        for _, patch, used in _entries(file, name, name + END):
            yield name, patch, used | ({f"{name}.alpha"} & set(file))


def _refuse_rotations(file: Mapping[str, Tensor]) -> None:
    rotations = next((key for key in file if PEFT_ROTATIONS.search(key)), None)
    if rotations is not None:
        raise ValueError(f"{rotations}: OFT and BOFT in peft's layout are not read; save them as LyCORIS does")


def _entries(file: Mapping[str, Tensor], name: str, weight: str) -> Iterator[tuple[str, Any, set[str]]]:
    """Yield (weight, patch, keys of the file) for what a file holds under a name."""
    for kind, endings in KINDS:
        keys = {role: name + end for role, ends in endings.items() for end in ends if name + end in file}
        if any(keys.keys() >= set(needed) for needed in kind.needs):
            parts = {role: file[key] for role, key in keys.items()}
            if kind.fits(parts):
                used_scalar = _refuse_unknown_scales(file, name, kind)
                adapter, used = _adapter(file, name, kind, parts)
                yield weight, adapter, used | set(keys.values()) | used_scalar
    for end, kind_of_patch, what in WHOLE:
        if name + end in file:
            key = weight if what == "weight" else f"{weight.removesuffix(END)}.bias"
            yield key, (kind_of_patch, (file[name + end],)), {name + end}


def _refuse_unknown_scales(file: Mapping[str, Tensor], name: str, kind: Kind) -> set[str]:
    """Refuse scales beside the parts that are not computed with; return the one that is 1."""
    if kind in (OFT, BOFT) and f"{name}.dora_scale" in file:
        raise ValueError(f"{name}.dora_scale: weight decomposition together with {kind.name} is not read")
    scalar = file.get(f"{name}.scalar")
    if scalar is not None and not bool((scalar == 1).all()):
        raise ValueError(f"{name}.scalar: a LyCORIS file with use_scalar; save it with the scalar multiplied in")
    return set() if scalar is None else {f"{name}.scalar"}


def _adapter(file: Mapping[str, Tensor], name: str, kind: Kind, parts: dict[str, Tensor]) -> tuple[Adapter, set[str]]:
    """Return the adapter of some parts, and which numbers beside them it was made with."""
    alpha = file.get(f"{name}.alpha")
    shape = file.get(f"{name}.reshape_weight") if kind is LORA else None
    if (alpha is not None and alpha.numel() != 1) or (shape is not None and shape.ndim != 1):
        raise ValueError(f"{name}.alpha has to be a number, and {name}.reshape_weight a shape")
    reshape = None if shape is None else tuple(int(side) for side in shape.tolist())
    adapter = Adapter(kind, parts, None if alpha is None else float(alpha), reshape)
    return adapter, set() if reshape is None else {f"{name}.reshape_weight"}
