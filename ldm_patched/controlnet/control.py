"""A ControlNet in a sampling run: its hint, its strength, its time window, and the one before it in the chain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from ..modules.model_patcher import ModelPatcher
from ..sampling.conds import repeat_to_batch_size
from ..sampling.model_base import BaseModel
from ..sampling.upscale import common_upscale

Control = dict[str, list[Tensor | None]]  # input, middle, output: what is added to those blocks of a UNet

HINT_SCALE = 8  # hint pixels per latent pixel
WHOLE_RUN = (math.inf, -math.inf)


class ControlNet:
    """One use of a ControlNet; `copy` shares its weights, and nothing of a run is left in it after `cleanup`."""

    def __init__(self, patcher: ModelPatcher | None, global_average_pooling: bool = False) -> None:
        self.control_model: Any = None if patcher is None else patcher.model
        self.control_model_wrapped = patcher
        self.global_average_pooling = global_average_pooling
        self.cond_hint_original: Tensor | None = None
        self.strength = 1.0
        self.timestep_percent_range = (0.0, 1.0)
        self.extra_args: dict[str, Any] = {}
        self.extra_concat_orig: list[Tensor] = []
        self.previous_controlnet: ControlNet | None = None
        self.cond_hint: Tensor | None = None
        self.timestep_range: tuple[float, float] = WHOLE_RUN
        self.model_sampling_current: Any = None

    # In the graph

    def set_cond_hint(
        self,
        cond_hint: Tensor,
        strength: float = 1.0,
        timestep_percent_range: tuple[float, float] = (0.0, 1.0),
        vae: Any = None,
        extra_concat: Sequence[Tensor] = (),
    ) -> ControlNet:
        """Set the hint (b, c, h, w), how strongly and in which part of the run it counts, and return self.

        Args:
            vae: accepted for every ControlNet and read by none that takes its hint in pixels, as all here do.
            extra_concat: more hint channels (b, c, h, w), resized to the hint.
        """
        self.cond_hint_original = cond_hint
        self.strength = strength
        self.timestep_percent_range = timestep_percent_range
        self.extra_concat_orig = list(extra_concat)
        return self

    def set_previous_controlnet(self, controlnet: ControlNet | None) -> ControlNet:
        """Set whose result is added to this one's, and return self."""
        self.previous_controlnet = controlnet
        return self

    def set_extra_arg(self, argument: str, value: Any = None) -> None:
        """Set an argument of the network, such as the `control_type` of a union ControlNet."""
        self.extra_args[argument] = value

    def copy(self) -> ControlNet:
        """Return another use of the same weights with the same settings, in no chain."""
        other = self._again()
        other.cond_hint_original = self.cond_hint_original
        other.strength = self.strength
        other.timestep_percent_range = self.timestep_percent_range
        other.extra_args = dict(self.extra_args)
        other.extra_concat_orig = list(self.extra_concat_orig)
        return other

    def _again(self) -> ControlNet:
        return type(self)(self.control_model_wrapped, self.global_average_pooling)

    def get_models(self) -> list[ModelPatcher]:
        """Return the models of the chain, to be loaded before a run."""
        before = [] if self.previous_controlnet is None else self.previous_controlnet.get_models()
        return before if self.control_model_wrapped is None else [*before, self.control_model_wrapped]

    # In a run

    def pre_run(self, model: BaseModel, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Turn the time windows of the chain into sigmas of a model."""
        start, end = self.timestep_percent_range
        self.timestep_range = (percent_to_timestep_function(start), percent_to_timestep_function(end))
        self.model_sampling_current = model.model_sampling
        if self.previous_controlnet is not None:
            self.previous_controlnet.pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        """Drop what belongs to a run, in the whole chain."""
        self.cond_hint = None
        self.timestep_range = WHOLE_RUN
        self.model_sampling_current = None
        if self.previous_controlnet is not None:
            self.previous_controlnet.cleanup()

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, transformer_options: dict[str, Any]
    ) -> Control | None:
        """Return what the chain adds to the UNet for latents (b, c, h, w) at sigmas (b,); None outside its windows.

        Args:
            cond: what the UNet is called with: `c_crossattn` and, for a vector model, `y`.
            batched_number: how many conditionings stand one after the other in the batch.
        """
        previous = None
        if self.previous_controlnet is not None:
            previous = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
        start, end = self.timestep_range
        if t[0] > start or t[0] < end:
            return previous
        control = self._computed(x_noisy, t, cond, batched_number)
        own: Control = {name: [self._weighted(tensor) for tensor in tensors] for name, tensors in control.items()}
        return merge_controls(own, previous)

    def _computed(self, x: Tensor, t: Tensor, cond: Mapping[str, Any], batched_number: int) -> Control:
        """Return what is added to the UNet, before its strength."""
        dtype, sampling = self.control_model.dtype, self.model_sampling_current
        extra = {"y": cond["y"].to(x.device, dtype)} if cond.get("y") is not None else {}
        control: Control = self.control_model(
            x=sampling.calculate_input(t, x).to(dtype),
            hint=hint_for_batch(self._resized_hint(x, dtype), len(x), batched_number),
            timesteps=sampling.timestep(t).to(dtype),
            context=cond["c_crossattn"].to(x.device, dtype),
            **self.extra_args,
            **extra,
        )
        return control

    def hint(self) -> Tensor:
        """Return the hint as it was given, or raise ValueError."""
        if self.cond_hint_original is None:
            raise ValueError("this ControlNet has no hint; give it a picture with an Apply ControlNet node")
        return self.cond_hint_original

    def _resized_hint(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the hint in the pixels of latents (b, c, h, w), resized once for all steps of a run."""
        width, height = x.shape[-1] * HINT_SCALE, x.shape[-2] * HINT_SCALE
        if self.cond_hint is None or self.cond_hint.shape[-2:] != (height, width):
            parts = [self.hint(), *self.extra_concat_orig]
            resized = [common_upscale(part, width, height, "nearest-exact", "center") for part in parts]
            resized = [repeat_to_batch_size(part, len(resized[0])).to(resized[0].device) for part in resized]
            self.cond_hint = torch.cat(resized, dim=1).to(x.device, dtype)
        return self.cond_hint

    def _weighted(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        if self.global_average_pooling:
            tensor = tensor.mean(dim=(2, 3), keepdim=True).expand_as(tensor)
        return tensor * self.strength


def hint_for_batch(hint: Tensor, batch: int, batched_number: int) -> Tensor:
    """Repeat or cut a hint (b, c, h, w) to the latents of each conditioning; a single one fits any batch as it is."""
    if len(hint) == 1:
        return hint
    return torch.cat([repeat_to_batch_size(hint, batch // batched_number)] * batched_number)


def merge_controls(own: Control, previous: Control | None) -> Control:
    """Add two controls tensor by tensor, in the order of their lists."""
    previous = previous or {}
    return {
        name: [_sum(a, b) for a, b in zip_longest(own.get(name, []), previous.get(name, []))]
        for name in ("input", "middle", "output")
    }


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return b + a
