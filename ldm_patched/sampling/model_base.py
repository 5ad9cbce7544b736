"""A diffusion network with its noise schedule and its latent scale: the thing a sampler calls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ldm.modules.diffusionmodules.openaimodel import UNetModel
from ..ldm.modules.diffusionmodules.util import timestep_embedding
from ..modules.model_patcher import ModelPatcher
from ..modules.ops import disable_weight_init
from ..modules.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from .conds import (
    CONDConstant,
    CONDCrossAttn,
    CONDNoiseShape,
    CONDRegular,
    repeat_to_batch_size,
    spread_over_batch,
)
from .latent_formats import SD15, LatentFormat
from .model_sampling import CONTINUOUS, discrete_sampling
from .upscale import common_upscale

# A latent pixel's share of the activations at the widest place of an SD1 UNet, in elements.
ACTIVATIONS_PER_LATENT_PIXEL = 10 * 1024

# What the SD1 VAE makes of a black image, per latent channel, for inpainting models called without an image.
BLANK_LATENT = (0.8223, -0.6876, 0.6364, 0.1380)


@dataclass(frozen=True)
class ModelConfig:
    """What a checkpoint says about its diffusion model."""

    family: str  # sd1, sd2, sdxl, sdxl_refiner, svd
    unet: Mapping[str, Any]
    prediction: str = "eps"  # or v_prediction; edm where the noise levels are continuous
    zsnr: bool = False
    continuous: Mapping[str, float] | None = None  # sigma_min, sigma_max, sigma_data: noise levels without steps
    latent_format: LatentFormat = field(default_factory=SD15)
    concat: str | None = None  # inpaint or ip2p: what the extra input channels hold


def build_sampling(config: ModelConfig) -> Any:
    """Return what the model predicts and the noise levels it was trained on."""
    if config.continuous is not None:
        return CONTINUOUS[config.prediction](**config.continuous)
    return discrete_sampling(config.prediction, config.zsnr)


class BaseModel(nn.Module):
    """Predict the denoised latent from a noisy one.

    `diffusion_model`, `model_sampling` and `latent_format` can be replaced by a patcher's object patches while it runs.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        manual_cast_dtype: torch.dtype | None = None,
        operations: Any = disable_weight_init,
    ) -> None:
        super().__init__()
        self.model_config = config
        self.manual_cast_dtype = manual_cast_dtype
        self.diffusion_model = UNetModel(**config.unet, dtype=dtype, device=device, operations=operations)
        self.diffusion_model.requires_grad_(False).eval()
        self.model_sampling: Any = build_sampling(config)
        self.latent_format = config.latent_format
        self.current_patcher: ModelPatcher | None = None
        self.patched_by: ModelPatcher | None = None

    def get_dtype(self) -> torch.dtype:
        """Return the dtype of the weights."""
        dtype: torch.dtype = self.diffusion_model.dtype
        return dtype

    def get_dtype_inference(self) -> torch.dtype:
        """Return the dtype activations are computed in."""
        return self.manual_cast_dtype or self.get_dtype()

    def apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: dict[str, list[Tensor]] | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return the denoised latent for x (b, c, h, w) at sigmas t (b,), through the APPLY_MODEL wrappers."""
        options = {} if transformer_options is None else transformer_options
        wrappers = get_all_wrappers(WrappersMP.APPLY_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self._apply_model, self, wrappers)
        denoised: Tensor = executor.execute(x, t, c_concat, c_crossattn, control, options, **kwargs)
        return denoised

    def _apply_model(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: dict[str, list[Tensor]] | None = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        dtype = self.get_dtype_inference()
        scaled = self.model_sampling.calculate_input(t, x)
        if c_concat is not None:
            scaled = torch.cat([scaled, c_concat.to(scaled)], dim=1)
        output = self.diffusion_model(
            scaled.to(dtype),
            self.model_sampling.timestep(t).float(),
            context=None if c_crossattn is None else c_crossattn.to(x.device, dtype),
            control=control,
            transformer_options=dict(transformer_options or {}),
            **{name: _cast(value, x.device, dtype) for name, value in kwargs.items()},
        )
        denoised: Tensor = self.model_sampling.calculate_denoised(t, output.float(), x)
        return denoised

    # Conditioning

    def extra_conds(self, **params: Any) -> dict[str, CONDRegular]:
        """Turn a conditioning's entries, with `noise` and `device` beside them, into the network's arguments."""
        conds: dict[str, CONDRegular] = {}
        concat = self.concat_cond(**params)
        if concat is not None:
            conds["c_concat"] = CONDNoiseShape(concat)
        vector = self.encode_adm(**params)
        if vector is not None:
            conds["y"] = CONDRegular(vector)
        if params.get("cross_attn") is not None:
            conds["c_crossattn"] = CONDCrossAttn(params["cross_attn"])
        return conds

    def encode_adm(self, **params: Any) -> Tensor | None:
        """Return the vector conditioning (b, adm channels), or None where the model has none."""
        return None

    def concat_cond(self, **params: Any) -> Tensor | None:
        """Return the extra input channels (b, c, h, w) of inpainting and editing models."""
        if self.model_config.concat == "inpaint":
            return self._inpaint_channels(**params)
        if self.model_config.concat == "ip2p":
            image = params.get("concat_latent_image")
            noise = params["noise"]
            return (
                torch.zeros_like(noise) if image is None else self.ip2p_image(_fit(image, noise).to(params["device"]))
            )
        return None

    def ip2p_image(self, image: Tensor) -> Tensor:
        """Return the latent of the image to edit as the model was trained to see it: as the VAE gives it."""
        return image

    def _inpaint_channels(self, **params: Any) -> Tensor:
        noise, device = params["noise"], params["device"]
        mask = params.get("concat_mask", params.get("denoise_mask"))
        if mask is None:
            blank = torch.ones_like(noise) * noise.new_tensor(BLANK_LATENT).reshape(1, -1, 1, 1)
            return torch.cat([torch.ones_like(noise[:, :1]), blank], dim=1)
        image = params.get("concat_latent_image")
        image = params["latent_image"] if image is None else self.process_latent_in(image)
        mask = mask[:, :1] if mask.ndim == noise.ndim else mask
        mask = _fit(mask.reshape(-1, 1, *mask.shape[-2:]), noise).round()
        return torch.cat([mask.to(device), _fit(image, noise).to(device)], dim=1)

    # Latents and memory

    def process_latent_in(self, latent: Tensor) -> Tensor:
        """Scale a VAE latent for the model."""
        return self.latent_format.process_in(latent)

    def process_latent_out(self, latent: Tensor) -> Tensor:
        """Scale a model latent back for the VAE."""
        return self.latent_format.process_out(latent)

    def scale_latent_inpaint(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, **kwargs: Any) -> Tensor:
        """Return the kept part of an inpainted latent, noised to a step's sigma (b,)."""
        noised: Tensor = self.model_sampling.noise_scaling(sigma, noise, latent_image)
        return noised

    def memory_required(self, input_shape: Sequence[int], cond_shapes: Mapping[str, Any] | None = None) -> float:
        """Estimate the bytes of activations of one call with a latent of this shape."""
        pixels = input_shape[0] * math.prod(input_shape[2:])
        return pixels * ACTIVATIONS_PER_LATENT_PIXEL * self.get_dtype_inference().itemsize


class SDXL(BaseModel):
    """SDXL: the pooled text and six image sizes make the vector conditioning."""

    def encode_adm(self, **params: Any) -> Tensor:
        """Return (b, 1280 + 6 * 256)."""
        width, height = params.get("width", 768), params.get("height", 768)
        sizes = [height, width, params.get("crop_h", 0), params.get("crop_w", 0)]
        sizes += [params.get("target_height", height), params.get("target_width", width)]
        return _with_sizes(params["pooled_output"], sizes)

    def ip2p_image(self, image: Tensor) -> Tensor:
        """Return the latent of the image to edit: CosXL Edit's is scaled."""
        return image if self.model_config.continuous is None else self.process_latent_in(image)


class SDXLRefiner(BaseModel):
    """The SDXL refiner: four image sizes and an aesthetic score."""

    def encode_adm(self, **params: Any) -> Tensor:
        """Return (b, 1280 + 5 * 256)."""
        score = 2.5 if params.get("prompt_type") == "negative" else 6
        sizes = [params.get("height", 768), params.get("width", 768), params.get("crop_h", 0), params.get("crop_w", 0)]
        return _with_sizes(params["pooled_output"], [*sizes, params.get("aesthetic_score", score)])


class SVD(BaseModel):
    """Stable Video Diffusion: the batch is one video, steered by its first image."""

    def extra_conds(self, **params: Any) -> dict[str, CONDRegular]:
        """Add the context of the layers over time, if there is one of their own, and the number of frames."""
        conds = super().extra_conds(**params)
        if "time_conditioning" in params:
            conds["time_context"] = CONDCrossAttn(params["time_conditioning"])
        conds["num_video_frames"] = CONDConstant(params["noise"].shape[0])
        return conds

    def encode_adm(self, **params: Any) -> Tensor:
        """Return (1, 3 * 256): frames per second less one, amount of motion, noise on the first image."""
        values = [params.get("fps", 6) - 1, params.get("motion_bucket_id", 127), params.get("augmentation_level", 0)]
        return timestep_embedding(torch.tensor(values, dtype=torch.float32), 256).flatten()[None]

    def concat_cond(self, **params: Any) -> Tensor:
        """Return the first image's latent, as the VAE gives it, for every frame (t, 4, h, w)."""
        image, noise = params.get("concat_latent_image"), params["noise"]
        if image is None:
            return torch.zeros_like(noise)
        if image.shape[1:] != noise.shape[1:]:
            image = common_upscale(image, noise.shape[-1], noise.shape[-2], "bilinear", "center")
        return spread_over_batch(image, noise.shape[0])


MODEL_CLASSES: dict[str, type[BaseModel]] = {
    "sd1": BaseModel,
    "sd2": BaseModel,
    "sdxl": SDXL,
    "sdxl_refiner": SDXLRefiner,
    "svd": SVD,
}


def _with_sizes(pooled: Tensor, sizes: Sequence[float]) -> Tensor:
    embedded = timestep_embedding(torch.tensor(sizes, dtype=torch.float32), 256).flatten()
    return torch.cat([pooled, embedded.to(pooled.device).expand(pooled.shape[0], -1)], dim=1)


def _cast(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, (list, tuple)):
        return [_cast(item, device, dtype) for item in value]
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


def _fit(image: Tensor, noise: Tensor) -> Tensor:
    """Scale the middle of an image to the noise's height and width, and repeat it to its batch."""
    height, width = noise.shape[-2:]
    if image.shape[-2:] != noise.shape[-2:]:
        image = F.interpolate(_centre(image, width / height), size=(height, width), mode="bilinear")
    return repeat_to_batch_size(image, noise.shape[0])


def _centre(image: Tensor, aspect: float) -> Tensor:
    height, width = image.shape[-2:]
    x = round((width - height * aspect) / 2) if width / height > aspect else 0
    y = round((height - width / aspect) / 2) if width / height < aspect else 0
    return image[..., y : height - y, x : width - x]
