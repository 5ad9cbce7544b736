"""ComfyUI's core nodes that encode prompts for SDXL, for the embedded host."""

from __future__ import annotations

from typing import Any

from ..api import comfy_io as io

CATEGORY = "model/conditioning/stable diffusion"
SIZE = {"min": 0, "max": 16384}


class CLIPTextEncodeSDXL(io.ComfyNode):
    """Encode a prompt for SDXL."""

    stored = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="CLIPTextEncodeSDXL",
            display_name="CLIP Text Encode (SDXL)",
            category=CATEGORY,
            description="Encode a prompt for each of SDXL's two text encoders, and the sizes the model is told.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoders."),
                io.Int.Input("width", default=1024, **SIZE, tooltip="Width of the original picture."),
                io.Int.Input("height", default=1024, **SIZE, tooltip="Height of the original picture."),
                io.Int.Input("crop_w", default=0, **SIZE, advanced=True, tooltip="How much was cut off at the left."),
                io.Int.Input("crop_h", default=0, **SIZE, advanced=True, tooltip="How much was cut off at the top."),
                io.Int.Input("target_width", default=1024, **SIZE, tooltip="Width the picture shall have."),
                io.Int.Input("target_height", default=1024, **SIZE, tooltip="Height the picture shall have."),
                io.String.Input("text_g", multiline=True, dynamic_prompts=True, tooltip="The text for CLIP-bigG."),
                io.String.Input("text_l", multiline=True, dynamic_prompts=True, tooltip="The text for CLIP-L."),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, clip: Any, text_g: str, text_l: str, **sizes: int) -> io.NodeOutput:
        """Encode both texts; the shorter one is filled up with empty chunks."""
        tokens = {**clip.tokenize(text_g), "l": clip.tokenize(text_l).get("l")}
        if tokens["l"] is None or "g" not in tokens:
            raise ValueError(f"this text encoder is not SDXL's: it has {', '.join(clip.tokenizers)}, not l and g")
        empty = clip.tokenize("")
        longest = max(map(len, tokens.values()))
        filled = {name: chunks + empty[name] * (longest - len(chunks)) for name, chunks in tokens.items()}
        return io.NodeOutput(clip.encode_from_tokens_scheduled(filled, add_dict=sizes))


class CLIPTextEncodeSDXLRefiner(io.ComfyNode):
    """Encode a prompt for the SDXL refiner."""

    stored = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="CLIPTextEncodeSDXLRefiner",
            display_name="CLIP Text Encode (SDXL Refiner)",
            category=CATEGORY,
            description="Encode a prompt for the SDXL refiner, with the aesthetic score and size the model is told.",
            inputs=[
                io.Float.Input(
                    "ascore", default=6.0, min=0.0, max=1000.0, step=0.01, tooltip="How pleasing the picture shall be."
                ),
                io.Int.Input("width", default=1024, **SIZE, tooltip="Width of the picture."),
                io.Int.Input("height", default=1024, **SIZE, tooltip="Height of the picture."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="The text."),
                io.Clip.Input("clip", tooltip="The refiner's text encoder."),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, clip: Any, ascore: float, width: int, height: int, text: str) -> io.NodeOutput:
        """Encode the text."""
        values = {"aesthetic_score": ascore, "width": width, "height": height}
        return io.NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize(text), add_dict=values))


NODES = [CLIPTextEncodeSDXL, CLIPTextEncodeSDXLRefiner]
