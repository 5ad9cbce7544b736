"""ComfyUI as the host of the nodes. The one file that imports it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import ComfyExtension, io
from torch import Tensor

from ..ldm_patched import demo
from ..ldm_patched.demo.tokenizer import END, START, DemoTokenizer
from ..ldm_patched.ldm.modules.backends import registry
from ..ldm_patched.ldm.modules.backends.kernel import Backend, present
from ..ldm_patched.patches.engine.capabilities import Capabilities
from ..ldm_patched.patches.engine.gathering import Shown, ShownMask
from ..ldm_patched.patches.engine.host import Latent, Weight
from ..ldm_patched.patches.engine.prompts import Conditioning
from ..ldm_patched.patches.methods.alignment import Clip
from ..ldm_patched.patches.patcher import CfgArgs, Patcher
from ..ldm_patched.patches.reading.block_values import block_values
from ..ldm_patched.patches.reading.heatmap import view
from ..ldm_patched.patches.record.run import Run
from ._capabilities import functions, probed

__all__ = ["ComfyExtension", "io"]

KEPT = 64  # nodes whose last step the page can ask for
UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
# The widgets of loaders that name a model file, with the folder of its files
FILES = {"ckpt_name": "checkpoints", "unet_name": "diffusion_models", "lora_name": "loras"}


class OneRefusal(str):
    """The answer of a check that is about one input.

    execution.py asks of an answer, for each input `x` that the check names, whether it is an ExecutionBlocker, and if
    it is none puts the text on that input. So this is one for all inputs but its own; where the host asks in another
    way it is a text like any other.
    """

    widget: str
    named: tuple[str, ...]

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        from comfy_execution.graph_utils import ExecutionBlocker

        asked = sys._getframe(1).f_locals.get("x")
        other = isinstance(asked, str) and type(asked) is str and asked in self.named and asked != self.widget
        return ExecutionBlocker if other else str


def refusal(text: str, widget: str, named: Iterable[str]) -> str:
    """Return the answer of a check that is about one widget of those it names."""
    answer = OneRefusal(text)
    answer.widget, answer.named = widget, tuple(named)
    return answer


@dataclass(frozen=True)
class Attend:
    """The host's attention function, the one its own UNet would use; the override of the model holds.

    It is looked up in each call, since packs put others in its place.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        from comfy.ldm.modules import attention

        out: Tensor = attention.optimized_attention(*args, **kwargs)
        return out

    @property
    def __name__(self) -> str:
        from comfy.ldm.modules import attention

        name: str = attention.optimized_attention.__name__
        return name


attend = Attend()


def predict(*args: Any, **kwargs: Any) -> list[Tensor]:
    """Return the host's predictions of some conditionings: `(model, conds, x, sigma, model_options)`."""
    from comfy.samplers import calc_cond_batch

    found: list[Tensor] = calc_cond_batch(*args, **kwargs)
    return found


def able() -> Capabilities:
    """Return what this ComfyUI can do; packs register functions at any time."""
    from comfy.ldm.modules import attention

    return replace(_probed(), functions=tuple(functions(attention)))


@cache
def _probed() -> Capabilities:
    from comfy import model_base, model_prefetch, samplers
    from comfy.ldm.modules import attention

    return probed(attention, model_base, samplers, model_prefetch)


def pause() -> AbstractContextManager[object]:
    """Return a context in which ComfyUI's memory compiler, where there is one, does not record what is allocated."""
    from comfy import model_prefetch

    found: Callable[[], AbstractContextManager[object]] = getattr(model_prefetch, "pause_malloc_graph", nullcontext)
    return found()


# What the last step gave each node that shows it, by workflow and node, for pages that open the workflow again.
_shown: dict[tuple[str, str], dict[str, Any]] = {}


def show_attention(node: str, step: int, found: Shown, args: CfgArgs) -> None:
    """Send the maps of a step and the picture so far to the page, for the node that shows them, and keep them."""
    grids = [sums.grid for heard in found for sums in heard.sums]
    _show(node, {"step": step, **view(found, max(grids), picture_so_far(args))})


def show_blocks(node: str, step: int, run: Run) -> None:
    """Send what the blocks have done in a run to the page, for the node that shows it, and keep it."""
    _show(node, {"step": step, "blocks": block_values(run)})


def show_mask(node: str, so_far: Callable[[], ShownMask | None], args: CfgArgs) -> None:
    """Send the mask of a word and the picture so far to the page that sent the run, for the node, and keep them."""
    from server import PromptServer

    if not _workflow_of(PromptServer.instance.prompt_queue.currently_running):
        return
    found = so_far()
    if found is not None:
        maps = view([found.heard], found.heard.sums[0].grid, picture_so_far(args))
        told = {name: getattr(found, name) for name in ("step", "since", "covers", "steps", "limit")}
        _show(node, {**maps, **told})


def _show(node: str, told: dict[str, Any]) -> None:
    from server import PromptServer

    server = PromptServer.instance
    workflow = _workflow_of(server.prompt_queue.currently_running)
    message = {"node": node, "workflow": workflow, **told}
    _shown.pop((workflow, node), None)
    _shown[workflow, node] = message
    if len(_shown) > KEPT:
        del _shown[next(iter(_shown))]
    server.send_sync("patchbay.attention", message, server.client_id)


def picture_so_far(args: CfgArgs) -> Tensor | None:
    """Return what a prediction shows, (b, h, w, 3) of 0..1, by the colours that ComfyUI knows of the latent's channels.

    A video is its frames. None where ComfyUI knows none, or the latent is none of pictures.
    """
    form, latent = args["model"].latent_format, args["denoised"]
    factors = getattr(form, "latent_rgb_factors", None)
    reshape = getattr(form, "latent_rgb_factors_reshape", None)
    if factors is None or getattr(latent, "is_nested", False):
        return None
    latent = latent if reshape is None else reshape(latent)
    if latent.ndim not in (4, 5) or latent.shape[1] != len(factors):
        return None
    pictures = latent.float() if latent.ndim == 4 else latent.float().movedim(2, 1).flatten(0, 1)
    colours = torch.tensor(factors, device=latent.device)
    bias = torch.tensor(getattr(form, "latent_rgb_factors_bias", None) or (0.0, 0.0, 0.0), device=latent.device)
    return ((pictures.movedim(1, -1) @ colours + bias + 1.0) / 2.0).clamp(0.0, 1.0).cpu()


def _workflow_of(running: dict[int, Any]) -> str:
    """Return the id of the page's workflow of what the queue runs; empty where no page sent it."""
    for _, _, _, extra, *_ in running.values():
        workflow = (extra.get("extra_pnginfo") or {}).get("workflow") or {}
        return str(workflow.get("id", ""))
    return ""


def sample_some(model: Patcher, positive: Conditioning, negative: Conditioning, latent: Latent, steps: int) -> None:
    """Sample with both prompts in some steps and forget the result."""
    import comfy.sample

    image = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(image, 0, None)
    comfy.sample.sample(
        model, noise, steps, 2.0, "euler", "normal", positive, negative, image, disable_pbar=True, seed=0
    )


def check_interrupt() -> None:
    """Raise the host's exception if the user wants to stop."""
    from comfy.model_management import throw_exception_if_processing_interrupted

    throw_exception_if_processing_interrupted()


def progress(value: int, total: int) -> None:
    """Show how far the current node is."""
    import comfy.utils

    comfy.utils.ProgressBar(total).update_absolute(value, total)


def lora_files() -> list[str]:
    """Return the names of the LoRA files; those of the demo are always there."""
    import folder_paths

    names: list[str] = folder_paths.get_filename_list("loras")
    return [*names, *(name for name in demo.LORAS if name not in names)]


def read_lora(name: str) -> dict[str, Tensor]:
    """Return the entries of a LoRA file, with the names that ComfyUI gives those of some trainers."""
    import comfy.lora_convert
    import comfy.utils

    file = comfy.utils.load_torch_file(str(lora_path(name)), safe_load=True)
    found: dict[str, Tensor] = comfy.lora_convert.convert_lora(file)
    return found


def lora_path(name: str) -> Path:
    """Return where a LoRA file lies."""
    import folder_paths

    own = None if folder_paths.get_full_path("loras", name) else demo.LORAS.get(name)
    return own or Path(folder_paths.get_full_path_or_raise("loras", name))


def weights(model: Patcher) -> dict[str, Weight]:
    """Return which weight of a model each name in a LoRA file stands for."""
    import comfy.lora

    found: dict[str, Weight] = comfy.lora.model_lora_keys_unet(model.model, {})
    return found


def clip_with_lora(clip: Any, entries: dict[str, Tensor], strength: float) -> Any:
    """Return a clone of a text encoder with what a LoRA file holds for it."""
    import comfy.sd

    return comfy.sd.load_lora_for_models(None, clip, entries, 0.0, strength)[1]


def user_folder() -> Path:
    """Return the folder for files of the user's own; it may not exist yet."""
    import folder_paths

    return Path(folder_paths.get_user_directory()) / "patchbay"


def output_place(prefix: str) -> tuple[Path, str, int]:
    """Return folder, name and the next free number for a file name prefix in the output folder.

    Raises ValueError when the prefix leads out of the folder.
    """
    import folder_paths

    output = folder_paths.get_output_directory()
    if not Path(output, prefix).resolve().is_relative_to(Path(output).resolve()):
        raise ValueError(f"{prefix!r} leads out of the output folder; give a name inside of it")
    folder, name, number, _, _ = folder_paths.get_save_image_path(prefix, output)
    return Path(folder), name, number


def register_host_backends() -> None:
    """Let the rules run the functions that ComfyUI and its packs registered on this machine.

    Of a name that both have, the library's own runs, which declares its limits, but for the `hosted` ones.
    """
    from comfy.ldm.modules import attention

    for name, function in functions(attention).items():
        declared = registry.get(name)
        if declared is None:
            registry.register(Backend(name, function, limit=_unproven, hosted=True))
        elif declared.hosted:
            # ComfyUI's sage3 drops the scale of a call
            registry.register(replace(declared, function=function, missing=present, scale=name != "sage3"))


def _unproven(call: registry.AttentionCall) -> str | None:
    """Refuse calls that ask for an exact kernel: a registered function does not say whether it is one."""
    return None if call.low_precision else "does not say whether it is exact, and the call asks for an exact kernel"


def serve_page() -> None:
    """Let the page ask for what it shows without a run.

    `/patchbay/blocks?input=unet_name&file=NAME`: the blocks of a loader's model file;
    `/patchbay/lora?file=NAME`: the relative norm of what each block of a LoRA file adds to the weights;
    `/patchbay/attention?workflow=ID`: the last step of a workflow's captures, masks of words and maps of blocks;
    `?node=ID`: of a node in any workflow.
    """
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None:  # scripts load nodes without one
        return

    async def blocks(request: web.Request) -> web.Response:
        path = _file_of(request.query.get("input", ""), request.query.get("file", ""))
        if path is None:
            return web.json_response({"error": "no loader of this ComfyUI has this file"}, status=404)
        found = await asyncio.to_thread(_blocks, path, path.stat().st_mtime_ns)
        return web.json_response(found, status=200 if "blocks" in found else 422)

    async def lora(request: web.Request) -> web.Response:
        path = _file_of("lora_name", request.query.get("file", ""))
        if path is None:
            return web.json_response({"error": "models/loras has no such file"}, status=404)
        found = await asyncio.to_thread(_lora_norms, path, path.stat().st_mtime_ns)
        return web.json_response(found, status=200 if "norms" in found else 422)

    async def attention(request: web.Request) -> web.Response:
        workflow, node = request.query.get("workflow"), request.query.get("node")
        kept = [message for at, message in [*_shown.items()] if workflow == at[0] or node == at[1]]
        return web.json_response(kept if workflow else kept[-1:])

    server.routes.get("/patchbay/blocks")(blocks)
    server.routes.get("/patchbay/lora")(lora)
    server.routes.get("/patchbay/attention")(attention)


def _file_of(widget: str, name: str) -> Path | None:
    """Return the file that a loader's widget names, only of those that the loader offers; `demo` is the demo model."""
    import folder_paths

    if widget == "demo":
        return demo.CHECKPOINT if demo.CHECKPOINT.is_file() else None
    if widget not in FILES:
        return None
    if name not in folder_paths.get_filename_list(FILES[widget]):
        return demo.LORAS.get(name) if widget == "lora_name" else None
    path = folder_paths.get_full_path(FILES[widget], name)
    return None if path is None else Path(path)


@lru_cache(64)
def _blocks(path: Path, changed: int) -> dict[str, Any]:
    """Return what the header of a file tells, or under `error` why it tells nothing."""
    from ..ldm_patched.files.checkpoint import CheckpointError
    from ..ldm_patched.patches.reading.file_header import file_blocks

    try:
        return file_blocks(path) or {"error": "the file is of no model whose blocks are known by its header"}
    except CheckpointError as error:
        return {"error": str(error).removeprefix(f"{path}: ")}


@lru_cache(64)
def _lora_norms(path: Path, changed: int) -> dict[str, Any]:
    """Return the norms of a LoRA file by block, relative to the largest, or under `error` why there are none."""
    from ..ldm_patched.files.checkpoint import Checkpoint
    from ..ldm_patched.patches.reading.lora_blocks import block_rows
    from ..ldm_patched.patches.reading.lora_layers import lora_layers

    try:
        layers, _ = lora_layers(Checkpoint(path).loaded())
    except ValueError as error:
        return {"error": str(error).removeprefix(f"{path}: ")}
    return {"norms": {row["block"]: row["relative"] for row in block_rows(layers) if row["relative"] is not None}}


def load_demo_model() -> tuple[Patcher, Clip, Any]:
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
    model.latent_format.latent_rgb_factors = [list(row) for row in demo.LATENT_RGB]  # previews would be those of SD1.5
    model.latent_format.latent_rgb_factors_bias = list(demo.LATENT_RGB_BIAS)
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)
    vae_weights = comfy.utils.state_dict_prefix_replace(weights, {VAE_PREFIX: ""}, filter_keys=True)
    vae_config = {"ddconfig": dict(demo.VAE), "embed_dim": demo.VAE["z_channels"]}
    vae = comfy.sd.VAE(sd=vae_weights, config={"params": vae_config})
    return patcher, _load_clip(config.process_clip_state_dict(weights)), vae


def _widen_output(unet: Any, weight: Tensor) -> None:
    """Give the last convolution as many inputs as the first level has channels; ComfyUI's has `model_channels`."""
    narrow = unet.out[2]
    layer, place = type(narrow), {"dtype": narrow.weight.dtype, "device": narrow.weight.device}
    unet.out[2] = layer(weight.shape[1], weight.shape[0], weight.shape[2], padding=narrow.padding, **place)


def _load_clip(weights: dict[str, Tensor]) -> Any:
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
