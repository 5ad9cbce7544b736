"""Nodes of ComfyUI and of other packs for a UNet, with small random weights where they would read a file.

Import it after ComfyUI's arguments.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import comfy.cldm.cldm
import comfy.controlnet
import comfy.hooks
import comfy.ldm.chroma.layers as chroma
import comfy.ldm.cosmos.predict2 as predict2
import comfy.ldm.flux.layers as flux
import comfy.ops
import server
import torch
from attention_patchbay.tests.contract.beside import CPU, SD1, unet
from attention_patchbay.tests.unets import draw

import nodes

SIZE = 16
POSITIVE, NEGATIVE, OTHER = ([[draw(seed, 1, 7, 16), {}]] for seed in (1, 2, 3))
PICTURE = draw(11, 1, 8 * SIZE, 8 * SIZE, 3).sigmoid()
Model = Any
Prompt = Any
Node = Callable[[Model], Model]


class Theirs(NamedTuple):
    """A node on the model, or one on the prompts, and the pack that it needs."""

    pack: str
    make: Callable[[], Node] = lambda: lambda model: model
    prompts: Callable[[Prompt, Prompt], tuple[Prompt, Prompt]] = lambda *prompts: prompts
    steps: int = 2


def half(left: bool) -> torch.Tensor:
    mask = torch.zeros(1, SIZE, SIZE)
    mask[..., slice(0, SIZE // 2) if left else slice(SIZE // 2, None)] = 1.0
    return mask


def load_packs(folder: Path, wanted: Collection[str] = ()) -> set[str]:
    """Load ComfyUI's nodes, and the packs of some or all of `THEIRS` that are there; return which of them work."""
    # These packs import names for other models than UNets, which this ComfyUI has left empty or taken away
    for name in ("DoubleStreamBlock", "SingleStreamBlock"):
        if getattr(chroma, name, None) is None:
            setattr(chroma, name, getattr(flux, name))
    if not hasattr(predict2, "apply_rotary_pos_emb"):
        predict2.apply_rotary_pos_emb = None
    server.PromptServer(asyncio.new_event_loop())  # to which packs add their routes
    packs = {theirs.pack for name, theirs in THEIRS.items() if theirs.pack and name in (wanted or THEIRS)}
    packs = {pack for pack in packs if (folder / pack).is_dir()}
    asyncio.run(nodes.init_builtin_extra_nodes())
    return {pack for pack in sorted(packs) if asyncio.run(nodes.load_custom_node(str(folder / pack)))}


def called(kind: str, **inputs: Any) -> Node:
    """Return a node of ComfyUI or of a pack."""
    cls = nodes.NODE_CLASS_MAPPINGS[kind]

    def put(model: Model) -> Model:
        done = getattr(cls(), cls.FUNCTION)(model=model, **inputs)
        return getattr(done, "result", done)[0]

    return put


ADAPTED = ((("input", 4, 0), 64), (("middle", 0, 0), 64), (("output", 9, 0), 32))  # addresses and channels


def adapter(model: Model, places: Sequence[tuple[tuple[Any, ...], int]] = ADAPTED, end: float = 0.0) -> Model:
    """Put IPAdapter's attention on three blocks down to a sigma, with random projections in the place of a file."""
    module = next(module for name, module in sys.modules.items() if name.endswith("IPAdapter_plus.IPAdapterPlus"))
    model = model.clone()
    torch.manual_seed(3)
    for key, channels in places:
        layers = {f"x_to_{part}_ip": torch.nn.Linear(16, channels) for part in "kv"}
        ip = SimpleNamespace(ip_layers=SimpleNamespace(to_kvs=layers))
        ip.get_multigpu_clone = lambda device, ip=ip: ip
        settings = {"module_key": "x", "ipadapter": ip, "cond": draw(8, 1, 4, 16), "uncond": draw(9, 1, 4, 16)}
        limits = {"weight": 2.0, "weight_type": "linear", "sigma_start": 1e9, "sigma_end": end}
        module.set_model_patch_replace(model, {**settings, **limits}, key)
    return model


def couple(model: Model) -> Model:
    prompts = [(draw(seed, 1, 7, 16), {"mask": half(seed == 1), "mask_strength": 1.0}) for seed in (1, 4)]
    node = nodes.NODE_CLASS_MAPPINGS["Attention couple"]()
    return node.attention_couple(model, prompts, NEGATIVE, "Attention")[0]


def couple_ppm(model: Model) -> Model:
    masks = {"base_mask": half(True), "mask_1": half(False)}
    return called("AttentionCouplePPM", base_cond=POSITIVE, cond_1=OTHER, **masks)(model)


def module(ending: str) -> Any:
    """Return the module of a loaded pack by the end of its name."""
    return next(module for name, module in sys.modules.items() if name.endswith(ending))


def random_(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return network


def control_net() -> Any:
    names = ("image_size", "in_channels", "model_channels", "num_res_blocks", "channel_mult", "context_dim")
    more = ("transformer_depth", "use_spatial_transformer", "num_heads", "num_head_channels", "legacy")
    config = {name: SD1[name] for name in names + more}
    kind = {"dtype": torch.float32, "device": CPU, "operations": comfy.ops.disable_weight_init}
    network = comfy.cldm.cldm.ControlNet(**config, transformer_depth_middle=1, hint_channels=3, **kind)
    return comfy.controlnet.ControlNet(random_(network, 5), load_device=CPU)


def controlled(positive: Prompt, negative: Prompt) -> tuple[Prompt, Prompt]:
    node = nodes.ControlNetApplyAdvanced()
    return node.apply_controlnet(positive, negative, control_net(), PICTURE, 0.5, 0.0, 1.0)


def controlled_by(kind: str) -> Callable[[Prompt, Prompt], tuple[Prompt, Prompt]]:
    """Return Advanced-ControlNet's Apply with a ControlNet under a mask, or with a reference."""

    def put(positive: Prompt, negative: Prompt) -> tuple[Prompt, Prompt]:
        net, picture, more = control_net(), PICTURE, {"mask_optional": half(True)}
        if kind == "reference":
            mine = nodes.NODE_CLASS_MAPPINGS["ACN_ReferenceControlNet"].execute("reference_attn", 0.5, 1.0)
            net, more = mine.args[0], {}
            picture = module("adv_control.control_reference").ReferencePreprocWrapper(draw(12, 1, 4, SIZE, SIZE))
        apply = nodes.NODE_CLASS_MAPPINGS["ACN_AdvancedControlNetApply_v2"].execute
        return apply(positive, negative, net, picture, 0.5, 0.0, 1.0, **more).args[:2]

    return put


def scheduled(positive: Prompt, negative: Prompt) -> tuple[Prompt, Prompt]:
    """Return prompts with a LoRA that is on in the first half: ComfyUI's hooks, which prompt-control builds too."""
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k"
    lora = {f"{key}.lora_up.weight": draw(13, 64, 4), f"{key}.lora_down.weight": draw(14, 4, 16)}
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 0.0)
    frames = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((1.0, 0.0), (0.3, 0.5)):
        frames.add(comfy.hooks.HookKeyframe(strength, start))
    hooks.set_keyframes_on_hooks(frames)
    return tuple(comfy.hooks.set_hooks_for_conditioning(prompt, hooks) for prompt in (positive, negative))


def ranged(positive: Prompt, negative: Prompt) -> tuple[Prompt, Prompt]:
    """Return a positive prompt that changes in the middle, as prompt-control schedules it."""
    other = [[OTHER[0][0], {"start_percent": 0.5, "end_percent": 1.0}]]
    return [[positive[0][0], {"start_percent": 0.0, "end_percent": 0.5}], *other], negative


def couple_of_prompt_control(positive: Prompt, negative: Prompt) -> tuple[Prompt, Prompt]:
    base = [[positive[0][0], {"mask": half(True), "mask_strength": 1.0}]]
    extra = [[OTHER[0][0], {"mask": half(False), "mask_strength": 1.0}]]
    return module("prompt_control.attention_couple_ppm").set_cond_attnmask(base, extra), negative


def merged(model: Model) -> Model:
    return nodes.NODE_CLASS_MAPPINGS["ModelMergeSimple"]().merge(model, unet(1), 0.5)[0]


def in_the_first_half(model: Model) -> Model:
    """Put bleh's condition around a node of its own."""
    shrunk = called("BlehDeepShrink", **SHRINK, **BLEH_SHRINK)(model)
    node = nodes.NODE_CLASS_MAPPINGS["BlehModelPatchConditional"]
    limits = {"start_percent": 0.0, "end_percent": 0.5, "interval": 1, "base_on_default": True}
    return node().patch(model_default=model, model_matched=shrunk, **limits)[0]


def motion() -> Any:
    """Return AnimateDiff's motion modules for the blocks of the UNet."""
    ad, injection = module("animatediff.motion_module_ad"), module("animatediff.model_injection")
    info = ad.AnimateDiffInfo(sd_type="SD1.5", mm_format="AnimateDiff", mm_version="v2", mm_name="random")
    network = ad.AnimateDiffModel({"pos_encoder.pe": torch.zeros(1, 24, 4)}, info)
    kind = {"temporal_pe": True, "temporal_pe_max_len": 24, "attention_block_types": ("Temporal_Self",) * 2}
    for name, channels in (("down", (32, 64, 64, 64)), ("up", (64, 64, 64, 32))):
        block_type = getattr(ad.BlockType, name.upper())
        blocks = [ad.MotionModule(c, block_type=block_type, block_idx=i, **kind) for i, c in enumerate(channels)]
        setattr(network, f"{name}_blocks", torch.nn.ModuleList(blocks))
    return injection.create_MotionModelPatcher(random_(network, 6), CPU, CPU)


def moving(window: int | None = None) -> Node:
    """Return AnimateDiff over the pictures as frames, all of them or windows of so many."""
    apply, use, context = (
        nodes.NODE_CLASS_MAPPINGS[f"ADE_{kind}"]()
        for kind in ("ApplyAnimateDiffModelSimple", "UseEvolvedSampling", "StandardStaticContextOptions")
    )
    (models,) = apply.apply_motion_model(motion())
    windows = None if window is None else context.create_options(window, 0)[0]

    def put(model: Model) -> Model:
        return use.use_evolved_sampling(model, "use existing", m_models=models, context_options=windows)[0]

    return put


TILE = {"tile_size": 32, "swap_size": 1, "max_depth": 2, "scale_depth": False}
SHRINK = {"downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.6, "downscale_after_skip": True}
METHODS = {"downscale_method": "bicubic", "upscale_method": "bicubic"}
BLEH_SHRINK = {"commasep_block_numbers": "3", "start_fadeout_percent": 1.0, **METHODS}
BLEH_SHRINK |= {"antialias_downscale": False, "antialias_upscale": False}
CFG = {"commasep_block_numbers": "i4,m0,o5", "scale": 0.3, "start_percent": 0.0, "end_percent": 1.0}
CACHE = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
ENERGY = {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}
PERTURBED, COUPLE, BLEH = "sd-perturbed-attention", "attention-couple-ComfyUI", "ComfyUI-bleh"
KJ, INSPIRE = "ComfyUI-KJNodes", "ComfyUI-Inspire-Pack"
CONTROL, MOTION = "ComfyUI-Advanced-ControlNet", "ComfyUI-AnimateDiff-Evolved"

THEIRS: dict[str, Theirs] = {
    "core PAG": Theirs("", lambda: called("PerturbedAttentionGuidance", scale=3.0)),
    "core SAG": Theirs("", lambda: called("SelfAttentionGuidance", scale=2.0, blur_sigma=2.0)),
    "core HyperTile": Theirs("", lambda: called("HyperTile", **TILE)),
    "core ToMe": Theirs("", lambda: called("TomePatchModel", ratio=0.5)),
    "IPAdapter": Theirs("ComfyUI_IPAdapter_plus", lambda: adapter),
    "NAG": Theirs(PERTURBED, lambda: called("NormalizedAttentionGuidance", negative=OTHER, scale=4.0)),
    "PAG": Theirs(PERTURBED, lambda: called("PerturbedAttention", scale=3.0)),
    "SEG": Theirs(PERTURBED, lambda: called("SmoothedEnergyGuidanceAdvanced", scale=3.0)),
    "TPG": Theirs(PERTURBED, lambda: called("TokenPerturbationGuidance", scale=3.0)),
    "PLADIS": Theirs(PERTURBED, lambda: called("PLADIS", scale=2.0)),
    "couple": Theirs(COUPLE, lambda: couple),
    "couple of ppm": Theirs("ComfyUI-ppm", lambda: couple_ppm),
    "KSamplerWithNAG": Theirs("ComfyUI-NAG"),
    "core FreeU": Theirs("", lambda: called("FreeU_V2", **ENERGY)),
    "core Deep Shrink": Theirs("", lambda: called("PatchModelAddDownscale", block_number=3, **SHRINK, **METHODS)),
    "core EasyCache": Theirs("", lambda: called("EasyCache", **CACHE), steps=4),
    "core merge": Theirs("", lambda: merged),
    "core ControlNet": Theirs("", prompts=controlled),
    "core LoRA hooks": Theirs("", prompts=scheduled),
    "prompt schedule": Theirs("", prompts=ranged),
    "core TorchCompile": Theirs("", lambda: called("TorchCompileModel", backend="eager")),
    "couple of prompt-control": Theirs("comfyui-prompt-control", prompts=couple_of_prompt_control),
    "bleh Deep Shrink": Theirs(BLEH, lambda: called("BlehDeepShrink", **SHRINK, **BLEH_SHRINK)),
    "bleh conditional": Theirs(BLEH, lambda: in_the_first_half),
    "bleh block CFG": Theirs(BLEH, lambda: called("BlehBlockCFG", **CFG, skip_mode=False, apply_to="uncond")),
    "Inspire HyperTile": Theirs(INSPIRE, lambda: called("HyperTile //Inspire", **TILE, seed=0)),
    "Inspire regional CFG": Theirs(INSPIRE, lambda: called("RegionalCFG //Inspire", mask=half(True))),
    "KJNodes CFG zero star": Theirs(KJ, lambda: called("CFGZeroStarAndInit", use_zero_init=False, zero_init_steps=0)),
    "KJNodes sage": Theirs(KJ, lambda: called("PathchSageAttentionKJ", sage_attention="sageattn_qk_int8_pv_fp16_cuda")),
    "Advanced ControlNet": Theirs(CONTROL, prompts=controlled_by("mask")),
    "Advanced reference": Theirs(CONTROL, prompts=controlled_by("reference")),
    "AnimateDiff": Theirs(MOTION, lambda: moving()),
    "AnimateDiff windows": Theirs(MOTION, lambda: moving(1)),
}
