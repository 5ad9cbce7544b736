"""LoRA files without patched weights, as nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePath
from typing import Any

from ..ldm_patched.files.lora import fault_of
from ..ldm_patched.patches.addressing.where import Where
from ..ldm_patched.patches.engine.attach import attach
from ..ldm_patched.patches.engine.lora import LoraFile, lora_on
from ..ldm_patched.patches.methods.region_lora import SIDES, RegionLora
from ..ldm_patched.patches.methods.regional_prompt import Region
from ..ldm_patched.patches.patcher import Patcher
from ..ldm_patched.patches.routing.lora_rules import LoraRules
from ..ldm_patched.patches.routing.rules import RuleError
from ..ldm_patched.patches.routing.strengths import parse_strengths
from ._host import HOST, clip_with_lora, io, lora_files, read_lora
from .derived import CATEGORY, model, patched
from .region import Regions

NONE = "none"


def lora_name() -> Any:
    """Return the input for a LoRA file; a node that was just made has none."""
    names = [NONE, *lora_files()]
    return io.Combo.Input("lora_name", options=names, default=NONE, tooltip="A file in models/loras; none: no LoRA.")


def lora_file(name: str) -> LoraFile:
    """Read a LoRA file. Raises ValueError where it is damaged."""
    entries = read_lora(name)
    if fault := fault_of(entries):
        raise ValueError(f"{name}: {fault}")
    return LoraFile.of(PurePath(name).stem, entries)


class LoadLoraByRules(io.ComfyNode):
    """Load a LoRA with a strength for each block and part of the run."""

    reads = {"lora_name": "loras"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayLoraRules",
            display_name="Load LoRA by Rules",
            category=CATEGORY,
            description="Load a LoRA with a strength for each block and part of the run, by an ordered list of rules. "
            "The weights of the model stay as they are, so the strength may change in each step.",
            search_aliases=["lora block weight", "lora schedule", "load lora", "lbw", "lora strength by step"],
            inputs=[
                model(),
                lora_name(),
                io.String.Input(
                    "rules",
                    default="* -> 1",
                    multiline=True,
                    tooltip="One rule a line, or parted by ; : blocks, perhaps self or cross, perhaps a part of the "
                    "run such as 0-50%, then -> and the strength. The first that matches holds. # starts a comment.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="What all strengths of the rules are multiplied by.",
                ),
                io.Float.Input(
                    "strength_clip",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="The one strength of what the file holds for the text encoder.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The text encoder; the input itself stays as it is."),
            ],
            outputs=[
                patched("with the LoRA beside its weights"),
                io.Clip.Output(display_name="CLIP", tooltip="A clone of the text encoder with the LoRA in it."),
            ],
        )

    @classmethod
    def validate_inputs(cls, rules: str | None = None) -> bool | str:
        """Check the text before anything runs; a missing input is the host's to report."""
        try:
            parse_strengths(rules or "")
        except RuleError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, model: Patcher, lora_name: str, rules: str, strength: float, strength_clip: float, clip: Any = None
    ) -> io.NodeOutput:
        """Return the clones."""
        if lora_name == NONE:
            return io.NodeOutput(model.clone(), clip)
        file = lora_file(lora_name)
        lora = lora_on(model, file, HOST.weights(model))
        clone = attach(model, LoraRules(lora, parse_strengths(rules), strength, Where()), HOST)
        return io.NodeOutput(clone, clip and clip_with_lora(clip, lora.rest, strength_clip))


class LoraOfRegion(io.ComfyNode):
    """Give a region of Regional Prompt a LoRA."""

    reads = {"lora_name": "loras"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayRegionLora",
            display_name="LoRA for a Region",
            category=CATEGORY,
            description="Give a region of Regional Prompt a LoRA that acts there alone, in the one model call. "
            "Chain as many as you like.",
            search_aliases=[
                "regional lora",
                "lora mask",
                "masked lora",
                "two characters two loras",
                "attention couple",
            ],
            inputs=[
                Regions.Input("regions", tooltip="A chain of Prompt Region nodes, or what was drawn."),
                lora_name(),
                io.Float.Input(
                    "strength_model",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How strongly it acts in the region; may be negative.",
                ),
                io.Int.Input(
                    "region",
                    default=0,
                    min=0,
                    max=99,
                    tooltip="Which region, counted from 1; 0 is the last.",
                ),
                io.Combo.Input(
                    "side",
                    options=list(SIDES),
                    default="both",
                    tooltip="both: it acts beside the positive and the negative prompt, as a LoRA does. positive: only "
                    "beside the positive, so that guidance makes it stronger.",
                ),
            ],
            outputs=[Regions.Output(display_name="regions", tooltip="The regions, of which one has the LoRA.")],
        )

    @classmethod
    def execute(
        cls, regions: tuple[Region, ...], lora_name: str, strength_model: float, region: int, side: str
    ) -> io.NodeOutput:
        """Return the chain."""
        if region > len(regions) or not regions:
            raise ValueError(f"region {region}: the chain has {len(regions)}; 0 is its last")
        if lora_name == NONE:
            return io.NodeOutput(regions)
        place = (region or len(regions)) - 1
        more = RegionLora(lora_file(lora_name), strength_model, side)
        one = replace(regions[place], loras=(*regions[place].loras, more))
        return io.NodeOutput((*regions[:place], one, *regions[place + 1 :]))
