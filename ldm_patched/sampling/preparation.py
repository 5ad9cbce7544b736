"""What a sampling run makes ready: the options, the model and its helpers, the mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..modules.hooked_weights import HookedWeights
from ..modules.model_patcher import ModelPatcher
from ..modules.patcher_extension import copy_nested_dicts, merge_nested_dicts
from .cond_batch import Cond, controls
from .conds import repeat_to_batch_size
from .model_base import BaseModel


def run_options(patcher: ModelPatcher) -> dict[str, Any]:
    """Return a copy of a patcher's options that also carries its wrappers and callbacks, for one run."""
    options = copy_nested_dicts(patcher.model_options)
    transformer_options = options.setdefault("transformer_options", {})
    for family in ("wrappers", "callbacks"):
        own = getattr(patcher, family)
        transformer_options[family] = merge_nested_dicts(transformer_options.get(family, {}), own)
    return options


def hooked_weights(patcher: ModelPatcher, conds: dict[str, list[Cond]]) -> HookedWeights | None:
    """Return what switches the weights of a run whose conditionings have hooks."""
    groups = [cond["hooks"] for group in conds.values() for cond in group if cond.get("hooks") is not None]
    hooks = list(dict.fromkeys(hook for group in groups for hook in group.hooks))
    return HookedWeights(patcher, hooks) if hooks else None


def prepare_sampling(
    patcher: ModelPatcher, noise_shape: Sequence[int], conds: dict[str, list[Cond]], model_options: dict[str, Any]
) -> tuple[BaseModel, dict[str, list[Cond]], list[Any]]:
    """Load the model and the models its conditionings bring, and return them with the conditionings."""
    patcher.model_patches_to(patcher.load_device)
    helpers = list(dict.fromkeys(model for control in controls(conds) for model in control.get_models()))
    for helper in helpers:
        helper.patch_model(helper.load_device)
        helper.unpatch_model()
    return patcher.patch_model(patcher.load_device), conds, helpers


def mask_for(mask: Tensor, latent: Tensor) -> Tensor:
    """Scale an inpainting mask (h, w), (b, h, w) or (b, 1, h, w) to a latent's shape."""
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    mask = F.interpolate(mask, size=latent.shape[2:], mode="bilinear")
    return repeat_to_batch_size(mask.expand(-1, latent.shape[1], -1, -1), latent.shape[0])
