"""Put methods that add rows beside ComfyUI's own nodes on tiny models: `python rows_child.py RESULT.json`.

The result says, for each family, node and method, how far the latent is from that of the node alone: with the positive
prompt itself as the further one, which must change nothing, and with another one, which must.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

(result,) = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import comfy.hooks  # noqa: E402
from attention_patchbay.ldm_patched.patches.addressing import families  # noqa: E402
from attention_patchbay.ldm_patched.patches.addressing.where import Where  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.attach import attach  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.prompts import prompt_of  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.gate_patches import GatePatches  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask  # noqa: E402
from attention_patchbay.nodes._host import HOST  # noqa: E402
from attention_patchbay.tests.contract.family_methods import METHODS  # noqa: E402
from attention_patchbay.tests.contract.tiny_families import FAMILIES, HUNYUAN_IMAGE, TEXT, Tiny, load, prompt, sample  # noqa: E402
from comfy.controlnet import ControlBase  # noqa: E402
from comfy.model_patcher import create_model_options_clone  # noqa: E402
from comfy.sampler_helpers import prepare_model_patcher, prepare_sampling  # noqa: E402
from comfy_api.torch_helpers import set_torch_compile_wrapper  # noqa: E402
from comfy_extras.nodes_context_windows import ContextWindowsManualNode  # noqa: E402
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode  # noqa: E402

COLUMNS = ("Wan 2.1", "Wan I2V", "Wan VACE", "Anima", "Cosmos-Predict2")
NAMES = ("Flux", "Qwen-Image", "SD3", "Wan 2.1", "LTX-Video", "HiDream", "Anima")
# Families whose text attends to itself in front of the blocks, or whose image's positions count from its end
NAMES_OF_TEXTS = ("LongCat", "HunyuanVideo", "HunyuanImage 2.1", "HunyuanVideo 1.5", "Krea2", "Lumina 2", "Z-Image")
NAMES_OF_TEXTS += ("Omnigen2", "Boogu", "Kandinsky 5", "Flux", "Qwen-Image")
SIGNS = (("conditioning_byt5small", (1, 5, 1472)),)  # the text of signs in a picture
TEXTS = {name: FAMILIES[name] for name in NAMES_OF_TEXTS}
TEXTS["Z-Image"] = FAMILIES["Z-Image"]._replace(latent=(1, 16, 8, 16))  # 32 tokens, which nothing fills up
TEXTS["HunyuanImage 2.1"] = FAMILIES["HunyuanImage 2.1"]._replace(config={**HUNYUAN_IMAGE, "byt5": True}, extras=SIGNS)
TEXTS["HunyuanVideo 1.5"] = FAMILIES["HunyuanVideo 1.5"]._replace(extras=SIGNS)
LENGTHS, BESIDE_THE_TEXT = (9, 17, 40), ("pooled_output", SIGNS[0][0])
# Those that get the length of the text, or let the image's positions count from its end
WITH_REFERENCES = ("Flux", "Wan 2.1", "LongCat", "Lumina 2", "Z-Image", "Omnigen2", "Boogu", "Mochi")
MASKED = ("LTX-Video", "Qwen-Image", "Mochi", "Lens", "PixelDiT", "Cosmos", "HunyuanVideo")  # whose texts have masks
TOWARDS = ("LTX-Video", "PixelDiT", "Qwen-Image", "Flux", "Lumina 2", "Z-Image")
WITH_HOLES = ("LTX-Video", "Qwen-Image", "Mochi", "Lens", "Mage-Flow", "PixelDiT")
STEPS, FRAMES = 4, 4
Node = Callable[[Any], Any]


class Control(ControlBase):
    """A ControlNet that adds fixed numbers to the tokens of the image."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.added = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(11))

    def get_control(self, x: Tensor, t: Tensor, cond: Any, batched_number: int, options: Any) -> dict[str, Any]:
        """Return what is added behind the first blocks."""
        added = self.added.expand(len(x), -1, -1)
        return {"input": [added], "output": [added]}

    def copy(self) -> Control:
        """Return itself: it keeps nothing of a run."""
        return self

    def get_models(self) -> list[Any]:
        """Return no model to load."""
        return []


def easy(model: Any) -> Any:
    return EasyCacheNode.execute(model, 10.0, 0.1, 0.9, False).args[0]


def lazy(model: Any) -> Any:
    return LazyCacheNode.execute(model, 10.0, 0.1, 0.9, False).args[0]


def windows(model: Any) -> Any:
    return ContextWindowsManualNode.execute(model, 2, 1, "standard_static", 1, False, "pyramid", 2, False).args[0]


def compiled(model: Any) -> Any:
    model = model.clone()
    set_torch_compile_wrapper(model=model, backend="eager", keys=["diffusion_model"])
    return model


def with_lora(net: Any, positive: Any) -> Any:
    """Return a prompt with a LoRA on the second linear layer of the network's blocks as a hook."""
    names = [name for name, weight in net.named_parameters() if weight.ndim == 2 and "block" in name]
    name = names[1].removesuffix(".weight")
    rows, columns = net.get_parameter(names[1]).shape
    key, generator = f"lora_unet_{name.replace('.', '_')}", torch.Generator().manual_seed(12)
    low = {
        f"{key}.lora_up.weight": torch.randn(rows, 2, generator=generator),
        f"{key}.lora_down.weight": torch.randn(2, columns, generator=generator),
    }
    return comfy.hooks.set_hooks_for_conditioning(positive, comfy.hooks.create_hook_lora(low, 0.5, 0.0))


def with_control(tiny: Tiny, net: Any, positive: Any) -> Any:
    """Return a prompt with a ControlNet, for networks that take one's results for tokens."""
    height, width = tiny.latent[-2:]
    control = Control((height // 2) * (width // 2), net.hidden_size if hasattr(net, "hidden_size") else net.inner_dim)
    return [[tokens, {**more, "control": control, "control_apply_to_uncond": False}] for tokens, more in positive]


def methods(further: Any) -> dict[str, Any]:
    everywhere = torch.ones(1, 8, 12)
    return {
        "NAG": NormalizedGuidance(further),
        "region": RegionalPrompt((Region(further, everywhere),)),
    }


def estimated(model: Any, put: Callable[[Any], Node], noise: Tensor, *sides: Any) -> dict[str, list[int]]:
    """Return for how many rows ComfyUI asks for memory: all it counts on, and the least it needs."""
    net, found = model.model, {}
    three = tuple(Region(prompt_of(sides[0]), torch.ones(1, 8, 12)) for _ in range(3))
    for name, method in {"none": None, **methods(prompt_of(sides[0])), "regions": RegionalPrompt(three)}.items():
        asked: list[int] = []
        before, net.memory_required = net.memory_required, lambda shape, asked=asked, **_: asked.append(shape[0]) or 0.0
        try:
            patched = model if method is None else put(method)(model)
            conds: dict[str, list[Any]] = {"positive": [], "negative": []}
            options = create_model_options_clone(patched.model_options)
            prepare_model_patcher(patched, conds, options)  # as CFGGuider.sample, before outer_sample
            prepare_sampling(patched, noise.shape, conds, options)
        finally:
            net.memory_required = before
        found[name] = asked
    return found


def family(name: str) -> dict[str, Any]:
    """Return the distances on one family."""
    tiny = FAMILIES[name]
    if len(tiny.latent) == 5 and tiny.latent[2] > 1:
        tiny = tiny._replace(latent=(*tiny.latent[:2], FRAMES, *tiny.latent[3:]))
    model = load(tiny)
    net = model.model.diffusion_model
    positive, negative, other = prompt(tiny, 1), prompt(tiny, 2), prompt(tiny, 3, TEXT if tiny.extras else 9)
    noise = torch.randn((1, *tiny.latent[1:]), generator=torch.Generator().manual_seed(7))

    def put(method: Any) -> Node:
        return lambda given: attach(given, method, HOST)

    def run(patched: Any, prompts: Any) -> Tensor:
        return sample(patched, noise, prompts, negative, steps=STEPS)

    nodes: dict[str, tuple[Node, Any]] = {"nothing": (lambda given: given, positive)}
    nodes |= {"EasyCache": (easy, positive), "LazyCache": (lazy, positive)}
    if name in ("Flux", "Wan 2.1"):  # tracing takes long
        nodes["compile"] = (compiled, positive)
    nodes["LoRA hook"] = (nodes["nothing"][0], with_lora(net, positive))
    if tiny.latent[2:3] == (FRAMES,):
        nodes["context windows"] = (windows, positive)
    if name in ("Flux", "SD3", "Qwen-Image"):
        nodes["ControlNet"] = (nodes["nothing"][0], with_control(tiny, net, positive))
    plain, found = run(model, positive), {"estimate": estimated(model, put, noise, positive, negative)}
    for node, (apply, prompts) in nodes.items():
        alone = run(apply(model), prompts)
        size = float(alone.abs().max())
        entry: dict[str, Any] = {"effect": float((alone - plain).abs().max()) / size}
        for kind in ("same", "another"):
            further = prompt_of(positive if kind == "same" else other)
            for method, value in methods(further).items():
                orders = {"before": (put(value), apply), "behind": (apply, put(value))}
                for order, chain in list(orders.items())[: 1 if apply is nodes["nothing"][0] else 2]:
                    patched = chain[1](chain[0](model.clone()))
                    out = run(patched, prompts)
                    entry[f"{method} {order}, {kind}"] = float((out - alone).abs().max()) / size
        found[node] = entry
    found["afterwards"] = {"equal": torch.equal(run(model, positive), plain)}
    return found


def columns(name: str) -> dict[str, float]:
    """Return how far a run with columns is from one with rows, and how far both are from one without the prompts."""
    tiny = FAMILIES[name]
    model = load(tiny)
    positive, negative = prompt(tiny, 1), prompt(tiny, 2)
    size = TEXT if tiny.extras else 9
    further = tuple(prompt_of(prompt(tiny, seed, size + seed - 3)) for seed in (3, 4))
    half = torch.zeros(1, 8, 12)
    half[:, :, :5] = 1.0
    noise = torch.randn((1, *tiny.latent[1:]), generator=torch.Generator().manual_seed(7))

    def run() -> Tensor:
        regions = (Region(further[0], half), Region(further[1], 1.0 - half, 0.5))
        patched = attach(model, RegionalPrompt(regions), HOST)
        patched = attach(patched, NormalizedGuidance(further[1], where=Where.of(end_percent=0.5)), HOST)
        return sample(patched, noise, positive, negative, steps=STEPS)

    apart, rows = dict(families.FAMILIES), {}
    found, plain = run(), sample(model, noise, positive, negative, steps=STEPS)
    try:
        families.FAMILIES.update({key: replace(row, columns=False) for key, row in apart.items()})
        rows = run()
    finally:
        families.FAMILIES.update(apart)
    size = float(plain.abs().max())
    return {"apart": float((found - rows).abs().max()) / size, "effect": float((found - plain).abs().max()) / size}


def more(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    return func(*args, **kwargs) * 1.1


def weak(name: str, methods: list[Any], before: int = 0, strength: float = 1e-9) -> float:
    """Return how far a further prompt, longer than the sampler's and of little strength, moves a run with others.

    `before` of them come before the node with the prompt.
    """
    tiny = FAMILIES[name]
    model, noise = load(tiny), torch.randn((1, *tiny.latent[1:]), generator=torch.Generator().manual_seed(7))
    if any(isinstance(method, GatePatches) for method in methods):  # around the attention of another pack
        model.model_options["transformer_options"]["optimized_attention_override"] = more
    longer = NormalizedGuidance(prompt_of(prompt(tiny, 3, 17)), strength=strength)

    def run(*values: Any) -> Tensor:
        patched = model
        for value in values:
            patched = attach(patched, value, HOST)
        return sample(patched, noise, prompt(tiny, 1), prompt(tiny, 2), steps=2)

    alone = run(*methods)
    out = run(*methods[:before], longer, *methods[before:])
    return float((out - alone).abs().max() / alone.abs().max())


def masked(conditioning: Any, hides: str, missing: int = 4) -> Any:
    """Return a conditioning whose mask hides some tokens: at its `end`, its `front` or in its `middle`."""
    ((tokens, more),) = conditioning
    shown = torch.ones(1, tokens.shape[1], dtype=torch.long)
    start = {"end": tokens.shape[1] - missing, "front": 0, "middle": 3}[hides]
    shown[:, start : start + missing] = 0
    return [[tokens, {**more, "attention_mask": shown}]]


def hidden(name: str, hides: str) -> float:
    """Return how far further prompts move a run that they must not move, where masks hide some of all texts.

    The sampler's own as a region in a half of the picture, and others of some lengths and little strength.
    """
    tiny, half = FAMILIES[name], torch.zeros(1, 8, 12)
    half[:, :, :5] = 1.0
    model, noise = load(tiny), torch.randn((1, *tiny.latent[1:]), generator=torch.Generator().manual_seed(7))
    own, negative = masked(prompt(tiny, 1), hides), masked(prompt(tiny, 2), "end", 6)
    cfg = 1.0 if name == "HunyuanVideo" else 3.0  # which takes the mask of one row

    def run(method: Any) -> Tensor:
        return sample(model if method is None else attach(model, method, HOST), noise, own, negative, cfg, 2)

    found = [run(RegionalPrompt((Region(prompt_of(own), half),)))]
    for length in LENGTHS[:2]:
        found.append(run(NormalizedGuidance(prompt_of(masked(prompt(tiny, 3, length), hides, 3)), strength=1e-9)))
    plain = run(None)
    return max(float((x - plain).abs().max()) for x in found) / float(plain.abs().max())


def to_another(name: str) -> dict[str, float]:
    """Return how far a run towards its own prompt is from one without, and one towards another from one with that.

    The mask of the other one, where they have masks, hides as many tokens in front as that of the own one at the end.
    """
    tiny = TEXTS.get(name) or FAMILIES[name]
    model, noise = load(tiny), torch.randn((1, *tiny.latent[1:]), generator=torch.Generator().manual_seed(7))
    own, other, negative = prompt(tiny, 1), prompt(tiny, 3), prompt(tiny, 2)
    other[0][1].update({key: given for key, given in own[0][1].items() if key in BESIDE_THE_TEXT})
    if name in MASKED:
        own, other = masked(own, "end"), masked(other, "front")

    def towards(given: Any) -> Tensor:
        patched = model
        for part in "kv":
            patched = attach(patched, AttentionPatch(f"attn2.{part}", "towards", other=prompt_of(given)), HOST)
        return sample(patched, noise, own, negative, steps=2)

    plain, wanted = (sample(model, noise, some, negative, steps=2) for some in (own, other))
    size, moved = float(plain.abs().max()), towards(other)
    apart = {"own": towards(own) - plain, "another": moved - wanted, "effect": moved - plain}
    return {kind: float(x.abs().max()) / size for kind, x in apart.items()}


def piecemeal(name: str) -> dict[str, list[float]]:
    """Return how far others move a run with a method that attends piecemeal, before and behind it.

    First those that change nothing by themselves, then how little such a method and a region move it at least.
    """
    tiny, everywhere = FAMILIES[name], torch.ones(1, 8, 12)
    model, noise = load(tiny), torch.randn((1, *tiny.latent[1:]), generator=torch.Generator().manual_seed(7))
    own, negative = prompt(tiny, 1), prompt(tiny, 2)
    others = [RegionalPrompt((Region(prompt_of(own), everywhere),)), METHODS["capture of words"][1](tiny, Where())]
    others.append(WordMask(positions=(3,), length=TEXT, mask=everywhere))
    found: dict[str, list[float]] = {}

    def run(*values: Any) -> Tensor:
        patched = model
        for value in values:
            patched = attach(patched, value, HOST)
        return sample(patched, noise, own, negative, steps=2)

    plain = run()
    for kind in ("tiles", "token merging", "sliding window"):
        method = METHODS[kind][1](tiny, Where())
        alone, size = run(method), float(plain.abs().max())
        moved = [run(*order) - alone for other in others for order in ((method, other), (other, method))]
        region = RegionalPrompt((Region(prompt_of(prompt(tiny, 3, 9)), everywhere),))
        effects = [run(region, method) - alone, run(region, method) - run(region)]
        found[kind] = [max(float(x.abs().max()) for x in moved) / size]
        found[kind].append(min(float(x.abs().max()) for x in effects) / size)
    return found


def beside() -> dict[str, Any]:
    """Return what further prompts change where nothing may change."""
    found: dict[str, Any] = {"hidden": {name: hidden(name, "end") for name in MASKED}}
    holes = [(name, hides) for name in WITH_HOLES for hides in ("front", "middle")]
    found["hidden between others"] = {f"{name} {hides}": hidden(name, hides) for name, hides in holes}
    found["longer"] = {name: weak(name, []) for name in ("Flux", "LTX-Video", "Mochi", "SD3", "Wan 2.1", "Z-Image")}
    for kind in ("reference", "style transfer"):
        made = {name: METHODS[kind][1](FAMILIES[name], Where.of("all")) for name in WITH_REFERENCES}
        found[kind] = {name: weak(name, [one]) for name, one in made.items()}
        found[kind] |= {f"{name} negative": weak(name, [replace(one, negative=True)]) for name, one in made.items()}
    to = {name: prompt_of(prompt(FAMILIES[name], 6)) for name in ("Flux", "Wan 2.1")}
    towards = {
        name: [AttentionPatch(f"attn2.{part}", "towards", 1.0, 1.0, other=other) for part in "kv"]
        for name, other in to.items()
    }
    found["towards"] = {name: [weak(name, made), weak(name, made, 2)] for name, made in towards.items()}
    found["beside towards"] = {name: weak(name, made, 2, 0.5) for name, made in towards.items()}
    found["towards another"] = {name: to_another(name) for name in TOWARDS}
    found["gated"] = {name: weak(name, [GatePatches(side="positive")], 1) for name in ("Flux", "LTX-Video")}
    listed = [AttentionPatch("attn2.k", "shuffle", 1.0)]
    found["listed"] = {name: weak(name, listed, 1) for name in ("Cosmos-Predict2", "Wan 2.1")}
    found["piecemeal"] = {name: piecemeal(name) for name in ("Flux", "Lens", "Z-Image", "Kandinsky 5 Image")}
    return found


def alone(name: str) -> dict[str, Any]:
    """Return how far a prompt for the whole picture is from itself as the sampler's, and how far it moves a run.

    And how far, of little strength, it moves a run with the sampler's prompt; for shorter and longer ones.
    """
    tiny = TEXTS[name]
    model, noise = load(tiny), torch.randn((2, *tiny.latent[1:]), generator=torch.Generator().manual_seed(7))
    own, negative = prompt(tiny, 1), prompt(tiny, 2)
    plain, found = sample(model, noise, own, negative, steps=2), {}
    size, everywhere = float(plain.abs().max()), torch.ones(1, 8, 12)
    for length in LENGTHS:
        other = prompt(tiny, 3, length)
        other[0][1].update({key: given for key, given in own[0][1].items() if key in BESIDE_THE_TEXT})
        further = prompt_of(other)
        wanted = sample(model, noise, other, negative, steps=2)
        methods = RegionalPrompt((Region(further, everywhere),)), NormalizedGuidance(further, strength=1e-9)
        region, weak = (sample(attach(model, one, HOST), noise, own, negative, steps=2) for one in methods)
        apart = {"region": region - wanted, "effect": region - plain, "weak": weak - plain}
        found[str(length)] = {kind: float(x.abs().max()) / size for kind, x in apart.items()}
    return found


with open(result, "w") as file:
    told = {name: family(name) for name in NAMES}
    told |= {"columns": {name: columns(name) for name in COLUMNS}, "alone": {name: alone(name) for name in TEXTS}}
    json.dump({**told, "beside": beside()}, file)
