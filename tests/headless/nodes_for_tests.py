"""Small nodes with counted runs, and a workflow of them."""

from __future__ import annotations

from typing import Any, ClassVar

from attention_patchbay.headless.api import comfy_io as io
from attention_patchbay.headless.engine.workflow import check


class Number(io.ComfyNode):
    runs: ClassVar[list[int]] = []

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            "Number",
            inputs=[
                io.Int.Input("value", default=1, min=0, max=10),
                io.Float.Input("factor", default=1.0, min=-2.0, max=2.0, optional=True),
                io.Combo.Input("mode", options=["plain", "negated"], optional=True),
            ],
            outputs=[io.Int.Output()],
        )

    @classmethod
    def execute(cls, value: int, factor: float = 1.0, mode: str = "plain") -> io.NodeOutput:
        cls.runs.append(value)
        return io.NodeOutput(int(value * factor) * (-1 if mode == "negated" else 1))


class Add(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("Add", inputs=[io.Int.Input("a"), io.Int.Input("b")], outputs=[io.Int.Output()])

    @classmethod
    def execute(cls, a: int, b: int) -> io.NodeOutput:
        return io.NodeOutput(a + b)


class Text(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("Text", inputs=[io.String.Input("text")], outputs=[io.String.Output()])

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        return "text must not shout" if text is not None and text.isupper() else True

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput(text)


class Show(io.ComfyNode):
    runs: ClassVar[list[Any]] = []

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("Show", inputs=[io.Int.Input("value")], is_output_node=True)

    @classmethod
    def execute(cls, value: int) -> io.NodeOutput:
        cls.runs.append(value)
        if value == 13:
            raise RuntimeError("thirteen")
        return io.NodeOutput(ui={"text": [str(value)], "prompt": [cls.hidden.prompt]})


class Outside(io.ComfyNode):
    version: ClassVar[list[int]] = [1]

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("Outside", outputs=[io.Int.Output()])

    @classmethod
    def fingerprint_inputs(cls) -> int:
        return cls.version[0]

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(cls.version[0])


CATALOG = {cls.GET_SCHEMA().node_id: cls for cls in (Number, Add, Text, Show, Outside)}


def workflow(**changes: Any) -> Any:
    """2 + 3, shown by node 4; `changes` replace whole nodes by id."""
    nodes = {
        "1": {"class_type": "Number", "inputs": {"value": 2}},
        "2": {"class_type": "Number", "inputs": {"value": 3}, "_meta": {"title": "Second"}},
        "3": {"class_type": "Add", "inputs": {"a": ["1", 0], "b": ["2", 0]}},
        "4": {"class_type": "Show", "inputs": {"value": ["3", 0]}},
    }
    return check({**nodes, **{id.removeprefix("n"): node for id, node in changes.items()}})


def number(**inputs: Any) -> dict[str, Any]:
    return {"class_type": "Number", "inputs": inputs}
