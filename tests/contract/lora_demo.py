"""Pictures of the demo model with a random LoRA by rules and in regions, in the host that is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.lora import LoraFile, lora_on
from attention_patchbay.ldm_patched.patches.methods.region_lora import RegionLora
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.routing.lora_rules import LoraRules
from attention_patchbay.ldm_patched.patches.routing.strengths import parse_strengths
from attention_patchbay.nodes._host import HOST, load_demo_model
from torch import Tensor

Sample = Callable[[Any, Tensor, Any, Any], Tensor]  # model, noise, positive, negative


def random_lora(model: Any, wanted: Callable[[str], bool] = lambda path: True, rank: int = 2) -> dict[str, Tensor]:
    """Return a LoRA for every linear layer and convolution of a network, by its path."""
    draw = torch.Generator().manual_seed(0)
    entries = {}
    for path, module in model.model.diffusion_model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or weight.ndim < 2 or isinstance(module, torch.nn.Embedding):
            continue
        name, ones = f"diffusion_model.{path}", (1,) * (weight.ndim - 2)
        up = 0.05 * torch.randn(weight.shape[0], rank, *ones, generator=draw)
        down = 0.05 * torch.randn(rank, *weight.shape[1:], generator=draw)
        if wanted(path):
            entries |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
    return entries


def pictures(sample: Sample) -> dict[str, Tensor]:
    """Return a latent for each way to put a LoRA on the demo model."""
    model, clip, _ = load_demo_model()
    left = torch.cat([torch.ones(1, 16, 8), torch.zeros(1, 16, 8)], 2)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    positive, negative, other = (
        clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red circle", "", "a blue square")
    )
    entries = random_lora(model, lambda path: "emb" not in path)
    lora = lora_on(model, LoraFile.of("style", entries), HOST.weights(model))

    def ruled(text: str) -> Any:
        return attach(model, LoraRules(lora, parse_strengths(text), 1.0, Where()), HOST)

    def regional(mask: Tensor, prompt: Any, some: dict[str, Tensor]) -> Any:
        loras = (RegionLora(LoraFile.of("style", some), 0.7),)
        return attach(model, RegionalPrompt((Region(prompt[0][0], mask, loras=loras),)), HOST)

    ways = {
        "plain": model,
        "everywhere": ruled("* -> 0.7"),
        "rules": ruled("input -> 0.3; output:0-2 0-40% -> 1.2; cross -> 0; * -> 0.7"),
        "left": regional(left, other, entries),
        "whole": regional(torch.ones(1, 16, 16), positive, random_lora(model, lambda path: ".attn1." in path)),
        "attn1": ruled("self -> 0.7"),
    }
    return {name: sample(way, noise, positive, negative) for name, way in ways.items()}
