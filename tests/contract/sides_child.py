"""Sample a UNet under ComfyUI's guiders with methods for one side: `sides_child.py RESULT.json`.

The result has, for each guider and length of its other prompts, the effects of each method and what captures heard.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

(result,) = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import comfy.model_patcher  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.supported_models  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.attach import attach  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.sides import NAMELESS, UNKNOWN  # noqa: E402
from attention_patchbay.ldm_patched.patches.reading.report import report  # noqa: E402
from attention_patchbay.nodes._host import HOST  # noqa: E402
from attention_patchbay.tests import sided  # noqa: E402
from attention_patchbay.tests.unets import UNET, draw  # noqa: E402
from comfy_extras import nodes_custom_sampler, nodes_perpneg, nodes_sag  # noqa: E402


def unet(seed: int) -> Any:
    config = comfy.supported_models.SD15({**UNET, "adm_in_channels": None, "use_temporal_attention": False})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


base, second = unet(0), unet(1)
# The weight of the positive prompt is 0 with cfg 0; with cfg 1 that of the negative one is
CFG = {"positive": 0.0, "negative": 1.0}
NEGATIVE = {"positive": 1.0, "negative": 0.0}  # of the guiders that weight it by itself


def cfg(model: Any, off: str, positive: Any, negative: Any, third: Any) -> Any:
    return nodes_custom_sampler.CFGGuider.execute(model, positive, negative, CFG[off]).args[0]


def sag(model: Any, off: str, *prompts: Any) -> Any:
    (model,) = nodes_sag.SelfAttentionGuidance.execute(model, 0.5, 1.0).args
    return cfg(model, off, *prompts)


def perp_neg_node(model: Any, off: str, positive: Any, negative: Any, third: Any) -> Any:
    (model,) = nodes_perpneg.PerpNeg.execute(model, third, 0.0).args
    model.model_options["disable_cfg1_optimization"] = True
    return cfg(model, off, positive, negative, third)


def perp_neg(model: Any, off: str, positive: Any, negative: Any, third: Any) -> Any:
    return nodes_perpneg.PerpNegGuider.execute(model, positive, negative, third, CFG[off], NEGATIVE[off]).args[0]


def dual(style: str) -> Callable[..., Any]:
    def guider(model: Any, off: str, positive: Any, negative: Any, third: Any) -> Any:
        weights = CFG[off], 1.0 + NEGATIVE[off]
        return nodes_custom_sampler.DualCFGGuider.execute(model, positive, third, negative, *weights, style).args[0]

    return guider


def dual_model(model: Any, off: str, positive: Any, negative: Any, third: Any) -> Any:
    return nodes_custom_sampler.DualModelGuider.execute(model, positive, CFG[off], second, negative).args[0]


GUIDERS = {
    "CFG": cfg,
    "SAG": sag,
    "PerpNeg": perp_neg_node,
    "PerpNegGuider": perp_neg,
    "DualCFG regular": dual("regular"),
    "DualCFG nested": dual("nested"),
    "DualModel": dual_model,
}


def guide_of(kind: Callable[..., Any], length: int) -> sided.Guide:
    """Return what samples two pictures in one step with a guider, whose other prompts have a length."""

    def guide(model: Any, off: str) -> torch.Tensor:
        guider = kind(model, off, sided.prompt(1), sided.prompt(2, length), sided.prompt(3, length))
        noise = draw(0, 1, 4, 8, 8).repeat(2, 1, 1, 1) + draw(8, 2, 4, 8, 8) / 2
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 1)
        euler = comfy.samplers.ksampler("euler")
        out: torch.Tensor = guider.sample(noise, torch.zeros(2, 4, 8, 8), euler, sigmas, disable_pbar=True, seed=0)
        return out

    return guide


def notes(guide: sided.Guide) -> list[str]:
    model = attach(base, sided.POSITIVE["word weight"], HOST)
    lines = report(model, guide(model, "positive")).text.splitlines()
    return [line for line in (NAMELESS, UNKNOWN) if line in lines]


found: dict[str, Any] = {}
for name, kind in GUIDERS.items():
    for wording, length in sided.LENGTHS.items():
        guide = guide_of(kind, length)
        one = {"effects": sided.effects(base, guide, HOST), "positive": sided.heard(base, guide, "positive", HOST)}
        # of the prompt that a capture is given, on the model it is on; and SAG predicts another picture of the negative
        if length != 5 and name not in ("DualModel", "SAG"):
            one["negative"] = sided.heard(base, guide, "negative", HOST)
        found[f"{name}, other prompts {wording}"] = {**one, "notes": notes(guide)}
Path(result).write_text(json.dumps(found))
