"""Patch tiny models of each family in ComfyUI: `python families_child.py RESULT.json`, with both on PYTHONPATH.

For each family: its blocks; the error of patches of this library against patches written by hand for the family's own
contract, and their effect; whether a model with a patch that is closed stays as it is, to the bit; what a backend rule
on one block counted; and what is refused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch

JOINT = {"hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2}
JOINT |= {"axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True, "vec_in_dim": 12, "context_in_dim": 16}
FLUX = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "guidance_embed": False}
CHROMA = {"image_model": "chroma", "in_channels": 64, "out_channels": 64, "patch_size": 2, "in_dim": 64, "out_dim": 32}
CHROMA |= {"hidden_dim": 32, "n_layers": 1}
HUNYUAN = {"image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2]}
HUNYUAN |= {"guidance_embed": False, "byt5": False, "use_cond_type_embedding": False, "vision_in_dim": None}
HUNYUAN |= {"meanflow": False, "meanflow_sum": False}
KREA = {"image_model": "krea2", "features": 32, "heads": 2, "kvheads": 1, "tdim": 16, "txtdim": 16, "layers": 2}
KREA |= {"channels": 16, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2}
QWEN = {"image_model": "qwen_image", "in_channels": 64, "num_layers": 2, "attention_head_dim": 16}
QWEN |= {"num_attention_heads": 2, "joint_attention_dim": 16, "axes_dims_rope": (4, 6, 6)}
COSMOS = {"image_model": "cosmos_predict2", "max_img_h": 16, "max_img_w": 16, "max_frames": 8, "in_channels": 16}
COSMOS |= {"out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 32, "num_blocks": 2}
COSMOS |= {"num_heads": 2, "crossattn_emb_channels": 16, "pos_emb_cls": "rope3d"}
WAN = {"image_model": "wan2.1", "model_type": "t2v", "dim": 256, "ffn_dim": 64, "freq_dim": 16, "text_dim": 16}
WAN |= {"num_heads": 2, "num_layers": 2}
LUMINA = {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "cap_feat_dim": 16, "dim": 32, "n_layers": 2}
LUMINA |= {"n_heads": 2, "n_kv_heads": 2, "axes_dims": [4, 6, 6], "axes_lens": [16, 16, 16], "n_refiner_layers": 1}

# Family: its class among ComfyUI's supported models, its configuration, the shape of a latent, the width of its text.
FAMILIES: dict[str, tuple[str, dict[str, Any], tuple[int, ...], int]] = {
    "Flux": ("Flux", {**JOINT, **FLUX, "txt_ids_dims": []}, (1, 16, 8, 12), 16),
    "Chroma": ("Chroma", {**JOINT, **CHROMA, "txt_ids_dims": []}, (1, 16, 8, 12), 16),
    "HunyuanVideo": ("HunyuanVideo", {**JOINT, **HUNYUAN}, (1, 16, 2, 8, 12), 16),
    "Krea2": ("Krea2", KREA, (1, 16, 8, 12), 32),
    "Qwen-Image": ("QwenImage", QWEN, (1, 16, 1, 8, 12), 16),
    "Cosmos-Predict2": ("CosmosT2IPredict2", COSMOS, (1, 16, 1, 8, 12), 16),
    "Wan": ("WAN21_T2V", WAN, (1, 16, 2, 8, 12), 16),
    "Lumina": ("Lumina2", LUMINA, (1, 16, 8, 12), 16),
}
STEPS = 2
Run = Callable[[Any], torch.Tensor]
LAST = {"Flux": "single", "Chroma": "single", "HunyuanVideo": "single", "Krea2": "single", "Cosmos-Predict2": "block"}


# Patches by hand, each for one contract: they double the picture's values or output in the last block


def here(room: str, options: Any) -> bool:
    return (options.get("block_type", "block"), options["block_index"]) == (room, 1)


def joint_values(room: str) -> Callable[..., Any]:
    def patch(q: Any, k: Any, v: torch.Tensor, pe: Any, attn_mask: Any, extra_options: Any) -> dict[str, Any]:
        factor = torch.ones(v.shape[2])
        factor[extra_options["img_slice"][0] :] = 2.0 if here(room, extra_options) else 1.0
        return {"v": v * factor[:, None]}

    return patch


def joint_output(room: str) -> Callable[..., Any]:
    def patch(out: torch.Tensor, extra_options: Any) -> torch.Tensor:
        factor = torch.ones(out.shape[1])
        factor[extra_options["img_slice"][0] :] = 2.0 if here(room, extra_options) else 1.0
        return out * factor[:, None]

    return patch


def hidden_values(room: str) -> Callable[..., Any]:
    def patch(q: Any, k: Any, v: torch.Tensor, pe: Any, attn_mask: Any, extra_options: Any) -> dict[str, Any]:
        return {"v": v * 2.0} if here(room, extra_options) else {}

    return patch


def output_after(room: str) -> Callable[..., Any]:
    def patch(args: Any) -> torch.Tensor:
        return args["x"] * 2.0 if here(room, args["transformer_options"]) else args["x"]

    return patch


# Family: what of it doubles the same: our slot, the host's slot, the patch by hand.
BY_HAND: dict[str, list[tuple[str, str, Callable[[str], Callable[..., Any]]]]] = {
    "Flux": [("attn1.v", "attn1_patch", joint_values), ("attn1.out", "attn1_output_patch", joint_output)],
    "Qwen-Image": [("attn1.v", "attn1_patch", joint_values)],
    "Cosmos-Predict2": [("attn1.v", "attn1_patch", hidden_values), ("attn2.v", "attn2_patch", hidden_values)],
    "Wan": [("attn1.out", "attn1_patch", output_after)],
    "Lumina": [],
}
BY_HAND |= {name: BY_HAND["Flux"] for name in ("Chroma", "HunyuanVideo", "Krea2")}
REFUSED = [("attn1.out", "identity"), ("attn1.q", "temperature"), ("attn1.q", "noise"), ("attn1.out", "clamp")]
REFUSED += [("attn2.k", "zero"), ("attn2.out", "zero"), ("middle", "zero")]


def load(name: str, config: dict[str, Any]) -> Any:
    """Return a patcher of a model with random weights."""
    import comfy.model_patcher
    import comfy.supported_models

    wrapped = getattr(comfy.supported_models, name)(dict(config))
    wrapped.set_inference_dtype(torch.float32, None)
    model = wrapped.get_model({}, device="cpu")
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.data.normal_(std=0.1, generator=generator)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def sampler(shape: tuple[int, ...], width: int) -> Run:
    """Return a function that samples with a patcher."""
    import comfy.sample

    def conditioning(seed: int) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randn(1, 5, width, generator=generator)
        return [[tokens, {"pooled_output": torch.randn(1, 12, generator=generator)}]]

    def run(model: Any) -> torch.Tensor:
        noise = comfy.sample.prepare_noise(torch.zeros(shape), 1)
        sides = conditioning(1), conditioning(2)
        settings = (STEPS, 2.0, "euler", "simple", *sides, torch.zeros(shape))
        return comfy.sample.sample(model, noise, *settings, disable_pbar=True, seed=1)

    return run


def outcome(model: Any, name: str, run: Run) -> dict[str, Any]:
    """Return what patches and rules did on one family."""
    from attention_patchbay.ldm_patched.patches.addressing.blocks import describe, model_blocks
    from attention_patchbay.ldm_patched.patches.addressing.where import Where
    from attention_patchbay.ldm_patched.patches.engine.attach import attach
    from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
    from attention_patchbay.ldm_patched.patches.reading.block_map import block_map, rows
    from attention_patchbay.ldm_patched.patches.reading.report import report
    from attention_patchbay.ldm_patched.patches.routing.rule import Rule

    room = LAST.get(name, "double")
    last, base = Where.of(f"{room}:1"), run(model)
    found: dict[str, Any] = {"blocks": describe(model_blocks(model)), "hand": [], "refused": {}}
    found["map"] = rows(block_map(model))
    found["shapes"] = {key: list(value.shape) for key, value in model.model.diffusion_model.state_dict().items()}
    for ours, slot, by_hand in BY_HAND[name]:
        hand = model.clone()
        hand.set_model_patch(by_hand(room), slot)
        expected, value = run(hand), AttentionPatch(ours, "scale", 2.0, where=last)
        effect = float((expected - base).abs().max())
        error = float((run(attach(model, value)) - expected).abs().max())
        later = AttentionPatch(ours, "scale", 2.0, where=Where.of(f"{room}:1", 1.0, 1.0))
        closed = torch.equal(run(attach(model, later)), base)
        found["hand"].append({"slot": ours, "effect": effect, "error": error, "closed": closed})
    for slot, operation in REFUSED:
        try:
            attach(model, AttentionPatch(slot, operation, 2.0, where=last))
        except ValueError as error:
            found["refused"][f"{operation} {slot}"] = str(error)
    ruled = attach(model, Rule("basic", last))
    table = report(ruled, run(ruled)).table
    found["rule"] = [[row["block"], row["attention"], row["heads"], row["function"], row["calls"]] for row in table]
    try:
        attach(model, Rule("basic", Where.of("all cross")))
    except ValueError as error:
        found["cross"] = str(error)
    return found


def main(path: str) -> None:
    """Write what happened on each family."""
    from comfy.cli_args import args

    args.cpu = True
    results = {
        name: outcome(load(supported, config), name, sampler(shape, width))
        for name, (supported, config, shape, width) in FAMILIES.items()
    }
    with open(path, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
