"""A whole model as a LoRA hook on a small UNet, in ComfyUI and in the embedded host: `hooks_child.py RESULT.json`.

Writes, for each run, the largest difference between the two as a part of the largest number, and how far the run is
from the one without the hook. The demo model is too small for ComfyUI to load a second checkpoint of its kind.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from attention_patchbay.headless.nodes.hooks import towards, weights_of
from attention_patchbay.ldm_patched.modules.weight_hooks import Hook, Hooks, Keyframes, WeightChange
from attention_patchbay.tests.contract.patched_child import FOUND, SIDES, Side, compare, prompt, use

AREA = {"strength": 1.0, "set_cond_area": "default"}


def as_hook(side: Side, strength: float) -> Any:
    """Return a hook of the second model of a side."""
    other = side.models[1]
    if side is SIDES[1]:
        import comfy.hooks  # once `patched_child` has told ComfyUI to stay on the CPU

        weights = comfy.hooks.get_patch_weights_from_model(other)
        return comfy.hooks.create_hook_model_as_lora(weights, None, strength, 0.0)
    nothing: Callable[[Any], dict[str, Any]] = lambda patcher: {}  # noqa: E731
    change = WeightChange("second", partial(towards, weights_of(other)), nothing, strength)
    return Hooks((Hook(change, Keyframes()),))


def hooked(side: Side, hooks: Any, cond: Any) -> Any:
    return side.node("ConditioningSetProperties", cond_NEW=cond, hooks=hooks, **AREA)[0]


def timed(side: Side, hooks: Any) -> Any:
    (frames,) = side.node("CreateHookKeyframe", strength_mult=0.2, start_percent=0.0)
    (frames,) = side.node("CreateHookKeyframe", strength_mult=0.9, start_percent=0.6, prev_hook_kf=frames)
    return side.node("SetHookKeyframes", hooks=hooks, hook_kf=frames)[0]


def merged(side: Side) -> Any:
    """Return the first model with a patch that mixes in the second."""
    return side.node("ModelMergeSimple", model1=side.models[0], model2=side.models[1], ratio=0.7)[0]


def main(result: str) -> None:
    """Compare runs with hooks on one prompt, over time, on a merged model, and beside guidance of other predictions."""
    use({})
    for strength in (1.0, 0.4, -0.3):
        compare(
            f"one prompt {strength}",
            lambda side, s=strength: side.sampled(positive=hooked(side, as_hook(side, s), prompt(1))),
        )
    compare("over time", lambda side: side.sampled(positive=hooked(side, timed(side, as_hook(side, 1.0)), prompt(1))))
    compare(
        "on a merged model",
        lambda side: side.sampled(merged(side), positive=hooked(side, as_hook(side, 0.5), prompt(1))),
    )
    guidances: dict[str, dict[str, Any]] = {
        "PerpNeg": {"empty_conditioning": prompt(3), "neg_scale": 1.0},
        "SelfAttentionGuidance": {"scale": 0.9, "blur_sigma": 2.0},
        "PerturbedAttentionGuidance": {"scale": 2.0},
    }
    for name, inputs in guidances.items():
        compare(
            f"beside {name}",
            lambda side, n=name, i=inputs: side.sampled(
                side.node(n, model=side.models[0], **i)[0], positive=hooked(side, as_hook(side, 0.5), prompt(1))
            ),
        )
    Path(result).write_text(json.dumps(FOUND))


if __name__ == "__main__":
    main(sys.argv[1])
