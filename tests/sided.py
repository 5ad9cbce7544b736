"""Methods that act on the rows of one prompt, and what becomes of them under a guider."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.where import Where
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.methods.capture import Capture, Word
from attention_patchbay.ldm_patched.patches.methods.map_injection import MapInjection
from attention_patchbay.ldm_patched.patches.methods.normalized_guidance import NormalizedGuidance
from attention_patchbay.ldm_patched.patches.methods.prompt_to_prompt import PromptToPrompt
from attention_patchbay.ldm_patched.patches.methods.reference_attention import Reference
from attention_patchbay.ldm_patched.patches.methods.regional_prompt import Region, RegionalPrompt
from attention_patchbay.ldm_patched.patches.methods.word_mask import WordMask
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight
from attention_patchbay.ldm_patched.patches.reading.maps import captured
from torch import Tensor

from .unets import draw

LENGTH = 6
OFF = ("positive", "negative")  # which prompt has no weight in the result
LENGTHS = {"as long": LENGTH, "twice as long": 2 * LENGTH, "of another length": 5}  # of the other prompts
LEFT = torch.tensor([[[1.0, 0.0]]])
POSITIVE: dict[str, Any] = {
    "word weight": WordWeight((1, 2), 3.0, LENGTH),
    "word mask": WordMask((1,), LEFT, LENGTH),
    "regional prompt": RegionalPrompt((Region(draw(11, 1, LENGTH, 16), LEFT),)),
    "normalized guidance": NormalizedGuidance(draw(12, 1, LENGTH, 16)),
    "prompt to prompt": PromptToPrompt((1, 2, 3, 4, 5, 6), (1, 2, 9, 4, 5, 6)),
    "reference": Reference(draw(13, 1, 4, 8, 8), where=Where(parse("middle self"))),
}
LISTENERS = {side: Capture((Word("one", (1,)),), LENGTH, side=side) for side in OFF}
INJECTION = MapInjection(where=Where(parse("all self")))

Guide = Callable[[Any, str], Tensor]  # of the model, and whose weight is off; to two pictures


def prompt(seed: int, length: int = LENGTH) -> list[list[Any]]:
    return [[draw(seed, 1, length, 16), {}]]


def effects(model: Any, guide: Guide, host: Host | None = None) -> dict[str, list[float]]:
    """Return how much each method changes the latents without the positive prompt, and without the negative one."""
    plain = {off: guide(model, off) for off in OFF}
    found = {}
    for name, method in POSITIVE.items():
        patched = attach(model, method, host)
        found[name] = [(guide(patched, off) - plain[off]).abs().max().item() for off in OFF]
    injected = guide(attach(model, INJECTION, host), OFF[0]) - plain[OFF[0]]
    found["map injection"] = [picture.abs().max().item() for picture in injected]
    return found


def heard(model: Any, guide: Guide, side: str, host: Host | None = None) -> list[float]:
    """Return what the capture of a side of one step summed up in the middle block."""
    model = attach(model, LISTENERS[side], host)
    (found,) = captured(model, guide(model, OFF[0]))
    (sums,) = (sums for block, sums in found.blocks.items() if str(block) == "middle")
    listened: list[float] = sums.attention.flatten().tolist()
    return listened


def check(found: dict[str, list[float]]) -> None:
    """Check that each method changed the positive prompt's part only, and the injection the second picture only."""
    for name, (first, second) in found.items():
        assert first == 0.0 and second > 1e-6, (name, first, second)
