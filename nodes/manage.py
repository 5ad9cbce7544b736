"""Management of the patches of a model, as nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ldm_patched.patches.addressing.address import parse
from ..ldm_patched.patches.addressing.refused import Refused
from ..ldm_patched.patches.engine.declaration import Placing
from ..ldm_patched.patches.engine.inventory import ALL, LISTS, OVERRIDE, SINGLES, WRAPPERS
from ..ldm_patched.patches.patcher import Patcher
from ..ldm_patched.patches.reading.manage import Selection, copy_patches, remove_patches
from ..ldm_patched.patches.reading.presets import Preset, from_json, preset_of, put_preset, to_json
from ._host import HOST, io, register_host_backends
from .derived import CATEGORY, checking, shown

SLOTS = (
    ALL,
    "attn1",
    "attn2",
    "attn1_patch",
    "attn2_patch",
    "attn1_output_patch",
    "attn2_output_patch",
    "input_block_patch",
    "input_block_patch_after_skip",
    "middle_block_after_patch",
    "output_block_patch",
    OVERRIDE,
    *LISTS,
    *SINGLES,
    WRAPPERS,
)


class RemovePatches(io.ComfyNode):
    """Take patches off a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayRemovePatches",
            display_name="Remove Patches",
            category=CATEGORY,
            description="Take patches off a model, by slot, by owner and by block: this pack's and those of other "
            "nodes. What is left keeps its order; the input model stays as it is.",
            search_aliases=["reset model", "unpatch", "clear patches", "disable patch", "remove attention patch"],
            inputs=[
                io.Model.Input("model", tooltip="The model with the patches; the input itself stays as it is."),
                io.Combo.Input(
                    "slot",
                    options=list(SLOTS),
                    default=ALL,
                    tooltip="Where the patches are, in ComfyUI's names: attn1 and attn2 are the replaced attentions, "
                    "override the choice of the attention function, wrappers those around the model.",
                ),
                io.String.Input(
                    "owner",
                    default=ALL,
                    tooltip="Whose patches: all, ours, foreign, or a part of a module, class or patch name such as "
                    "nodes_freelunch, Guidance or zero attn1.",
                ),
                shown(Placing().widgets()[0]),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="A clone of the model without these patches."),
                io.String.Output(display_name="removed", tooltip="A line for each patch that was taken off."),
            ],
        )

    validate_inputs = checking(["owner", "blocks"], lambda widgets: refused(make, widgets))

    @classmethod
    def execute(cls, model: Patcher, slot: str, owner: str, blocks: str) -> io.NodeOutput:
        """Return the clone and what was taken off."""
        clone, lines = remove_patches(model, make(slot, owner, blocks), HOST)
        return io.NodeOutput(clone, "\n".join(lines))


class CopyPatches(io.ComfyNode):
    """Copy the patches of one model to another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayCopyPatches",
            display_name="Copy Patches",
            category=CATEGORY,
            description="Put the patches of one model on another, after its own and in their order. Block addresses "
            "are looked up again on the other model.",
            search_aliases=["transfer patches", "clone patches", "merge patches", "share patches"],
            inputs=[
                io.Model.Input("model", tooltip="The model to patch; the input itself stays as it is."),
                io.Model.Input("source", tooltip="The model whose patches are copied; it stays as it is."),
                io.Boolean.Input(
                    "foreign",
                    default=False,
                    tooltip="Also copy patches of other nodes: functions in lists, and replaced attentions.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with these patches on top.")],
        )

    @classmethod
    def execute(cls, model: Patcher, source: Patcher, foreign: bool) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(copy_patches(source, model, foreign, HOST))


class PatchPreset(io.ComfyNode):
    """Put patches on a model from text, and write its patches as text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayPatchPreset",
            display_name="Patch Preset",
            category=CATEGORY,
            description="Put saved patches on a model, and give all of its patches as text: show it, copy it, and "
            "paste it into the preset of another workflow.",
            search_aliases=["save patches", "load patches", "export patches", "patch json"],
            inputs=[
                io.Model.Input("model", tooltip="The model to patch; the input itself stays as it is."),
                io.String.Input(
                    "preset",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="Patches as JSON text, as this node gives them; they come after those "
                    "that the model has. Empty: none.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="A clone of the model with the patches of the preset."),
                io.String.Output(display_name="preset", tooltip="All patches of this clone as JSON."),
            ],
        )

    validate_inputs = checking(["preset"], lambda widgets: refused(lambda preset="": read(preset), widgets))

    @classmethod
    def execute(cls, model: Patcher, preset: str) -> io.NodeOutput:
        """Return the clone and its patches."""
        clone = put_preset(model, read(preset), HOST)
        text = to_json(preset_of(clone))
        return io.NodeOutput(clone, text, ui={"text": [text]})


def read(text: str) -> Preset:
    """Read a preset, of which rules may name what other packs have registered since this one was loaded."""
    register_host_backends()
    return from_json(text)


def make(slot: str = ALL, owner: str = ALL, blocks: str = "all") -> Selection:
    """Return the selection of the widgets.

    Raises ValueError naming the value and the fix.
    """
    if not owner.strip():
        text = "owner is empty; write all, ours, foreign, or a part of a module, class or patch name"
        raise Refused(text, "owner")
    return Selection(slot, owner, parse(blocks))


def refused(make: Callable[..., object], widgets: dict[str, Any]) -> Refused | None:
    """Return why `make` refuses the widgets, None if it does not; one with a link in it has the value None."""
    try:
        make(**{name: value for name, value in widgets.items() if value is not None})
    except Refused as error:
        return error
    except ValueError as error:
        return Refused(str(error))
    return None
