"""The picture without the patches beside the one with them, as a node: it has the host sample once more."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

import torch

from ..ldm_patched.patches.addressing.refused import Refused
from ..ldm_patched.patches.reading.comparison import apart, heatmaps, told, view
from ..ldm_patched.patches.reading.declared import declared
from ._host import io
from .capture import CaptureAttention
from .captured import AttentionMaps, SaveAttentionMaps
from .derived import CATEGORY, checking_text
from .derived import node as node_of
from .drawn import DrawnRegions
from .inspector import PatchInspector
from .live import LiveMasks
from .lora import LoadLoraByRules
from .manage import CopyPatches, PatchPreset
from .report import PatchReport
from .rules import BackendRules
from .shares import WordShares
from .tuning import TuneAttention

NODE = "PatchbayCompare"
MAP, MAPPED = "PatchbayBlockMap", 2  # a node that only watches, and its output that is the model
SHOWN = "PatchbayLiveRegion"  # shows what each run makes of it: further runs have copies, which nobody sees
MOST = 8  # further samplings
BY_HAND: tuple[type[io.ComfyNode], ...] = (
    BackendRules,
    TuneAttention,
    CopyPatches,
    PatchPreset,
    CaptureAttention,
    DrawnRegions,
    LoadLoraByRules,
)
READERS: tuple[type[io.ComfyNode], ...] = (  # of the patches of a model, and of what they gathered in its run
    AttentionMaps,
    SaveAttentionMaps,
    WordShares,
    LiveMasks,
    PatchReport,
    PatchInspector,
)
WITH_CLIP = ("PatchbayLoraRules", 1)  # the node that changes a text encoder too, and which output that is
AMOUNTS = ("strength", "scale")  # the first of these widgets that a node has is multiplied
UNPATCHED = "no patch of this pack is on the way to these pictures: there is nothing to leave out"
NOTHING = (
    "images: these only show what a node reads of the patches, such as masks or maps, and without the patches there is "
    "nothing to read; link the pictures that the sampler's latent decodes to"
)
Link = list[Any]
Graph = dict[str, dict[str, Any]]


class Compare(io.ComfyNode):
    """Show a picture with and without the patches of its model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id=NODE,
            display_name="With and Without Patches",
            category=CATEGORY,
            description="What do the patches do? Draws the same picture again without this pack's nodes, with the same "
            "seed, and shows both under a slider and where they differ. Drawn once and kept until the rest changes.",
            search_aliases=["compare", "before after", "ab test", "difference", "slider", "what does it do"],
            inputs=[
                io.Image.Input("images", tooltip="The decoded pictures of a model with patches."),
                io.Image.Input(
                    "other",
                    optional=True,
                    tooltip="Pictures to compare with. Linked, nothing is sampled again.",
                ),
                io.String.Input(
                    "strengths",
                    default="0",
                    tooltip="How strong the patches are in the pictures that are drawn again, times what their nodes "
                    "say: 0 is without them; 0, 0.5, 1.5 makes a strip of three. It multiplies strength, or scale "
                    "where a node has none.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="others", tooltip="The pictures of the first strength, then the next."),
                io.Image.Output(
                    display_name="differences",
                    tooltip="Where each differs; all share the scale of the largest.",
                ),
                io.String.Output(display_name="text", tooltip="How far apart they are."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_output_node=True,
            enable_expand=True,
        )

    validate_inputs = checking_text("strengths", lambda text: parsed(text))

    @classmethod
    def execute(cls, images: torch.Tensor, strengths: str, other: torch.Tensor | None = None) -> io.NodeOutput:
        """Compare with the other pictures, or have the host draw them."""
        parts = parsed(strengths)
        if other is None:
            node, prompt = str(cls.hidden.unique_id), cls.hidden.prompt
            graph = expansion(prompt, node, parts)
            return io.NodeOutput(*([f"{node}.all", i] for i in range(3)), expand=graph)
        given = is_link(_inputs(cls.hidden.prompt, str(cls.hidden.unique_id)).get("other"))
        names = ["the other"] if given else [name(part) for part in parts]
        distances = apart(images, other)
        maps, text = heatmaps(distances), told(names, distances)
        if not given:
            drawn_by = str(cls.hidden.unique_id).removesuffix(".all")
            text = "\n".join([text, *limits(cls.hidden.prompt, drawn_by, parts)])
        shown = view(images, other, names, distances, maps)
        return io.NodeOutput(other, maps, text, ui={"text": [text], "compare": [shown]})


def parsed(text: str) -> tuple[float, ...]:
    """Return the strengths of a text. Raises Refused for one that is none."""
    found = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise Refused(f"strengths: {part.strip()!r} is no number; write such as 0, or 0, 0.5, 1.5", "strengths")
        found.append(value)
    if len(found) > MOST:
        raise Refused(f"strengths: {len(found)} of them would be sampled; write at most {MOST}", "strengths")
    return tuple(found)


def name(part: float) -> str:
    """Return what pictures of a strength are called."""
    return "without" if part == 0.0 else f"{part:g} x"


# The graph that draws them


def expansion(prompt: Graph, node: str, parts: Iterable[float]) -> Graph:
    """Return nodes that draw the pictures of a comparing node again at some strengths, and compare them.

    Without patches there is nothing to read of them, so what does stays as it is. Raises ValueError where no patch of
    this pack is on the way to the pictures, or where they only show what is read.
    """
    inputs = _inputs(prompt, node)
    graph: Graph = {}
    last: Link | None = None
    for number, part in enumerate(parts):
        changed = patched(prompt, str(inputs["images"][0]), reading() if part == 0.0 else set())
        if not changed:
            raise ValueError(NOTHING if patched(prompt, str(inputs["images"][0])) else UNPATCHED)
        drawn = again(prompt, changed, inputs["images"], part, f"{node}.{number}.", graph)
        if last is not None:
            graph[f"{node}.{number}"] = {"class_type": "ImageBatch", "inputs": {"image1": last, "image2": drawn}}
            drawn = [f"{node}.{number}", 0]
        last = drawn
    graph[f"{node}.all"] = {"class_type": NODE, "inputs": {**inputs, "other": last}, "override_display_id": node}
    return graph


def patched(prompt: Graph, last: str, stay: Collection[str] = ()) -> set[str]:
    """Return the patches of this pack that lead to a node, and what else they lead to on the way.

    Nodes of the kinds that `stay` are no part of the way.
    """
    above, waiting = {last}, [last]
    users: dict[str, set[str]] = {}
    while waiting:
        id = waiting.pop()
        if _class(prompt, id) in stay:
            continue
        for source in _sources(prompt, id):
            users.setdefault(source, set()).add(id)
            if source not in above:
                above.add(source)
                waiting.append(source)
    found = {id for id in above if _class(prompt, id) in patching()}
    if not stay:
        found |= {id for id in above if _class(prompt, id) == SHOWN}
    waiting = list(found)
    while waiting:
        more = users.get(waiting.pop(), set()) - found
        found |= more
        waiting += more
    return found


def again(prompt: Graph, changed: set[str], images: Link, part: float, prefix: str, graph: Graph) -> Link:
    """Add copies of what changes with the patches, at a part of their strength, and return where the pictures are.

    What no patch leads to is not copied, but linked to where it stands, and so is a map of blocks: it shows the run of
    the picture itself.
    """

    def to(link: Link) -> Link:
        id, output = str(link[0]), link[1]
        while left_out(id) and (passed := passes(_class(prompt, id), output)) in _inputs(prompt, id):
            id, output = link = _inputs(prompt, id)[passed]
        return [prefix + id, output] if id in changed and not left_out(id) else link

    def left_out(id: str) -> bool:
        return _class(prompt, id) == MAP or (part == 0.0 and _class(prompt, id) in patching())

    for id in (id for id in changed if not left_out(id)):
        given = {name: to(value) if is_link(value) else value for name, value in _inputs(prompt, id).items()}
        graph[prefix + id] = {"class_type": _class(prompt, id), "inputs": given}
        if _class(prompt, id) in patching():
            multiply(given, part, _class(prompt, id))
    return to(images)


def passes(kind: str, output: int) -> str | None:
    """Return the input that a patch, or a map of blocks, hands on as an output; None for any other output."""
    if (kind, output) == WITH_CLIP:
        return "clip"
    return "model" if output == (MAPPED if kind == MAP else 0) else None


def multiply(inputs: dict[str, Any], part: float, kind: str) -> None:
    """Multiply how much a patch is applied, where its node has a widget for it, up to the most that it takes."""
    amount = amount_of(inputs)
    if amount is None:
        return
    if is_link(inputs[amount]):
        raise ValueError(f"{amount} of {kind} comes by a link and cannot be multiplied; write the number in the node")
    inputs[amount] = within(kind, amount, inputs[amount] * part)


def limits(prompt: Graph, node: str, parts: Iterable[float]) -> list[str]:
    """Say which patches cannot be as strong as some parts of their strength say, and how strong they were drawn."""
    changed = patched(prompt, str(_inputs(prompt, node)["images"][0]))
    patches = [(_class(prompt, id), _inputs(prompt, id)) for id in sorted(changed) if _class(prompt, id) in patching()]
    lines = []
    for part in (part for part in parts if part != 0.0):
        for kind, inputs in patches:
            amount = amount_of(inputs)
            if amount is None or (value := within(kind, amount, inputs[amount] * part)) == inputs[amount] * part:
                continue
            title = patching()[kind]["display_name"]
            lines.append(f"{name(part)}: {amount} of {title} would be {inputs[amount] * part:g}; drawn with {value:g}")
    return lines


def amount_of(inputs: dict[str, Any]) -> str | None:
    """Return the input of a patch that says how much it is applied."""
    return next((name for name in AMOUNTS if name in inputs), None)


def within(kind: str, amount: str, value: float) -> float:
    """Return a value of a node's widget, or the nearest that the widget takes."""
    settings = patching()[kind]["input"]["required"][amount][1]
    return float(min(max(value, settings["min"]), settings["max"]))


@cache
def patching() -> dict[str, dict[str, Any]]:
    """Return what the page knows of the nodes that put patches on a model, or rules, by their ids."""
    made = [node_of(method) for method in declared() if method.declaration.node]
    return {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in (*made, *BY_HAND)}


@cache
def reading() -> set[str]:
    """Return the ids of the nodes that read the patches of a model, or what they gathered in its run."""
    return {reader.GET_SCHEMA().node_id for reader in READERS}


def _class(prompt: Graph, id: str) -> str:
    return str(prompt.get(id, {}).get("class_type", ""))


def _inputs(prompt: Graph, id: str) -> dict[str, Any]:
    found: dict[str, Any] = prompt.get(id, {}).get("inputs", {})
    return found


def _sources(prompt: Graph, id: str) -> list[str]:
    return [str(value[0]) for value in _inputs(prompt, id).values() if is_link(value)]


def is_link(value: Any) -> bool:
    """Return whether the value of an input is a link to another node."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
