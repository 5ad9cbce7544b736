"""ComfyUI's core nodes that hold a value, show one or choose between two, for the embedded host."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from torch import Tensor

from ..api import comfy_io as io
from ..api.dynamic_io import MatchType
from ..api.folders import numbered
from ..api.session import current
from .declared import Nodes
from .image import save, write_numbered
from .sizes import MEGA

NODES = Nodes("utilities/primitive")
RATIOS = {
    "1:1 (Square)": (1, 1),
    "2:3 (Portrait Photo)": (2, 3),
    "3:2 (Photo)": (3, 2),
    "3:4 (Portrait Standard)": (3, 4),
    "4:3 (Standard)": (4, 3),
    "9:16 (Portrait Widescreen)": (9, 16),
    "16:9 (Widescreen)": (16, 9),
    "21:9 (Ultrawide)": (21, 9),
}
VALUE = "The value."
SWITCHED = MatchType.Template("switch")
WHOLE = {"min": -sys.maxsize, "max": sys.maxsize}


@NODES.add("PrimitiveString", "Text", [io.String.Input("value", tooltip=VALUE)], io.String)
def primitive_string(value: str) -> str:
    """Give a text."""
    return value


@NODES.add(
    "PrimitiveStringMultiline",
    "Text (Multiline)",
    [io.String.Input("value", multiline=True, tooltip=VALUE)],
    io.String,
)
def primitive_string_multiline(value: str) -> str:
    """Give a text of several lines."""
    return value


@NODES.add(
    "PrimitiveInt",
    "Int",
    [io.Int.Input("value", **WHOLE, control_after_generate="fixed", tooltip=VALUE)],
    io.Int,
)
def primitive_int(value: int) -> int:
    """Give a whole number."""
    return value


@NODES.add("PrimitiveFloat", "Float", [io.Float.Input("value", **WHOLE, step=0.1, tooltip=VALUE)], io.Float)
def primitive_float(value: float) -> float:
    """Give a number."""
    return value


@NODES.add("PrimitiveBoolean", "Boolean", [io.Boolean.Input("value", tooltip=VALUE)], io.Boolean)
def primitive_boolean(value: bool) -> bool:
    """Give true or false."""
    return value


@NODES.add(
    "PreviewAny",
    "Preview as Text",
    [io.AnyType.Input("source", tooltip="Any value.")],
    io.String,
    category="utilities",
    is_output_node=True,
)
def preview_any(source: Any = None) -> io.NodeOutput:
    """Show a value as text."""
    if isinstance(source, (str, int, float)):
        text = str(source)
    else:
        try:
            text = "None" if source is None else json.dumps(source, indent=4, ensure_ascii=False)
        except (TypeError, ValueError):
            text = str(source)
    return io.NodeOutput(text, ui={"text": [text]})


@NODES.add(
    "ComfySwitchNode",
    "If/Else Switch",
    [
        io.Boolean.Input("switch", tooltip="Which of the two goes on."),
        MatchType.Input("on_false", SWITCHED, lazy=True, tooltip="What goes on if it is false; else it does not run."),
        MatchType.Input("on_true", SWITCHED, lazy=True, tooltip="What goes on if it is true; else it does not run."),
    ],
    MatchType.Output(display_name="output"),
    category="utilities/logic",
    is_experimental=True,
    methods={"check_lazy_status": lambda switch, **others: ["on_true" if switch else "on_false"]},
)
def comfy_switch_node(switch: bool, on_false: Any = None, on_true: Any = None) -> tuple[Any]:
    """Let one of two values go on."""
    return (on_true if switch else on_false,)


@NODES.add(
    "CustomCombo",
    "Custom Combo",
    [io.Combo.Input("choice", options=[], tooltip="The choice.")],
    io.String.Output(display_name="STRING"),
    io.Int.Output(display_name="INDEX"),
    category="utilities",
    is_experimental=True,
    accept_all_inputs=True,
    methods={"validate_inputs": lambda choice=None: True},  # the page makes the list
)
def custom_combo(choice: str, index: int = 0, **others: Any) -> tuple[str, int]:
    """Give a choice from a list of one's own."""
    return choice, index


@NODES.add(
    "ComfyNumberConvert",
    "Convert Number",
    [io.Custom("INT,FLOAT,STRING,BOOLEAN").Input("value", display_name="value", tooltip=VALUE)],
    io.Float.Output(display_name="FLOAT"),
    io.Int.Output(display_name="INT"),
    category="utilities",
)
def comfy_number_convert(value: str | float) -> tuple[float, int]:
    """Make a number of a value."""
    number = value.strip() if isinstance(value, str) else value
    try:
        as_float = float(number)
    except ValueError:
        raise ValueError(f"{value!r} is no number") from None
    if not math.isfinite(as_float):
        raise ValueError(f"{value!r} is not finite")
    try:
        return as_float, int(number)
    except ValueError:  # a text with a point
        return as_float, int(as_float)


@NODES.add(
    "ResolutionSelector",
    "Resolution Selector",
    [
        io.Combo.Input("aspect_ratio", options=list(RATIOS), default="1:1 (Square)", tooltip="Width against height."),
        io.Float.Input("megapixels", default=1.0, min=0.1, max=16.0, step=0.1, tooltip="Of 1024 x 1024 pixels each."),
        io.Int.Input(
            "multiple", default=8, min=8, max=128, step=4, advanced=True, tooltip="What both sides are multiples of."
        ),
    ],
    io.Int.Output("width"),
    io.Int.Output("height"),
    category="utilities",
)
def resolution_selector(aspect_ratio: str, megapixels: float, multiple: int) -> tuple[int, int]:
    """Give width and height for an aspect ratio and a number of pixels."""
    wide, high = RATIOS[aspect_ratio]
    scale = math.sqrt(megapixels * MEGA / (wide * high))
    return round(wide * scale / multiple) * multiple, round(high * scale / multiple) * multiple


@NODES.add(
    "ImageCompare",
    "Compare Images",
    [
        io.Image.Input("image_a", optional=True, tooltip="The pictures on one side."),
        io.Image.Input("image_b", optional=True, tooltip="The pictures on the other."),
        io.Custom("IMAGECOMPARE").Input("compare_view", extra_dict={"socketless": True}, tooltip="The page's slider."),
    ],
    category="image",
    is_output_node=True,
    is_experimental=True,
)
def image_compare(
    image_a: Tensor | None = None, image_b: Tensor | None = None, compare_view: Any = None
) -> io.NodeOutput:
    """Save two pictures to the temporary folder, for a comparison."""
    folder = current().folders.temp
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ui = {}
    for side, images in (("a", image_a), ("b", image_b)):
        there = images is not None and len(images) > 0
        ui[f"{side}_images"] = save(images, folder, f"comfy.compare.{side}", "temp", {}) if there else []  # type: ignore[arg-type]
    return io.NodeOutput(ui=ui)


@NODES.add(
    "SaveText",
    "Save Text",
    [
        io.String.Input("text", force_input=True, tooltip="The text."),
        io.String.Input("filename_prefix", default="ComfyUI", tooltip="The start of the file name."),
        io.Combo.Input("format", options=["txt", "csv", "md", "json"], default="txt", tooltip="The kind of file."),
    ],
    io.String.Output(display_name="text"),
    category="text",
    is_output_node=True,
)
def save_text(text: str, filename_prefix: str, format: str) -> io.NodeOutput:
    """Save a text to the output folder."""
    folder = current().folders.output
    directory, name, number = numbered(folder, filename_prefix, 1, 1)
    directory.mkdir(parents=True, exist_ok=True)
    data = (_laid_out(text) if format == "json" else text).encode()
    path, _ = write_numbered(directory, name, number, f"_.{format}", lambda file: file.write(data))
    subfolder = directory.relative_to(folder.resolve()).as_posix()
    entry = {"filename": path.name, "subfolder": "" if subfolder == "." else subfolder, "type": "output"}
    return io.NodeOutput(text, ui={"text": [text], "files": [entry]})


def _laid_out(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text
