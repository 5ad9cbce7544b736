"""Latents of one small UNet behind core nodes, in ComfyUI and in the embedded host: `patched_child.py RESULT.json`.

Writes, for each run, the largest difference between the two as a part of the largest number, and how far the run is
from the one without the node.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from comfy.cli_args import args as comfy_args  # noqa: E402

comfy_args.cpu = True
import comfy.model_patcher  # noqa: E402
import comfy.supported_models  # noqa: E402

import nodes  # noqa: E402

asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))

from attention_patchbay.headless.engine.catalog import catalog  # noqa: E402
from attention_patchbay.ldm_patched.modules.model_patcher import ModelPatcher  # noqa: E402
from attention_patchbay.ldm_patched.modules.ops import plain  # noqa: E402
from attention_patchbay.ldm_patched.sampling.model_base import MODEL_CLASSES, ModelConfig  # noqa: E402
from attention_patchbay.tests.unets import UNET, draw  # noqa: E402

OURS = catalog()
CPU = torch.device("cpu")
SMALL = UNET | {"num_heads": 8, "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1]}
CONFIG: dict[str, Any] = {}
FOUND: dict[str, tuple[float, float]] = {}


def theirs(name: str, **inputs: Any) -> Any:
    cls = nodes.NODE_CLASS_MAPPINGS[name]
    answer = cls.execute(**inputs) if hasattr(cls, "GET_SCHEMA") else getattr(cls(), cls.FUNCTION)(**inputs)
    return answer.result if hasattr(answer, "result") else answer


def ours(name: str, **inputs: Any) -> Any:
    return OURS[name].execute(**inputs).args


def model_of_ours(seed: int) -> ModelPatcher:
    model = MODEL_CLASSES["sd1"](ModelConfig("sd1", CONFIG), operations=plain)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.5 if "to_q" in name or "to_k" in name else 0.1)
    return ModelPatcher(model, "cpu", "cpu")


def model_of_theirs(mine: ModelPatcher) -> Any:
    config = comfy.supported_models.SD15({**CONFIG, "adm_in_channels": None, "use_temporal_attention": False})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    model.diffusion_model.load_state_dict(mine.model.diffusion_model.state_dict())
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def prompt(seed: int, **entries: Any) -> list[Any]:
    return [[draw(seed, 1, 7, CONFIG["context_dim"]), entries]]


class Side:
    """A host with its models."""

    def __init__(self, node: Callable[..., Any], models: list[Any]) -> None:
        self.node, self.models = node, models

    def sampled(self, model: Any = None, sampler: Any = None, size: int = 16, cfg: float = 4.0, **conds: Any) -> Any:
        """Return the latents of a few steps."""
        node = self.node
        positive, negative = conds.get("positive", prompt(1)), conds.get("negative", prompt(2))
        model = self.models[0] if model is None else model
        (guider,) = node("CFGGuider", model=model, positive=positive, negative=negative, cfg=cfg)
        (sigmas,) = node("KarrasScheduler", steps=3, sigma_max=14.6, sigma_min=0.03, rho=7.0)
        (noise,) = node("RandomNoise", noise_seed=5)
        sampler = sampler or node("KSamplerSelect", sampler_name="euler")[0]
        latent = {"samples": torch.zeros(conds.get("batch", 1), 4, size, conds.get("width", size))}
        parts = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
        return node("SamplerCustomAdvanced", **parts)[0]["samples"]


SIDES: list[Side] = []


def use(changes: dict[str, Any]) -> None:
    """Build the models of both hosts anew, with changes of their configuration."""
    CONFIG.clear()
    CONFIG.update(SMALL | changes)
    first, second = model_of_ours(0), model_of_ours(1)
    SIDES[:] = [Side(ours, [first, second]), Side(theirs, [model_of_theirs(first), model_of_theirs(second)])]


def compare(what: str, run: Callable[[Side], Any], **plain_run: Any) -> None:
    """Note how far both hosts are from each other, and from the run without what is compared."""
    with torch.no_grad():
        mine, real = (run(side) for side in SIDES)
        bare = SIDES[0].sampled(**plain_run)
    assert mine.shape == real.shape, f"{what}: {tuple(mine.shape)}, not {tuple(real.shape)}"
    largest = float(real.abs().max())
    FOUND[what] = float((mine - real).abs().max()) / largest, float((mine - bare).abs().max()) / largest


def on_model(name: str, **inputs: Any) -> Callable[..., Callable[[Side], Any]]:
    """Return runs behind a node that changes a model."""

    def sampling(**how: Any) -> Callable[[Side], Any]:
        return lambda side: side.sampled(side.node(name, model=side.models[0], **inputs)[0], **how)

    return sampling


def compare_patches() -> None:
    for size in ({"size": 16}, {"size": 16, "batch": 2}, {"size": 16, "width": 24}):
        what = "x".join(map(str, size.values()))
        sag = on_model("SelfAttentionGuidance", scale=0.9, blur_sigma=2.0)
        compare(f"self-attention guidance {what}", sag(**size), **size)
        compare(f"merging {what}", on_model("TomePatchModel", ratio=0.4)(**size), **size)
    compare("self-attention guidance cfg 1", on_model("SelfAttentionGuidance", scale=0.9, blur_sigma=1.0)(cfg=1.0))
    compare("merging all", on_model("TomePatchModel", ratio=1.0)())
    for depth, scaled, swap in ((0, False, 2), (1, False, 3), (1, True, 3), (2, False, 1)):
        tiles = on_model("HyperTile", tile_size=32, swap_size=swap, max_depth=depth, scale_depth=scaled)
        compare(f"tiles {depth} {scaled} {swap}", tiles())
        compare(f"tiles wide {depth} {scaled} {swap}", tiles(width=32), width=32)
    for scale in (0.0, 1.0, 2.5):
        compare(f"perpendicular {scale}", on_model("PerpNeg", empty_conditioning=prompt(3), neg_scale=scale)())
    for first, last, edge in ((1.0, 1.0, 0.0), (0.8, 1.2, 0.0), (1.0, 0.5, 1.5)):
        inputs = {"s_noise": first, "s_noise_end": last, "noise_clip_std": edge}
        compare(
            f"lcm {tuple(inputs.values())}",
            lambda side, i=inputs: side.sampled(sampler=side.node("SamplerLCM", **i)[0]),
        )


def compare_merges() -> None:
    def merged(name: str, chained: bool = False, **inputs: Any) -> Callable[[Side], Any]:
        def run(side: Side) -> Any:
            one, other = side.models
            model = side.node(name, model1=one, model2=other, **inputs)[0]
            if chained:  # the second model has patches itself
                model = side.node("ModelMergeSimple", model1=one, model2=model, ratio=0.5)[0]
            return side.sampled(model)

        return run

    for ratio in (0.0, 0.3, 1.0):
        compare(f"merged {ratio}", merged("ModelMergeSimple", ratio=ratio))
    compare("merged twice", merged("ModelMergeSimple", True, ratio=0.3))
    compare("merged by blocks", merged("ModelMergeBlocks", input=0.2, middle=0.9, out=0.5))
    compare("added", merged("ModelMergeAdd"))
    compare("subtracted", merged("ModelMergeSubtract", multiplier=0.7))
    compare("difference added", merged("ModelMergeSubtract", True, multiplier=0.5))


if __name__ == "__main__":
    use({})
    compare_patches()
    compare_merges()
    Path(sys.argv[1]).write_text(json.dumps(FOUND))
