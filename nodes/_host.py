"""The host of the nodes: ComfyUI where it is there, else the pack's own; both give the same names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ldm_patched import demo
from ..ldm_patched.patches.engine.host import Host
from ..ldm_patched.patches.methods.alignment import Clip
from ..ldm_patched.patches.patcher import Patcher

if TYPE_CHECKING:
    from . import _embedded as found
else:
    try:
        from . import _comfyui as found
    except ModuleNotFoundError as error:
        if error.name != "comfy_api":  # ComfyUI is there, and what is missing is an error to show
            raise
        from . import _embedded as found

ComfyExtension = found.ComfyExtension
io = found.io
HOST = Host(
    found.attend,
    found.predict,
    found.show_attention,
    found.pause,
    found.able,
    found.show_blocks,
    found.weights,
    found.show_mask,
)
clip_with_lora = found.clip_with_lora
check_interrupt = found.check_interrupt
lora_files = found.lora_files
lora_path = found.lora_path
progress = found.progress
read_lora = found.read_lora
refusal = found.refusal
register_host_backends = found.register_host_backends
sample_some = found.sample_some
serve_page = found.serve_page


def user_file(name: str) -> Path:
    """Return where a file of the user's own belongs; it may not exist yet."""
    return found.user_folder() / name


def output_files(prefix: str, ending: str) -> Iterator[Path]:
    """Return the paths for a file name prefix in the output folder, from the next free one on; their folder is made.

    Raises ValueError when the prefix leads out of the folder.
    """
    folder, name, number = found.output_place(prefix)
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"{name}_{i:05}_{ending}" for i in itertools.count(number))


def load_demo_model() -> tuple[Patcher, Clip, Any]:
    """Return MODEL, CLIP and VAE of the demo model as objects of the host."""
    if not demo.CHECKPOINT.is_file():
        raise FileNotFoundError(f"the demo model is missing: get {demo.CHECKPOINT.name} into {demo.CHECKPOINT.parent}")
    return found.load_demo_model()
