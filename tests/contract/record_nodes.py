"""Nodes for the tests of the record, put into a server's custom_nodes: a tiled upscaler, and a model that breaks."""

from __future__ import annotations

from typing import Any

import comfy.sample
import torch

WORDS = {"model": ("MODEL",), "positive": ("CONDITIONING",), "negative": ("CONDITIONING",), "latent": ("LATENT",)}


class Tiles:
    """Sample the left and the right half, each by a run of its own, and paste them into a new latent."""

    INPUT_TYPES = classmethod(lambda cls: {"required": WORDS})
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"
    CATEGORY = "test"

    def sample(self, model: Any, positive: Any, negative: Any, latent: dict[str, Any]) -> tuple[dict[str, Any]]:
        halves = []
        for seed, half in enumerate(latent["samples"].chunk(2, dim=-1)):
            noise = comfy.sample.prepare_noise(half, seed)
            settings = (noise, 2, 3.0, "euler", "normal", positive, negative, half)
            halves.append(comfy.sample.sample(model, *settings, disable_pbar=True, seed=seed))
        return ({"samples": torch.cat(halves, dim=-1)},)


class Breaks:
    """Raise an error in a step of a run, counted from 1."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",), "step": ("INT", {"default": 2})}})
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "test"

    def patch(self, model: Any, step: int) -> tuple[Any]:
        def after(args: dict[str, Any]) -> torch.Tensor:
            sigmas = args["model_options"]["transformer_options"]["sample_sigmas"]
            if float(args["sigma"].flatten()[0]) <= float(sigmas[step - 1]):
                raise RuntimeError("broken in a step")
            return args["denoised"]

        model = model.clone()
        model.set_model_sampler_post_cfg_function(after)
        return (model,)


NODE_CLASS_MAPPINGS = {"TestTiles": Tiles, "TestBreaks": Breaks}
