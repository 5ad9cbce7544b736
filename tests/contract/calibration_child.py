"""Measure what a weight does on tiny models of four families in ComfyUI: `python calibration_child.py RESULT.json`.

Both ComfyUI and this pack are on PYTHONPATH. The result has, for each family, meaning and weight, what probes around
the weight saw in the second step: the mean over its calls of the word's and the text's share of the attention, and of
the word's share times the factor that its values were given.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

(result,) = sys.argv[1:]

from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True

import comfy.model_patcher  # noqa: E402
import comfy.supported_models  # noqa: E402
from attention_patchbay.ldm_patched.patches.addressing.where import Where  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.attach import attach  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.declaration import acts, hidden  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.declaration import method as declared  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.method import Method  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.site import Site  # noqa: E402
from attention_patchbay.ldm_patched.patches.engine.stack import Inner  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.calibration import MEASURED, WRITTEN  # noqa: E402
from attention_patchbay.ldm_patched.patches.methods.word_weight import WordWeight  # noqa: E402
from attention_patchbay.ldm_patched.patches.record.archive import ARCHIVE  # noqa: E402
from attention_patchbay.ldm_patched.patches.record.plan import plan_of  # noqa: E402
from attention_patchbay.tests.contract.beside import CPU, HOST  # noqa: E402
from attention_patchbay.tests.contract.tiny_families import FAMILIES, TEXT, Tiny, load, noise_of, prompt, sample  # noqa: E402
from attention_patchbay.tests.unets import UNET  # noqa: E402

WORD, STEP = 3, 2
VECTOR = {"model_channels": 64, "num_classes": "sequential", "adm_in_channels": 2816}  # heads of 64, as in SDXL
SDXL = Tiny("SDXL", {**UNET, **VECTOR}, (1, 4, 8, 12), 16, pooled=1280)
HEARD: list[tuple[Site, Tensor, Tensor, Tensor]] = []


@declared(title="Probe", text="Keep queries, keys and values of cross-attention.")
class Probe(Method):
    """Keep queries, keys and values of cross-attention."""

    inside: bool = hidden(False)
    where: Where = acts(kind="cross")

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """Keep them."""
        if site.step == STEP:
            HEARD.append((site, q, k, v))
        return inner(q, k, v)


def unet(tiny: Tiny) -> Any:
    config = comfy.supported_models.SDXL(dict(tiny.config))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def shares(outside: Any, inside: Any) -> tuple[float, float, float]:
    """Return the shares of the word, of the text, and of the word times its factor, in one call."""
    (site, q, k, v), (*_, scaled) = outside, inside
    keys = [k, *(one.k for one in site.beside)]
    scores = q.double().numpy() @ np.concatenate([one.double().numpy() for one in keys], 2).swapaxes(-1, -2)
    weights = np.exp(scores * q.shape[-1] ** -0.5)
    weights = (weights / weights.sum(-1, keepdims=True)).mean((0, 1, 2))
    factor = float((scaled[:, :, WORD] / v[:, :, WORD]).median())
    return float(weights[WORD]), float(weights[: k.shape[2]].sum()), float(weights[WORD]) * factor


def measured(tiny: Tiny, model: Any, weight: float, meaning: str) -> dict[str, Any]:
    model = attach(model, Probe(True), HOST)
    model = attach(model, WordWeight((WORD,), weight, TEXT, meaning=meaning), HOST)
    model = attach(model, Probe(), HOST)
    HEARD.clear()
    out = sample(model, noise_of(tiny, 1), prompt(tiny, 1), prompt(tiny, 2), 1.0, STEP)
    calls = [shares(outside, inside) for outside, inside in zip(HEARD[::2], HEARD[1::2], strict=True)]
    word, text, acted = np.mean(calls, 0).tolist()
    run = ARCHIVE.runs(out, plan_of(model))[0]
    return {"word": word, "text": text, "acted": acted, "calls": len(calls), "notes": sorted(run.notes)}


def main() -> None:
    """Write what was measured."""
    results: dict[str, Any] = {}
    for name in ("SDXL", "Flux", "Qwen-Image", "Z-Image"):
        tiny = SDXL if name == "SDXL" else FAMILIES[name]
        model = unet(tiny) if name == "SDXL" else load(tiny)
        found = results[name] = {}
        for meaning in (WRITTEN, MEASURED):
            found[meaning] = {f"{weight:g}": measured(tiny, model, weight, meaning) for weight in (1.3, 0.5, -1.0)}
    with open(result, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main()
