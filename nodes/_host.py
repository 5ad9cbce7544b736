"""The host of the nodes: ComfyUI where it is there, else this pack's own. The one file that imports ComfyUI."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..ldm_patched import demo
from ..ldm_patched.demo.tokenizer import END, START, DemoTokenizer
from ..ldm_patched.ldm.modules.backends import dispatch, registry
from ..ldm_patched.modules import model_management
from ..ldm_patched.patches.hook import Host
from .heatmap import view

try:
    from comfy_api.latest import ComfyExtension, io
except ModuleNotFoundError as error:
    if error.name != "comfy_api":
        raise
    from ..headless.api import comfy_io as io
    from ..headless.api import session
    from ..headless.api.comfy_io import ComfyExtension

    IN_COMFYUI = False
else:
    IN_COMFYUI = True

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."

__all__ = [
    "HOST",
    "IN_COMFYUI",
    "ComfyExtension",
    "check_interrupt",
    "io",
    "load_demo_model",
    "output_file",
    "progress",
    "register_host_backends",
    "sample_once",
    "user_file",
    "write",
]


def attend(*args: Any, **kwargs: Any) -> Tensor:
    """Run the host's attention function, the one its own UNet would use; the override of the model holds."""
    if IN_COMFYUI:
        from comfy.ldm.modules.attention import optimized_attention
    else:
        optimized_attention = dispatch.optimized_attention
    return optimized_attention(*args, **kwargs)


def predict(*args: Any, **kwargs: Any) -> list[Tensor]:
    """Return the host's predictions of some conditionings: `(model, conds, x, sigma, model_options)`."""
    if IN_COMFYUI:
        from comfy.samplers import calc_cond_batch
    else:
        from ..ldm_patched.sampling.cond_batch import calc_cond_batch
    return calc_cond_batch(*args, **kwargs)


def show_attention(node: str, step: int, found: Any) -> None:
    """Send the maps of a step to the page, for the node that shows them."""
    if not IN_COMFYUI:
        return
    from server import PromptServer

    grids = [sums.grid for _, kept in found for sums in kept]
    server = PromptServer.instance
    server.send_sync("patchbay.attention", {"node": node, "step": step, **view(found, max(grids))}, server.client_id)


HOST = Host(attend, predict, show_attention)


def sample_once(model: Any, positive: Any, negative: Any, latent: dict[str, Any]) -> None:
    """Run one step of sampling with both prompts and forget the result."""
    if IN_COMFYUI:
        import comfy.sample

        image = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
        noise = comfy.sample.prepare_noise(image, 0, None)
        comfy.sample.sample(
            model, noise, 1, 2.0, "euler", "normal", positive, negative, image, disable_pbar=True, seed=0
        )
    else:
        from ..ldm_patched.sampling.sample import common_ksampler

        common_ksampler(model, 0, 1, 2.0, "euler", "normal", positive, negative, latent)


def check_interrupt() -> None:
    """Raise the host's exception if the user wants to stop."""
    if IN_COMFYUI:
        from comfy.model_management import throw_exception_if_processing_interrupted
    else:
        throw_exception_if_processing_interrupted = model_management.throw_exception_if_processing_interrupted
    throw_exception_if_processing_interrupted()


def progress(value: int, total: int) -> None:
    """Show how far the current node is."""
    if IN_COMFYUI:
        import comfy.utils

        comfy.utils.ProgressBar(total).update_absolute(value, total)
    else:
        session.current().progress(value, total)


def user_file(name: str) -> Path:
    """Return where a file of the user's own belongs; it may not exist yet."""
    if IN_COMFYUI:
        import folder_paths

        return Path(folder_paths.get_user_directory()) / "patchbay" / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attention_patchbay" / name


def output_file(prefix: str, ending: str) -> Path:
    """Return the next free path for a file name prefix in the output folder; its folder is made.

    Raises ValueError when the prefix leads out of the folder.
    """
    if IN_COMFYUI:
        import folder_paths

        folder, name, number, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
        directory = Path(folder)
    else:
        from ..headless.api.folders import numbered

        directory, name, number = numbered(session.current().folders.output, prefix, 0, 0)
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{name}_{number:05}_{ending}"


def write(path: Path, data: bytes) -> None:
    """Write a whole file or none: under another name first."""
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def register_host_backends() -> None:
    """Let ComfyUI run the kernels that it calls itself and found on this machine."""
    if not IN_COMFYUI:
        return
    from comfy.ldm.modules.attention import get_attention_function

    for name in ("sage3", "comfy_kitchen_int8"):
        function = get_attention_function(name, None)
        declared = registry.get(name)
        if function is not None and declared is not None:
            # ComfyUI's sage3 drops the scale of a call
            registry.register(replace(declared, function=function, missing=_present, scale=name != "sage3"))


def _present() -> str | None:
    return None


def load_demo_model() -> tuple[Any, Any, Any]:
    """Return MODEL, CLIP and VAE of the demo model as objects of the host."""
    if not demo.CHECKPOINT.is_file():
        raise FileNotFoundError(f"the demo model is missing: get {demo.CHECKPOINT.name} into {demo.CHECKPOINT.parent}")
    if IN_COMFYUI:
        return _load_demo_in_comfyui()
    from ..ldm_patched.loading.sd import load_checkpoint

    return load_checkpoint(demo.CHECKPOINT)


def _load_demo_in_comfyui() -> tuple[Any, Any, Any]:
    """Build the demo model from ComfyUI's SD1 classes: it is too small for ComfyUI to recognise by itself."""
    import comfy.model_detection
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models
    import comfy.utils

    weights = comfy.utils.load_torch_file(str(demo.CHECKPOINT), safe_load=True)
    config = comfy.supported_models.SD15(comfy.model_detection.detect_unet_config(weights, UNET_PREFIX))
    device, offload = management.get_torch_device(), management.unet_offload_device()
    dtype = management.unet_dtype(supported_dtypes=config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device))
    model = config.get_model(weights, UNET_PREFIX, device=offload)
    _widen_output(model.diffusion_model, weights[f"{UNET_PREFIX}out.2.weight"])
    model.load_model_weights(weights, UNET_PREFIX)
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)
    vae_weights = comfy.utils.state_dict_prefix_replace(weights, {VAE_PREFIX: ""}, filter_keys=True)
    vae_config = {"ddconfig": dict(demo.VAE), "embed_dim": demo.VAE["z_channels"]}
    vae = comfy.sd.VAE(sd=vae_weights, config={"params": vae_config})
    return patcher, _load_clip_in_comfyui(config.process_clip_state_dict(weights)), vae


def _widen_output(unet: Any, weight: Tensor) -> None:
    """Give the last convolution as many inputs as the first level has channels; ComfyUI's has `model_channels`."""
    narrow = unet.out[2]
    layer, place = type(narrow), {"dtype": narrow.weight.dtype, "device": narrow.weight.device}
    unet.out[2] = layer(weight.shape[1], weight.shape[0], weight.shape[2], padding=narrow.padding, **place)


def _load_clip_in_comfyui(weights: dict[str, Tensor]) -> Any:
    """Build the demo model's text encoder from ComfyUI's CLIP classes and this pack's tokenizer."""
    import comfy.sd
    from comfy import sd1_clip
    from comfy.supported_models_base import ClipTarget

    special = {"start": START, "end": END, "pad": END}
    words = partial(
        sd1_clip.SDTokenizer, tokenizer_path="", tokenizer_class=DemoTokenizer, embedding_size=demo.CLIP["hidden_size"]
    )
    encoder = partial(
        sd1_clip.SDClipModel,
        textmodel_json_config=dict(demo.CLIP),
        special_tokens=special,
        model_class=_text_model,
        return_projected_pooled=False,
    )
    target = ClipTarget(
        partial(sd1_clip.SD1Tokenizer, tokenizer=words), partial(sd1_clip.SD1ClipModel, clip_model=encoder)
    )
    return comfy.sd.CLIP(target, tokenizer_data=weights, state_dict=weights)


def _text_model(config: dict[str, Any], dtype: Any, device: Any, operations: Any) -> Any:
    """Build ComfyUI's CLIP text model with a vocabulary of its own size."""
    from comfy.clip_model import CLIPTextModel

    model = CLIPTextModel(config, dtype, device, operations)
    words = operations.Embedding(config["vocab_size"], config["hidden_size"], dtype=dtype, device=device)
    model.set_input_embeddings(words)
    return model
