"""One workflow of the demo model with LoRA hooks in many ways, each with a sampler whose latents are saved."""

from __future__ import annotations

from typing import Any

from .workflows import CAPTION, PERCENTS, SAMPLER, Workflow, node

LEFT, RIGHT = "a red circle on the left", "a blue square on the right"
ACTS = {"strength": 1.0, "blocks": "all", **PERCENTS, "curve": "constant"}
AREA = {"strength": 1.0, "set_cond_area": "default"}
EASED = {"strength_start": 0.0, "strength_end": 1.5, "interpolation": "ease_in_out"}
EASED |= {"start_percent": 0.0, "end_percent": 0.8, "keyframes_count": 4, "print_keyframes": False}
SIZE = {"width": 128, "height": 128}


def lora(name: str, model: float = 1.0, clip: float = 0.8, **links: Any) -> dict[str, Any]:
    strengths = {"strength_model": model, "strength_clip": clip}
    return node("CreateHookLora", lora_name=f"{name}.safetensors", **strengths, **links)


def keyframe(strength: float, start: float, **links: Any) -> dict[str, Any]:
    return node("CreateHookKeyframe", strength_mult=strength, start_percent=start, **links)


def encoded(clip: str, text: str) -> dict[str, Any]:
    return node("CLIPTextEncode", clip=[clip, 1 if clip == "model" else 0], text=text)


def hooked(cond: str, hooks: str, **links: Any) -> dict[str, Any]:
    return node("ConditioningSetProperties", cond_NEW=[cond, 0], hooks=[hooks, 0], **AREA, **links)


def clip_hooks(hooks: str, for_conds: bool = True, scheduled: bool = False) -> dict[str, Any]:
    choices = {"apply_to_conds": for_conds, "schedule_clip": scheduled}
    return node("SetClipHooks", clip=["model", 1], hooks=[hooks, 0], **choices)


MODELS = {
    "word weight": node(
        "PatchbayWordWeight", model=["model", 0], clip=["model", 1], prompt=CAPTION, words="red", weight=0.3, **ACTS
    ),
    "attention patch": node(
        "PatchbayAttentionPatch", model=["model", 0], slot="attn1.out", operation="scale", value=0.5, **ACTS
    ),
    "regional prompt": node(
        "PatchbayRegionalPrompt", model=["model", 0], regions=["right region", 0], base=0.3, overlap="average", **ACTS
    ),
    "with a LoRA": node("LoraLoaderModelOnly", model=["model", 0], lora_name="two.safetensors", strength_model=0.7),
}
BASE: Workflow = {
    "model": node("PatchbayLoadDemoModel"),
    "caption": encoded("model", CAPTION),
    "left": encoded("model", LEFT),
    "right": encoded("model", RIGHT),
    "empty": encoded("model", ""),
    "latent": node("EmptyLatentImage", **SIZE, batch_size=1),
    "pair": node("EmptyLatentImage", **SIZE, batch_size=2),
    "nothing": node("SolidMask", value=0.0, **SIZE),
    "half": node("SolidMask", value=1.0, width=64, height=128),
    "left mask": node("MaskComposite", destination=["nothing", 0], source=["half", 0], x=0, y=0, operation="add"),
    "right mask": node("InvertMask", mask=["left mask", 0]),
    "left region": node("PatchbayRegion", conditioning=["left", 0], mask=["left mask", 0], weight=1.0),
    "right region": node(
        "PatchbayRegion", conditioning=["right", 0], mask=["right mask", 0], weight=1.0, regions=["left region", 0]
    ),
    **MODELS,
    "one": lora("one"),
    "two": lora("two", -0.8),
    "model only": node(
        "CreateHookLoraModelOnly", lora_name="two.safetensors", strength_model=0.6, prev_hooks=["one", 0]
    ),
    "both": node("CombineHooks2", hooks_A=["one", 0], hooks_B=["two", 0]),
    "four": node("CombineHooks4", hooks_B=["one", 0], hooks_D=["model only", 0]),
    "eight inputs": node("CombineHooks8", hooks_A=["two", 0], hooks_H=["timed float", 0]),
    "first": keyframe(0.3, 0.0),
    "second": keyframe(1.2, 0.45, prev_hook_kf=["first", 0]),
    "third": keyframe(-0.5, 0.8, prev_hook_kf=["second", 0]),
    "late": keyframe(0.7, 0.5),
    "eased": node("CreateHookKeyframesInterpolated", **EASED),
    "more": node("CreateHookKeyframesInterpolated", **{**EASED, "interpolation": "linear"}, prev_hook_kf=["third", 0]),
    "float": node(
        "CreateHookKeyframesFromFloats", floats_strength=0.4, print_keyframes=True, prev_hook_kf=["late", 0], **PERCENTS
    ),
    "timed": node("SetHookKeyframes", hooks=["one", 0], hook_kf=["third", 0]),
    "timed both": node("SetHookKeyframes", hooks=["both", 0], hook_kf=["eased", 0]),
    "timed often": node("SetHookKeyframes", hooks=["one", 0], hook_kf=["more", 0]),
    "timed float": node("SetHookKeyframes", hooks=["one", 0], hook_kf=["float", 0]),
    "untimed": node("SetHookKeyframes", hooks=["four", 0]),
    "begin": node("ConditioningTimestepsRange", start_percent=0.3, end_percent=0.7),
}
# prompts by the name of the case; a pair of nodes is (positive, negative)
PROMPTS: dict[str, dict[str, Any]] = {
    "mask": node(
        "ConditioningSetPropertiesAndCombine",
        cond=["right", 0],
        cond_NEW=["left", 0],
        mask=["left mask", 0],
        hooks=["one", 0],
        **AREA,
    ),
    "mask bounds": node(
        "ConditioningSetPropertiesAndCombine",
        cond=["right", 0],
        cond_NEW=["left", 0],
        mask=["left mask", 0],
        hooks=["one", 0],
        strength=0.7,
        set_cond_area="mask bounds",
    ),
    "in the middle": hooked("caption", "one", timesteps=["begin", 0]),
    "after the middle": hooked("caption", "one", timesteps=["begin", 2]),
    "keyframes": hooked("caption", "timed"),
    "interpolated": hooked("caption", "timed both"),
    "many keyframes": hooked("caption", "timed often"),
    "a float": hooked("caption", "timed float"),
    "model only before": hooked("caption", "untimed"),
    "eight": hooked("caption", "eight inputs"),
    "hooks on hooks": hooked("keyframes", "two"),
    "default": node("ConditioningSetDefaultCombine", cond=["masked", 0], cond_DEFAULT=["caption", 0], hooks=["two", 0]),
    "default everywhere": node("ConditioningSetDefaultCombine", cond=["in the middle", 0], cond_DEFAULT=["right", 0]),
    "text encoder": encoded("clip", CAPTION),
    "text encoder alone": encoded("clip alone", CAPTION),
    "text encoder and model": hooked("text encoder alone", "timed both"),
    "text encoder in time": encoded("clip in time", CAPTION),
    "text encoder in two times": encoded("clip in two times", CAPTION),
    "text encoder late": encoded("clip late", CAPTION),
}
HELPERS: Workflow = {
    "masked": node(
        "ConditioningSetMask", conditioning=["left", 0], mask=["left mask", 0], strength=0.8, set_cond_area="default"
    ),
    "clip": clip_hooks("one"),
    "clip alone": clip_hooks("one", for_conds=False),
    "clip in time": clip_hooks("timed", scheduled=True),
    "clip in two times": clip_hooks("two times", scheduled=True),
    "two times": node("CombineHooks2", hooks_A=["timed", 0], hooks_B=["timed two", 0]),
    "timed two": node("SetHookKeyframes", hooks=["two", 0], hook_kf=["eased", 0]),
    "clip late": clip_hooks("timed late", scheduled=True),
    "timed late": node("SetHookKeyframes", hooks=["one", 0], hook_kf=["late", 0]),
    "left pair": node(
        "PairConditioningSetProperties",
        positive_NEW=["left", 0],
        negative_NEW=["empty", 0],
        mask=["left mask", 0],
        hooks=["one", 0],
        **AREA,
    ),
    "right pair": node(
        "PairConditioningSetProperties",
        positive_NEW=["right", 0],
        negative_NEW=["empty", 0],
        mask=["right mask", 0],
        hooks=["two", 0],
        **AREA,
    ),
}
PAIRS: Workflow = {
    "two LoRAs": node(
        "PairConditioningCombine",
        positive_A=["left pair", 0],
        negative_A=["left pair", 1],
        positive_B=["right pair", 0],
        negative_B=["right pair", 1],
    ),
    "a pair in the left": node(
        "PairConditioningSetPropertiesAndCombine",
        positive=["caption", 0],
        negative=["empty", 0],
        positive_NEW=["left", 0],
        negative_NEW=["right", 0],
        mask=["left mask", 0],
        hooks=["timed", 0],
        **AREA,
    ),
    "a default pair": node(
        "PairConditioningSetDefaultCombine",
        positive=["left pair", 0],
        negative=["left pair", 1],
        positive_DEFAULT=["right", 0],
        negative_DEFAULT=["empty", 0],
        hooks=["timed both", 0],
    ),
}


def sampler(positive: list[Any], negative: list[Any], model: str = "model", **widgets: Any) -> dict[str, Any]:
    links = {"model": [model, 0], "positive": positive, "negative": negative, "latent_image": ["latent", 0]}
    return node("KSampler", **{**links, **SAMPLER, "steps": 5, **widgets})


CASES: Workflow = {
    "no hooks": sampler(["caption", 0], ["empty", 0]),
    **{name: sampler([name, 0], ["empty", 0]) for name in PROMPTS},
    **{name: sampler([name, 0], [name, 1]) for name in PAIRS},
    **{f"{model}, keyframes": sampler(["keyframes", 0], ["empty", 0], model) for model in MODELS},
    **{f"{model}, mask": sampler(["mask", 0], ["empty", 0], model) for model in MODELS},
    **{f"{model}, two LoRAs": sampler(["two LoRAs", 0], ["two LoRAs", 1], model) for model in MODELS},
    "negative": sampler(["caption", 0], ["keyframes", 0]),
    "guidance 1": sampler(["keyframes", 0], ["empty", 0], cfg=1.0),
    "two pictures": sampler(["two LoRAs", 0], ["two LoRAs", 1], latent_image=["pair", 0]),
    **{
        f"keyframes, {name}": sampler(["keyframes", 0], ["empty", 0], sampler_name=name)
        for name in ("heun", "dpmpp_2m", "dpm_2", "dpmpp_2s_ancestral")
    },
    **{f"keyframes from {share}": sampler(["many keyframes", 0], ["empty", 0], denoise=share) for share in (0.6, 0.3)},
}


def workflow() -> Workflow:
    """Return the nodes of all cases, what saves their latents, and reports of three patched models."""
    nodes = BASE | PROMPTS | HELPERS | PAIRS
    for name, sampler_node in CASES.items():
        nodes[f"{name} run"] = sampler_node
        nodes[f"{name} saved"] = node("SaveLatent", samples=[f"{name} run", 0], filename_prefix=f"latents/{name}")
    for model in list(MODELS)[:3]:
        links = {"model": [model, 0], "latent": [f"{model}, two LoRAs run", 0]}
        nodes[f"{model} report"] = node("PatchbayPatchReport", **links)
    return nodes
