"""The pack's own host of the nodes, without ComfyUI."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..headless.api import comfy_io as io
from ..headless.api import session
from ..headless.api.comfy_io import ComfyExtension, Refusal
from ..headless.api.folders import numbered
from ..ldm_patched import demo
from ..ldm_patched.ldm.modules.backends import dispatch, registry
from ..ldm_patched.modules import model_management
from ..ldm_patched.modules.model_patcher import ModelPatcher
from ..ldm_patched.patches.engine.capabilities import Capabilities
from ..ldm_patched.patches.engine.gathering import Shown, ShownMask
from ..ldm_patched.patches.engine.host import Latent, Weight
from ..ldm_patched.patches.engine.prompts import Conditioning
from ..ldm_patched.patches.methods.alignment import Clip
from ..ldm_patched.patches.patcher import CfgArgs, Patcher
from ..ldm_patched.patches.record.run import Run

__all__ = ["ComfyExtension", "io"]


def refusal(text: str, widget: str, named: Iterable[str]) -> str:
    """Return the answer of a check that is about one widget of those it names."""
    return Refusal(text, widget)


def attend(*args: Any, **kwargs: Any) -> Tensor:
    """Run the host's attention function, the one its own UNet would use; the override of the model holds."""
    return dispatch.optimized_attention(*args, **kwargs)


def predict(*args: Any, **kwargs: Any) -> list[Tensor]:
    """Return the host's predictions of some conditionings: `(model, conds, x, sigma, model_options)`."""
    from ..ldm_patched.sampling.cond_batch import calc_cond_batch

    return calc_cond_batch(*args, **kwargs)


pause = nullcontext  # nothing compiles the memory of this host's models


def able() -> Capabilities:
    """Return what this host can do."""
    return Capabilities(functions=registry.usable())


def show_attention(node: str, step: int, found: Shown, args: CfgArgs) -> None:
    """Show nothing: there is no page."""


def show_mask(node: str, so_far: Callable[[], ShownMask | None], args: CfgArgs) -> None:
    """Show nothing: there is no page."""


def show_blocks(node: str, step: int, run: Run) -> None:
    """Show nothing: there is no page."""


def sample_some(model: Patcher, positive: Conditioning, negative: Conditioning, latent: Latent, steps: int) -> None:
    """Sample with both prompts in some steps and forget the result."""
    from ..ldm_patched.sampling.sample import common_ksampler

    common_ksampler(cast(ModelPatcher, model), 0, steps, 2.0, "euler", "normal", positive, negative, latent)


def check_interrupt() -> None:
    """Raise the host's exception if the user wants to stop."""
    model_management.throw_exception_if_processing_interrupted()


def progress(value: int, total: int) -> None:
    """Show how far the current node is."""
    session.current().progress(value, total)


def lora_files() -> list[str]:
    """Return the names of the LoRA files."""
    return session.current().folders.model_names("loras")


def read_lora(name: str) -> dict[str, Tensor]:
    """Return the entries of a LoRA file."""
    from ..ldm_patched.files.checkpoint import Checkpoint

    return Checkpoint(lora_path(name)).loaded()


def lora_path(name: str) -> Path:
    """Return where a LoRA file lies."""
    return session.current().folders.model("loras", name)


def weights(model: Patcher) -> dict[str, Weight]:
    """Return which weight of a model each name in a LoRA file stands for."""
    from ..ldm_patched.files.lora import unet_names

    return {**unet_names(model.model.state_dict())}


def clip_with_lora(clip: Any, entries: dict[str, Tensor], strength: float) -> Any:
    """Return a clone of a text encoder with what a LoRA file holds for it."""
    from ..ldm_patched.files.lora import clip_names, load_lora
    from ..ldm_patched.loading.absent import Absent

    if isinstance(clip, Absent):
        return clip
    clone = clip.clone()
    clone.add_patches(load_lora(entries, clip_names(clip.cond_stage_model.state_dict()))[0], strength)
    return clone


def user_folder() -> Path:
    """Return the folder for files of the user's own; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attention_patchbay"


def output_place(prefix: str) -> tuple[Path, str, int]:
    """Return folder, name and the next free number for a file name prefix in the output folder.

    Raises ValueError when the prefix leads out of the folder.
    """
    return numbered(session.current().folders.output, prefix, 0, 0)


def register_host_backends() -> None:
    """Do nothing: the library registers its own."""


def serve_page() -> None:
    """Do nothing: there is no page."""


def load_demo_model() -> tuple[Patcher, Clip, Any]:
    """Return MODEL, CLIP and VAE of the demo model as objects of the host."""
    from ..ldm_patched.loading.sd import load_checkpoint

    return load_checkpoint(demo.CHECKPOINT)
