"""Attention maps of words and pictures, weighted or taken over, as nodes."""

from __future__ import annotations

from typing import Any

from ..ldm_patched.patches.alignment import Tokens, token_ids
from ..ldm_patched.patches.attach import attach
from ..ldm_patched.patches.map_injection import MapInjection
from ..ldm_patched.patches.prompt_to_prompt import PromptToPrompt, pair
from ..ldm_patched.patches.reweighting import WordWeight
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.targets import KINDS, parse
from ..ldm_patched.patches.words import locate
from ._host import HOST, io
from ._widgets import CATEGORY, blocks, check, curve, window

WORD = (1,)  # any place in a prompt, to check the other widgets with


def strength(tooltip: str) -> Any:
    """Return the input for how much of a method is applied."""
    return io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


class WordWeightNode(io.ComfyNode):
    """Scale the attention that words of the prompt get."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayWordWeight",
            display_name="Word Weight",
            category=CATEGORY,
            description="Multiply the attention that words of the positive prompt get, in some blocks and for a part "
            "of the run. The prompt itself stays as it is, and so do the maps of its other words.",
            search_aliases=["attention re-weighting", "prompt weight", "cross attention weight", "emphasis"],
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input itself stays as it is."),
                io.Clip.Input("clip", tooltip="The CLIP that the positive prompt is encoded with."),
                io.String.Input("prompt", multiline=True, tooltip="The text of the positive prompt."),
                io.String.Input("words", tooltip="Words or phrases of the prompt, separated by commas."),
                io.Float.Input(
                    "weight",
                    default=1.5,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="The factor of their attention: 0 takes it away, 1 changes nothing, below 0 turns it "
                    "around.",
                ),
                strength("How much of the weight is applied, 0 to 1; 0 changes nothing."),
                blocks(),
                *window(),
                curve(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with this weight.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        prompt: str | None = None,
        words: str | None = None,
        weight: float | None = None,
        strength: float | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check what can be without the CLIP; a missing input is the host's to report."""
        if words is not None and not words.strip(" ,"):
            return "words is empty; write some of the prompt's words, separated by commas"
        widgets = {"weight": weight, "strength": strength, "blocks": blocks, "curve": curve}
        return check(make, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, clip: object, prompt: str, words: str, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        method = make(locate(clip, prompt, words), len(token_ids(clip, prompt)), **widgets)
        return io.NodeOutput(attach(model, method, HOST))


class PromptToPromptNode(io.ComfyNode):
    """Draw an edited prompt with the layout of the source prompt's picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayPromptToPrompt",
            display_name="Prompt to Prompt",
            category=CATEGORY,
            description="Draw pairs of pictures: the first of the source prompt, the second of the edited prompt with "
            "the first one's attention maps, so that it keeps the layout. Needs an even batch of latents that start "
            "from the same noise.",
            search_aliases=["p2p", "prompt editing", "word swap", "cross attention control", "attention replace"],
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input itself stays as it is."),
                io.Clip.Input("clip", tooltip="The CLIP to encode both prompts with."),
                io.String.Input("source", multiline=True, tooltip="The prompt of the first picture of each pair."),
                io.String.Input("edited", multiline=True, tooltip="The prompt of the second picture of each pair."),
                io.Float.Input(
                    "self_percent",
                    default=0.4,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Until where in the run the maps of self-attention are taken over too; 0: not at all.",
                ),
                strength("How much of the first picture's maps is taken, 0 to 1; 0 takes none."),
                blocks(),
                *window(0.8),
                curve(),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="A clone of the model that takes the maps over."),
                io.Conditioning.Output(
                    display_name="positive", tooltip="Both prompts, by turns for the pictures of a batch."
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        source: str | None = None,
        edited: str | None = None,
        self_percent: float | None = None,
        strength: float | None = None,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check what can be without the CLIP; a missing input is the host's to report."""
        widgets = {"self_percent": self_percent, "strength": strength, "blocks": blocks, "curve": curve}
        return check(make_pair, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, clip: Any, source: str, edited: str, **widgets: Any) -> io.NodeOutput:
        """Return the clone and the prompts."""
        method = make_pair(token_ids(clip, source), token_ids(clip, edited), **widgets)
        prompts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (source, edited)]
        return io.NodeOutput(attach(model, method, HOST), pair(*prompts))


class MapInjectionNode(io.ComfyNode):
    """Give all pictures of a batch the attention maps of the first."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayMapInjection",
            display_name="Attention Map Injection",
            category=CATEGORY,
            description="Let every picture of a batch attend with the queries and keys of the first one: the structure "
            "of the first, the content of each.",
            search_aliases=["plug-and-play", "PnP", "attention injection", "shared structure", "consistent layout"],
            inputs=[
                io.Model.Input("model", tooltip="The model to change; the input itself stays as it is."),
                strength("How much of the first picture's maps is taken, 0 to 1; 0 takes none."),
                blocks("output"),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="self",
                    tooltip="Which maps: of self-attention, of cross-attention to the text, or of both.",
                ),
                *window(0.5),
                curve(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model that takes the maps over.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        strength: float | None = None,
        blocks: str | None = None,
        kind: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        widgets = {"strength": strength, "blocks": blocks, "kind": kind, "curve": curve}
        return check(make_injection, start_percent=start_percent, end_percent=end_percent, **widgets)

    @classmethod
    def execute(cls, model: object, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        return io.NodeOutput(attach(model, make_injection(**widgets), HOST))


def make(
    positions: tuple[int, ...] = WORD,
    length: int = 77,
    weight: float = 1.5,
    strength: float = 1.0,
    blocks: str = "all",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
) -> WordWeight:
    """Return the word weight of the widgets, for the words at `positions` in a prompt of `length` tokens.

    Raises ValueError naming the value and the fix.
    """
    schedule = Schedule(start_percent, end_percent, curve)
    return WordWeight(positions, weight, length, strength, parse(blocks), schedule)


def make_pair(
    source: Tokens = WORD,
    edited: Tokens = WORD,
    self_percent: float = 0.4,
    strength: float = 1.0,
    blocks: str = "all",
    start_percent: float = 0.0,
    end_percent: float = 0.8,
    curve: str = "constant",
) -> PromptToPrompt:
    """Return the prompt-to-prompt of the widgets, for the tokens of both prompts.

    Raises ValueError naming the value and the fix.
    """
    schedule = Schedule(start_percent, end_percent, curve)
    return PromptToPrompt(source, edited, self_percent, strength, parse(blocks), schedule)


def make_injection(
    strength: float = 1.0,
    blocks: str = "output",
    kind: str = "self",
    start_percent: float = 0.0,
    end_percent: float = 0.5,
    curve: str = "constant",
) -> MapInjection:
    """Return the map injection of the widgets.

    Raises ValueError naming the value and the fix.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(KINDS)}")
    return MapInjection(strength, parse(blocks).narrowed(kind), Schedule(start_percent, end_percent, curve))


NODES = [WordWeightNode, PromptToPromptNode, MapInjectionNode]
