"""Sample a UNet behind nodes of ours and of other packs, in both orders: `neighbours_child.py RESULT.json [NODE ...]`.

PATCHBAY_PACKS is a folder of pack folders. The result has a row for each pair and order, and one for each node of
another pack alone, or that its pack is missing.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

result, *wanted = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import comfy.ldm.chroma.layers as chroma  # noqa: E402
import comfy.ldm.cosmos.predict2 as predict2  # noqa: E402
import comfy.ldm.flux.layers as flux  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.supported_models  # noqa: E402
from attention_patchbay.ldm_patched.patches.addressing.where import Where  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.attach import attach  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.host import Host  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.attention_temperature import AttentionTemperature  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.key_value_downsampling import KeyValueDownsampling  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.perturbed_guidance import PerturbedGuidance  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.style_aligned import StyleAligned  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.token_merging import TokenMerging  # noqa: E402
from attention_patchbay.ldm_patched.patches.reading import inspector, report  # noqa: E402
from attention_patchbay.ldm_patched.patches.routing.rule import Rule  # noqa: E402
from attention_patchbay.nodes import _comfyui  # noqa: E402
from attention_patchbay.tests.unets import UNET, draw  # noqa: E402

import nodes  # noqa: E402

# The blocks of SD 1, which some packs count on, in few channels
SD1 = {
    **UNET,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}
SIZE = 16
SHAPE = (2, 4, SIZE, SIZE)
HOST = Host(attend=_comfyui.attend, predict=_comfyui.predict)
POSITIVE, NEGATIVE, OTHER = ([[draw(seed, 1, 7, 16), {}]] for seed in (1, 2, 3))
Model = Any
Node = Callable[[Model], Model]


def unet() -> Model:
    config = comfy.supported_models.SD15({**SD1, "adm_in_channels": None, "use_temporal_attention": False})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def half(left: bool) -> torch.Tensor:
    mask = torch.zeros(1, SIZE, SIZE)
    mask[..., slice(0, SIZE // 2) if left else slice(SIZE // 2, None)] = 1.0
    return mask


def ours() -> dict[str, Node]:
    """Return nodes of ours, each on all blocks."""
    cross = Where.of("all cross")
    region = Region(draw(5, 1, 5, 16), half(True))
    methods = {
        "temperature": AttentionTemperature(3.0, where=cross),
        "regions": RegionalPrompt((region,)),
        "normalized": NormalizedGuidance(draw(6, 1, 5, 16), 4.0, 9.0),
        "reference": Reference(draw(7, 1, 4, SIZE, SIZE)),
        "style": StyleAligned(),
        "downsampling": KeyValueDownsampling(),
        "merging": TokenMerging(),
        "perturbed": PerturbedGuidance(scale=2.0, where=Where.of("middle")),
        "rule": Rule("basic", Where.of("middle")),
    }
    return {name: lambda model, method=method: attach(model, method, HOST) for name, method in methods.items()}


def called(kind: str, **inputs: Any) -> Node:
    """Return a node of ComfyUI or of a pack."""
    cls = nodes.NODE_CLASS_MAPPINGS[kind]

    def put(model: Model) -> Model:
        done = getattr(cls(), cls.FUNCTION)(model=model, **inputs)
        return getattr(done, "result", done)[0]

    return put


def adapter(model: Model) -> Model:
    """Put IPAdapter's attention on three blocks, with random projections in the place of a file."""
    module = next(module for name, module in sys.modules.items() if name.endswith("IPAdapter_plus.IPAdapterPlus"))
    model = model.clone()
    torch.manual_seed(3)
    for key, channels in ((("input", 4, 0), 64), (("middle", 0, 0), 64), (("output", 9, 0), 32)):
        layers = {f"x_to_{part}_ip": torch.nn.Linear(16, channels) for part in "kv"}
        ip = SimpleNamespace(ip_layers=SimpleNamespace(to_kvs=layers))
        ip.get_multigpu_clone = lambda device, ip=ip: ip
        settings = {"module_key": "x", "ipadapter": ip, "cond": draw(8, 1, 4, 16), "uncond": draw(9, 1, 4, 16)}
        limits = {"weight": 2.0, "weight_type": "linear", "sigma_start": 1e9, "sigma_end": 0.0}
        module.set_model_patch_replace(model, {**settings, **limits}, key)
    return model


def couple(model: Model) -> Model:
    prompts = [(draw(seed, 1, 7, 16), {"mask": half(seed == 1), "mask_strength": 1.0}) for seed in (1, 4)]
    node = nodes.NODE_CLASS_MAPPINGS["Attention couple"]()
    return node.attention_couple(model, prompts, NEGATIVE, "Attention")[0]


def couple_ppm(model: Model) -> Model:
    masks = {"base_mask": half(True), "mask_1": half(False)}
    return called("AttentionCouplePPM", base_cond=POSITIVE, cond_1=OTHER, **masks)(model)


THEIRS: dict[str, tuple[str, Callable[[], Node]]] = {
    "core PAG": ("", lambda: called("PerturbedAttentionGuidance", scale=3.0)),
    "core SAG": ("", lambda: called("SelfAttentionGuidance", scale=2.0, blur_sigma=2.0)),
    "core HyperTile": ("", lambda: called("HyperTile", tile_size=32, swap_size=1, max_depth=2, scale_depth=False)),
    "core ToMe": ("", lambda: called("TomePatchModel", ratio=0.5)),
    "IPAdapter": ("ComfyUI_IPAdapter_plus", lambda: adapter),
    "NAG": ("sd-perturbed-attention", lambda: called("NormalizedAttentionGuidance", negative=OTHER, scale=4.0)),
    "PAG": ("sd-perturbed-attention", lambda: called("PerturbedAttention", scale=3.0)),
    "SEG": ("sd-perturbed-attention", lambda: called("SmoothedEnergyGuidanceAdvanced", scale=3.0)),
    "TPG": ("sd-perturbed-attention", lambda: called("TokenPerturbationGuidance", scale=3.0)),
    "PLADIS": ("sd-perturbed-attention", lambda: called("PLADIS", scale=2.0)),
    "couple": ("attention-couple-ComfyUI", lambda: couple),
    "couple of ppm": ("ComfyUI-ppm", lambda: couple_ppm),
    "KSamplerWithNAG": ("ComfyUI-NAG", lambda: lambda model: model),
}


def sample(model: Model, theirs: str, steps: int = 2) -> torch.Tensor:
    torch.manual_seed(0)
    if theirs == "KSamplerWithNAG":
        guidance = {"nag_scale": 5.0, "nag_tau": 3.5, "nag_alpha": 0.5, "nag_sigma_end": 0.0, "nag_negative": OTHER}
        inputs = {"positive": POSITIVE, "negative": NEGATIVE, "latent_image": {"samples": torch.zeros(SHAPE)}}
        node = nodes.NODE_CLASS_MAPPINGS[theirs]()
        sampler = {"seed": 0, "steps": steps, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple"}
        return node.sample(model=model, **sampler, **guidance, **inputs)[0]["samples"]
    noise = comfy.sample.prepare_noise(torch.zeros(SHAPE), 0)
    return comfy.sample.sample(
        model, noise, steps, 2.0, "euler", "simple", POSITIVE, NEGATIVE, torch.zeros(SHAPE), seed=0, disable_pbar=True
    )


def load(folder: Path) -> set[str]:
    """Load the packs that are there, and return the names of those that work in this ComfyUI."""
    # These packs import names for other models than UNets, which this ComfyUI has left empty or taken away
    for name in ("DoubleStreamBlock", "SingleStreamBlock"):
        if getattr(chroma, name, None) is None:
            setattr(chroma, name, getattr(flux, name))
    if not hasattr(predict2, "apply_rotary_pos_emb"):
        predict2.apply_rotary_pos_emb = None
    packs = {pack for pack, _ in THEIRS.values() if pack and (folder / pack).is_dir()}
    asyncio.run(nodes.init_builtin_extra_nodes())
    return {pack for pack in sorted(packs) if asyncio.run(nodes.load_custom_node(str(folder / pack)))}


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


def main() -> list[dict[str, Any]]:
    packs = load(Path(os.environ["PATCHBAY_PACKS"]).resolve())
    base, rows = unet(), []
    mine = ours()
    plain, short = sample(base, ""), sample(base, "", 1)
    alone = {name: sample(node(base), "") for name, node in mine.items()}
    for theirs, (pack, make) in THEIRS.items():
        if wanted and theirs not in wanted:
            continue
        if pack and pack not in packs:
            rows.append({"theirs": theirs, "missing": pack})
            continue
        node = make()
        only = sample(node(base), theirs)
        rows.append({"theirs": theirs, "effect": far(only, plain), "plain": far(sample(base, ""), plain)})
        for name, put in mine.items():
            for first in (True, False):
                both = node(put(base)) if first else put(node(base))
                row = {"ours": name, "theirs": theirs, "ours first": first}
                row |= pair(both, theirs, alone[name], only)
                rows.append({**row, "plain": far(sample(base, "", 1), short)})
    return rows


def pair(model: Model, theirs: str, ours_alone: torch.Tensor, theirs_alone: torch.Tensor) -> dict[str, Any]:
    try:
        out = sample(model, theirs)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    found = [(one.slot, one.owner, one.calls, one.trouble) for one in inspector.findings(model, out)]
    effects = {"ours_effect": far(out, theirs_alone), "theirs_effect": far(out, ours_alone), "sum": out.sum().item()}
    return {**effects, "report": report.report(model, out).text, "found": sorted(set(map(str, found)))}


Path(result).write_text(json.dumps(main()))
