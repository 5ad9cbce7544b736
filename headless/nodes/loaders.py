"""ComfyUI's core nodes that load models and encode text, for the embedded host."""

from __future__ import annotations

from typing import Any

from ...ldm_patched.loading import sd
from ...ldm_patched.sampling.model_sampling import SAMPLING_TYPES, discrete_sampling
from ..api import comfy_io as io
from ..api.session import current


class CheckpointLoaderSimple(io.ComfyNode):
    """Load UNet, text encoder and VAE from one file."""

    reads = {"ckpt_name": "checkpoints"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="CheckpointLoaderSimple",
            display_name="Load Checkpoint",
            category="loaders",
            description="Load a model, its text encoder and its VAE from a safetensors file in models/checkpoints.",
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=current().folders.model_names("checkpoints"),
                    tooltip="A file in models/checkpoints.",
                )
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        """Load the file."""
        folders = current().folders
        path = folders.model("checkpoints", ckpt_name)
        return io.NodeOutput(*sd.load_checkpoint(path, current().unet_dtype, folders.embedding))


class DiffusersLoader(io.ComfyNode):
    """Load UNet, text encoder and VAE from a folder in diffusers' layout."""

    reads = {"model_path": "diffusers"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="DiffusersLoader",
            display_name="DiffusersLoader",
            category="model/loaders",
            description="Load a model, its text encoder and its VAE from a folder in models/diffusers.",
            inputs=[
                io.Combo.Input(
                    "model_path",
                    options=current().folders.diffusers_names(),
                    tooltip="A folder with a model_index.json in models/diffusers.",
                )
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
            is_deprecated=True,
        )

    @classmethod
    def execute(cls, model_path: str) -> io.NodeOutput:
        """Load the folder."""
        folders = current().folders
        return io.NodeOutput(*sd.load_folder(folders.diffusers(model_path), current().unet_dtype, folders.embedding))


class UNETLoader(io.ComfyNode):
    """Load a UNet alone."""

    reads = {"unet_name": "diffusion_models"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="UNETLoader",
            display_name="Load Diffusion Model",
            category="model/loaders",
            description="Load a UNet from a safetensors file in models/diffusion_models.",
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=current().folders.model_names("diffusion_models"),
                    tooltip="A file in models/diffusion_models or models/unet.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"],
                    advanced=True,
                    tooltip="Only default is available without ComfyUI.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, unet_name: str, weight_dtype: str) -> io.NodeOutput:
        """Load the file."""
        if weight_dtype != "default":
            raise ValueError(f"weight_dtype {weight_dtype!r} needs ComfyUI; choose default")
        path = current().folders.model("diffusion_models", unet_name)
        return io.NodeOutput(sd.load_unet(path, current().unet_dtype))


class CLIPTextEncode(io.ComfyNode):
    """Encode a prompt."""

    stored = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="CLIPTextEncode",
            display_name="CLIP Text Encode (Prompt)",
            category="conditioning",
            description="Encode a prompt; (word:1.2) gives a word more or less weight.",
            inputs=[
                io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="The text to be encoded."),
                io.Clip.Input("clip", tooltip="The text encoder."),
            ],
            outputs=[io.Conditioning.Output(tooltip="What the sampler is steered by.")],
        )

    @classmethod
    def execute(cls, text: str, clip: Any) -> io.NodeOutput:
        """Encode the text."""
        return io.NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize(text)))


class ModelSamplingDiscrete(io.ComfyNode):
    """Say what a model predicts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="ModelSamplingDiscrete",
            display_name="ModelSamplingDiscrete",
            category="model/sampling",
            description="Say what the model predicts and whether its noise schedule ends in pure noise.",
            inputs=[
                io.Model.Input("model", tooltip="The model; the input itself stays as it is."),
                io.Combo.Input("sampling", options=list(SAMPLING_TYPES), tooltip="What the model predicts."),
                io.Boolean.Input("zsnr", default=False, advanced=True, tooltip="Zero terminal SNR: end in pure noise."),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, sampling: str, zsnr: bool) -> io.NodeOutput:
        """Return a clone with the sampling set."""
        clone = model.clone()
        clone.add_object_patch("model_sampling", discrete_sampling(sampling, zsnr))
        return io.NodeOutput(clone)


NODES = [CheckpointLoaderSimple, DiffusersLoader, UNETLoader, CLIPTextEncode, ModelSamplingDiscrete]
