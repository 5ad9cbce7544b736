"""ComfyUI's core nodes that save latents and load them again, for the embedded host."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import save

from ...ldm_patched.files.checkpoint import Checkpoint, CheckpointError
from ..api import comfy_io as io
from ..api.folders import numbered
from ..api.session import current
from .declared import Nodes
from .image import metadata, write_numbered
from .latent_changes import Latent

NODES = Nodes("model/latent")
TENSOR, VERSION = "latent_tensor", "latent_format_version_0"
OLD_SCALE = 0.18215  # that latents had which were saved before there was a version


def _save_latent(hidden: Any, samples: Latent, filename_prefix: str) -> io.NodeOutput:
    folder = current().folders.output
    directory, name, number = numbered(folder, filename_prefix, 0, 0)
    directory.mkdir(parents=True, exist_ok=True)
    data = save({TENSOR: samples["samples"].contiguous(), VERSION: torch.tensor([])}, metadata(hidden))
    path, _ = write_numbered(directory, name, number, "_.latent", lambda file: file.write(data))
    subfolder = directory.relative_to(folder.resolve()).as_posix()
    entry = {"filename": path.name, "subfolder": "" if subfolder == "." else subfolder, "type": "output"}
    return io.NodeOutput(samples, ui={"latents": [entry]})


class SaveLatent(io.ComfyNode):
    """Save latents with their workflow inside."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SaveLatent",
            display_name="Save Latent",
            category=NODES.category,
            description="Save latents to the output folder, with the workflow inside.",
            inputs=[
                io.Latent.Input("samples", tooltip="The latents."),
                io.String.Input("filename_prefix", default="latents/ComfyUI", tooltip="The start of the file name."),
            ],
            outputs=[io.Latent.Output(display_name="samples")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, samples: Latent, filename_prefix: str) -> io.NodeOutput:
        """Write the file and list it."""
        return _save_latent(cls.hidden, samples, filename_prefix)


NODES.append(SaveLatent)


def _found(latent: str | None = None) -> bool | str:
    try:
        if latent is not None:
            current().folders.annotated_file(latent)
    except (OSError, ValueError) as error:
        return str(error)
    return True


@NODES.add(
    "LoadLatent",
    "Load Latent",
    lambda: [
        io.Combo.Input(
            "latent", options=current().folders.latent_names(), tooltip="A .latent file in the input folder."
        )
    ],
    io.Latent,
    methods={"validate_inputs": _found},
    reads={"latent": "input"},
)
def load_latent(latent: str) -> Latent:
    """Load latents from a file of the input folder."""
    file = Checkpoint(current().folders.annotated_file(latent))
    if TENSOR not in file:
        raise CheckpointError(f"{file.path}: no latent found: expected {TENSOR}, found {', '.join(sorted(file)[:3])}")
    scale = 1.0 if VERSION in file else 1.0 / OLD_SCALE
    return {"samples": file[TENSOR].float() * scale}
