"""Guidance by other numbers of conditionings than a positive and a negative one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..modules.model_patcher import ModelPatcher
from .cond_batch import Cond, Conditioning, calc_cond_batch, convert_cond
from .samplers import CFGGuider, cfg_function


class BasicGuider(CFGGuider):
    """A guider that follows one conditioning."""

    def __init__(self, model_patcher: ModelPatcher, conditioning: Conditioning) -> None:
        super().__init__(model_patcher)
        self.original_conds = {"positive": convert_cond(conditioning)}


class DualCFGGuider(CFGGuider):
    """Guidance from a negative conditioning to a second one, and from that to a first one (Brooks et al., 2023)."""

    def __init__(
        self,
        model_patcher: ModelPatcher,
        conds: Sequence[Conditioning],
        cfg_first: float,
        cfg_second: float,
        nested: bool = False,
    ) -> None:
        super().__init__(model_patcher)
        self.original_conds = dict(zip(("positive", "middle", "negative"), map(convert_cond, conds), strict=True))
        self.cfg_first, self.cfg_second, self.nested = cfg_first, cfg_second, nested

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None
    ) -> Tensor:
        """Return the guided denoised latent; without guidance a conditioning is not evaluated."""
        conds: list[list[Cond] | None] = [self.conds.get(name) for name in ("negative", "middle", "positive")]
        plain = not self.nested and not model_options.get("disable_cfg1_optimization", False)
        if plain and math.isclose(self.cfg_second, 1.0):
            conds[0] = None
            conds[1] = None if math.isclose(self.cfg_first, 1.0) else conds[1]
        negative, middle, positive = calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        shared = (x, timestep, model_options)
        if self.nested:
            text = cfg_function(self.inner_model, positive, middle, self.cfg_first, *shared, conds[2], conds[1])
            return negative + self.cfg_second * (text - negative)
        inner = cfg_function(self.inner_model, middle, negative, self.cfg_second, *shared, conds[1], conds[0])
        return inner + (positive - middle) * self.cfg_first


class PerpNegGuider(CFGGuider):
    """Guidance away from what the negative conditioning adds beside the positive one (Armandpour et al., 2023)."""

    def __init__(
        self, model_patcher: ModelPatcher, conds: Sequence[Conditioning], cfg: float, neg_scale: float
    ) -> None:
        super().__init__(model_patcher)
        self.original_conds = dict(zip(("positive", "negative", "empty"), map(convert_cond, conds), strict=True))
        self.cfg, self.neg_scale = cfg, neg_scale

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None
    ) -> Tensor:
        """Return the guided denoised latent; without guidance a conditioning is not evaluated."""
        conds: list[list[Cond] | None] = [self.conds.get(name) for name in ("positive", "negative", "empty")]
        if math.isclose(self.neg_scale, 0.0) and not model_options.get("disable_cfg1_optimization", False):
            conds[1] = None
            conds[2] = None if math.isclose(self.cfg, 1.0) else conds[2]
        out = calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        shared: dict[str, Any] = {"input": x, "sigma": timestep, "model": self.inner_model}
        shared |= {"model_options": model_options, "cond_scale": self.cfg}
        for function in model_options.get("sampler_pre_cfg_function", []):
            out = function({**shared, "conds": conds, "conds_out": out, "timestep": timestep})
        positive, negative, empty = out
        result: Tensor = perp_neg(positive, negative, empty, self.neg_scale, self.cfg)
        shared |= {"cond": conds[0], "uncond": conds[1], "cond_denoised": positive, "uncond_denoised": negative}
        for function in model_options.get("sampler_post_cfg_function", []):
            result = function({**shared, "denoised": result, "empty_cond": conds[2], "empty_cond_denoised": empty})
        return result


def perp_neg(positive: Tensor, negative: Tensor, empty: Tensor, neg_scale: float, cond_scale: float) -> Tensor:
    """Combine three predictions: of the negative counts what is at a right angle to the positive."""
    towards, away = positive - empty, negative - empty
    beside = away - (away * towards).sum() / torch.norm(towards) ** 2 * towards
    mixed: Tensor = empty + cond_scale * (towards - beside * neg_scale)
    return mixed
