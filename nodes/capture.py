"""Listen to the attention of a model, as a node."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from ..ldm_patched.patches.addressing.refused import Refused
from ..ldm_patched.patches.addressing.where import Where
from ..ldm_patched.patches.engine.attach import attach
from ..ldm_patched.patches.engine.declaration import Placing, Widget
from ..ldm_patched.patches.engine.sides import SIDES
from ..ldm_patched.patches.methods.alignment import Clip, token_ids
from ..ldm_patched.patches.methods.capture import SIDE, Capture, Listener, Word, parse_heads
from ..ldm_patched.patches.methods.point_capture import PointCapture, parse_points
from ..ldm_patched.patches.methods.words import locate
from ..ldm_patched.patches.patcher import Patcher
from ._host import HOST, io
from .derived import CATEGORY, checking, model, own_id, own_run, patched, shown

T = TypeVar("T")
PLACING = Placing("output")
WORD = re.compile(r"\w+(?:['-]\w+)*")
MOST = 64  # words of a prompt that are captured without being asked for
# A node makes up to two methods, of words and of points, which share these.
AFTER = (
    Widget(
        "points",
        "STRING",
        "Points of the picture, x and y from 0 to 1, parted by commas (0.3 0.5, 0.7 0.5): one map for each, of what "
        "self-attention looks at from there.",
        (("default", ""),),
        optional=True,
    ),
    Widget("side", "COMBO", SIDE, (("options", list(SIDES)), ("default", "positive")), optional=True),
    Widget(
        "heads",
        "STRING",
        "Which heads of each block: all, or numbers from 0 (0, 3-5).",
        (("default", "all"),),
        optional=True,
    ),
)
WIDGETS = (*PLACING.widgets(), *AFTER)


class CaptureAttention(io.ComfyNode):
    """Gather where the words of a prompt draw, and where points of the image look."""

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
                *map(shown, WIDGETS),
            ],
            outputs=[patched("with this capture")],
            **own_run(),
        )

    validate_inputs = checking([widget.name for widget in WIDGETS], lambda widgets: refused(widgets))

    @classmethod
    def execute(cls, model: Patcher, clip: Clip, prompt: str, words: str, **widgets: Any) -> io.NodeOutput:
        """Return the clone."""
        wanted = [part.strip() for part in re.split(r"[,\n]", words) if part.strip()]
        if not wanted and not widgets.get("points", "").strip():
            raise ValueError("no words and no points are given; write some of the prompt's words, parted by commas")
        found = tuple(Word(word, locate(clip, prompt, word)) for word in wanted)
        *first, last = listeners(found, len(token_ids(clip, prompt)), rest(clip, prompt, wanted), **widgets)
        node = own_id(cls)
        for listener in (*first, replace(last, node=node)):
            model = attach(model, listener, HOST)
        return io.NodeOutput(model)


def rest(clip: Clip, prompt: str, wanted: Sequence[str]) -> tuple[Word, ...]:
    """Return the words of a prompt that nobody asked for, the first of them where there are many."""
    found = []
    for word in [word for word in dict.fromkeys(WORD.findall(prompt)) if word not in wanted][:MOST]:
        with suppress(ValueError):  # a weight, or what the tokenizer makes into something else
            found.append(Word(word, locate(clip, prompt, word)))
    return tuple(found)


def refused(widgets: dict[str, Any]) -> Refused | None:
    """Return why the widgets are wrong, None if they are not."""
    try:
        listeners(**{name: value for name, value in widgets.items() if value is not None})
    except Refused as error:
        return error
    except ValueError as error:
        return Refused(str(error))
    return None


def listeners(
    words: tuple[Word, ...] = (),
    length: int = 77,
    others: tuple[Word, ...] = (),
    points: str = "",
    side: str = "positive",
    heads: str = "all",
    **placing: Any,
) -> list[Listener]:
    """Return the captures of the widgets: of words, and of points where there are any.

    Raises ValueError naming the value and the fix.
    """
    where: Where = PLACING.read("where", placing)["where"]
    if side not in SIDES:
        raise Refused(f"unknown side {side!r}; choose one of {', '.join(SIDES)}", "side")
    some = _of("heads", parse_heads, heads)
    found = _of("points", parse_points, points)
    captures: list[Listener] = []
    if words or not found:
        texts = {"words": words, "length": length, "others": others}
        captures.append(_of("blocks", Capture, **texts, where=where, side=side, heads=some))
    if found:
        captures.append(_of("points", PointCapture, points=found, where=where, side=side, heads=some))
    return captures


def _of(widget: str, make: Callable[..., T], *args: object, **fields: object) -> T:
    """Return what is made of a widget, and name the widget where that is refused."""
    try:
        return make(*args, **fields)
    except Refused:
        raise
    except ValueError as error:
        raise Refused(str(error), widget) from None
