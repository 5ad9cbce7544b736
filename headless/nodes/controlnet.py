"""ComfyUI's core nodes that load a ControlNet and put it on a conditioning, for the embedded host."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...ldm_patched.controlnet.control import ControlNet
from ...ldm_patched.controlnet.union import CONTROL_TYPES
from ...ldm_patched.loading.controlnet_loader import load_controlnet
from ...ldm_patched.modules.model_patcher import ModelPatcher
from ..api import comfy_io as io
from ..api.session import current
from .conditioning import Conditioning

CATEGORY = "model/conditioning/controlnet"


def _strength() -> io.Input:
    tooltip = "How strongly it steers; 0 leaves it out."
    return io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.01, tooltip=tooltip)


def _file() -> io.Input:
    names = current().folders.model_names("controlnet")
    return io.Combo.Input("control_net_name", options=names, tooltip="A file in models/controlnet.")


class ControlNetLoader(io.ComfyNode):
    """Load a ControlNet."""

    reads = {"control_net_name": "controlnet"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="ControlNetLoader",
            display_name="Load ControlNet Model",
            category="model/loaders",
            description="Load a ControlNet, T2I adapter or control-LoRA from a safetensors file in models/controlnet.",
            inputs=[_file()],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, control_net_name: str) -> io.NodeOutput:
        """Load the file."""
        path = current().folders.model("controlnet", control_net_name)
        return io.NodeOutput(load_controlnet(path, current().unet_dtype))


class DiffControlNetLoader(io.ComfyNode):
    """Load a ControlNet that may be the difference to a model."""

    reads = {"control_net_name": "controlnet"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="DiffControlNetLoader",
            display_name="Load ControlNet Model (diff)",
            category="model/loaders",
            description="Load a ControlNet from models/controlnet; one that is a difference is added to the model.",
            inputs=[
                io.Model.Input("model", tooltip="The model that a difference is added to; it stays as it is."),
                _file(),
            ],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, control_net_name: str) -> io.NodeOutput:
        """Load the file."""
        path = current().folders.model("controlnet", control_net_name)
        return io.NodeOutput(load_controlnet(path, current().unet_dtype, model))


class ControlNetApply(io.ComfyNode):
    """Let a ControlNet steer with one conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="ControlNetApply",
            display_name="Apply ControlNet (OLD)",
            category=CATEGORY,
            description="Let a ControlNet steer with a conditioning, on both sides of the guidance.",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The conditioning; the input itself stays as it is."),
                io.ControlNet.Input("control_net", tooltip="The ControlNet."),
                io.Image.Input("image", tooltip="The hint, such as edges or depth."),
                _strength(),
            ],
            outputs=[io.Conditioning.Output()],
            is_deprecated=True,
        )

    @classmethod
    def execute(
        cls, conditioning: Conditioning, control_net: ControlNet, image: Tensor, strength: float
    ) -> io.NodeOutput:
        """Return the steered conditioning."""
        if strength == 0:
            return io.NodeOutput(conditioning)
        uses = Uses(control_net, image.movedim(-1, 1), strength, (0.0, 1.0))
        return io.NodeOutput(uses.on(conditioning, to_uncond=True))


class ControlNetApplyAdvanced(io.ComfyNode):
    """Let a ControlNet steer for a part of the run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        share = {"min": 0.0, "max": 1.0, "step": 0.001}
        return io.Schema(
            node_id="ControlNetApplyAdvanced",
            display_name="Apply ControlNet",
            category=CATEGORY,
            description="Let a ControlNet steer with both conditionings, for a part of the sampling run.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="What should be in the picture."),
                io.Conditioning.Input("negative", tooltip="What should not be in the picture."),
                io.ControlNet.Input("control_net", tooltip="The ControlNet."),
                io.Image.Input("image", tooltip="The hint, such as edges or depth."),
                _strength(),
                io.Float.Input("start_percent", default=0.0, **share, tooltip="Where it begins, 0 to 1."),
                io.Float.Input("end_percent", default=1.0, **share, tooltip="Where it ends, 0 to 1."),
                io.Vae.Input("vae", optional=True, tooltip="Read by ControlNets that take their hint as latents."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Conditioning,
        negative: Conditioning,
        control_net: ControlNet,
        image: Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
        vae: Any = None,
    ) -> io.NodeOutput:
        """Return both steered conditionings."""
        if strength == 0:
            return io.NodeOutput(positive, negative)
        uses = Uses(control_net, image.movedim(-1, 1), strength, (start_percent, end_percent), vae)
        return io.NodeOutput(uses.on(positive), uses.on(negative))


class Uses:
    """The uses of a ControlNet with one hint: one for each ControlNet that is on a conditioning already, or for none.

    The same use in cond and uncond lets them share a model call.
    """

    def __init__(
        self, control_net: ControlNet, hint: Tensor, strength: float, window: tuple[float, float], vae: Any = None
    ) -> None:
        self.control_net = control_net
        self.settings = (hint, strength, window, vae)
        self.made: dict[ControlNet | None, ControlNet] = {}

    def on(self, conditioning: Conditioning, to_uncond: bool = False) -> Conditioning:
        """Return a conditioning with the ControlNet added, and with `to_uncond` meant for the uncond too."""
        added = []
        for context, entries in conditioning:
            control = self._after(entries.get("control"))
            added.append([context, {**entries, "control": control, "control_apply_to_uncond": to_uncond}])
        return added

    def _after(self, previous: ControlNet | None) -> ControlNet:
        if previous not in self.made:
            use = self.control_net.copy().set_cond_hint(*self.settings)
            self.made[previous] = use.set_previous_controlnet(previous)
        return self.made[previous]


class SetUnionControlNetType(io.ComfyNode):
    """Tell a union ControlNet the kind of its hint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="SetUnionControlNetType",
            display_name="Set Union ControlNet Type",
            category=CATEGORY,
            description="Tell a union ControlNet which kind of hint it sees.",
            inputs=[
                io.ControlNet.Input("control_net", tooltip="The ControlNet; the input itself stays as it is."),
                io.Combo.Input("type", options=["auto", *CONTROL_TYPES], tooltip="The kind of hint."),
            ],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, control_net: ControlNet, type: str) -> io.NodeOutput:
        """Return a copy that knows the kind."""
        copy = control_net.copy()
        copy.set_extra_arg("control_type", [CONTROL_TYPES.index(type)] if type in CONTROL_TYPES else [])
        return io.NodeOutput(copy)


NODES = [ControlNetLoader, DiffControlNetLoader, ControlNetApply, ControlNetApplyAdvanced, SetUnionControlNetType]
