"""Listen to the attention of a model, as a node."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ..ldm_patched.patches.alignment import token_ids
from ..ldm_patched.patches.attach import attach
from ..ldm_patched.patches.capture import Capture, Word
from ..ldm_patched.patches.gathered import SIDES
from ..ldm_patched.patches.point_capture import Point, PointCapture, parse_points
from ..ldm_patched.patches.schedule import Schedule
from ..ldm_patched.patches.targets import parse
from ..ldm_patched.patches.words import locate
from ._host import HOST, io
from ._widgets import CATEGORY, blocks, check, curve, model, patched, window


class CaptureAttention(io.ComfyNode):
    """Gather where the words of a prompt draw, and where points of the picture look."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="PatchbayCaptureAttention",
            display_name="Capture Attention",
            category=CATEGORY,
            description="Gather what each part of the picture attends to while it is sampled. Attention Maps shows it "
            "after the sampler. The picture does not change.",
            search_aliases=["attention heatmap", "daam", "cross attention map", "which word drew what"],
            inputs=[
                model("look into"),
                io.Clip.Input("clip", tooltip="The CLIP that encodes the prompt."),
                io.String.Input("prompt", default="", multiline=True, tooltip="The prompt, as it is encoded."),
                io.String.Input("words", default="", tooltip="Words or phrases, parted by commas: one map for each."),
                blocks("output"),
                *window(),
                curve(),
                io.String.Input(
                    "points",
                    default="",
                    optional=True,
                    tooltip="Points of the picture, x and y from 0 to 1, parted by commas (0.3 0.5, 0.7 0.5): one map "
                    "for each, of what self-attention looks at from there.",
                ),
                io.Combo.Input(
                    "side",
                    options=list(SIDES),
                    default="positive",
                    optional=True,
                    tooltip="Which pass to listen to; the prompt is that of this side.",
                ),
                io.String.Input(
                    "heads",
                    default="all",
                    optional=True,
                    tooltip="Which heads of each block: all, or numbers from 0 (0, 3-5).",
                ),
            ],
            outputs=[patched("this capture")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        blocks: str | None = None,
        start_percent: float | None = None,
        end_percent: float | None = None,
        curve: str | None = None,
        points: str | None = None,
        side: str | None = None,
        heads: str | None = None,
    ) -> bool | str:
        """Check every widget before anything runs; a missing input is the host's to report."""
        window = {"start_percent": start_percent, "end_percent": end_percent, "curve": curve}
        return check(listeners, blocks=blocks, points=points, side=side, heads=heads, **window)

    @classmethod
    def execute(cls, model: object, clip: Any, prompt: str, words: str, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        wanted = [part.strip() for part in re.split(r"[,\n]", words) if part.strip()]
        if not wanted and not widgets.get("points", "").strip():
            raise ValueError("no words and no points are given; write some of the prompt's words, parted by commas")
        found = tuple(Word(word, locate(clip, prompt, word)) for word in wanted)
        *first, last = listeners(found, len(token_ids(clip, prompt)), **widgets)
        node = str(cls.hidden.unique_id) if cls.hidden else ""
        for listener in (*first, replace(last, node=node)):
            model = attach(model, listener, HOST)
        return io.NodeOutput(model)


def listeners(
    words: tuple[Word, ...] = (),
    length: int = 77,
    blocks: str = "output",
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    curve: str = "constant",
    points: str = "",
    side: str = "positive",
    heads: str = "all",
) -> list[Capture | PointCapture]:
    """Return the captures of the widgets: of words, and of points where there are any.

    Raises ValueError naming the value and the fix.
    """
    address, schedule, some = parse(blocks), Schedule(start_percent, end_percent, curve), parse_heads(heads)
    found: tuple[Point, ...] = parse_points(points)
    captures: list[Capture | PointCapture] = []
    if words or not found:
        captures.append(Capture(words, length, address, schedule, side, some))
    if found:
        captures.append(PointCapture(found, address, schedule, side, some))
    return captures


def parse_heads(text: str) -> tuple[int, ...]:
    """Read `all` (no numbers) or heads such as `0, 3-5`.

    Raises ValueError naming the value and the fix.
    """
    if text.strip() in ("", "all"):
        return ()
    heads: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,3})(?:-(\d{1,3}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"cannot read the heads {part.strip()!r}; write all, or numbers such as 0, 3-5")
        heads.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(heads))


NODES = [CaptureAttention]
