from __future__ import annotations

from typing import Any

import pytest
from attention_patchbay.headless.api import comfy_io as io


@pytest.mark.parametrize(
    "make",
    [
        lambda: io.Int.Input("a", maximum=3),
        lambda: io.Float.Input("a", precision=3),
        lambda: io.String.Input("a", multilin=True),
        lambda: io.Combo.Input("a", ["x"], colour="red"),
        lambda: io.Model.Input("a", default=1),
        lambda: io.Model.Output(name="a"),
        lambda: io.Schema("a", title="x"),
        lambda: io.NodeOutput(1, text="x"),
    ],
)
def test_an_unknown_argument_is_an_error(make: Any) -> None:
    with pytest.raises(TypeError):
        make()


def test_ids_must_be_unique() -> None:
    with pytest.raises(ValueError, match="input ids must be unique"):
        io.Schema("a", inputs=[io.Int.Input("x"), io.Int.Input("x")])


def test_the_info_of_a_node() -> None:
    class Node(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                "N",
                "Name",
                inputs=[
                    io.Model.Input("model", tooltip="t"),
                    io.Float.Input("f", default=1.0, min=0.0, max=2.0, step=0.1, advanced=True, optional=True),
                    io.Combo.Input("c", options=("x", "y"), default="y"),
                ],
                outputs=[io.Model.Output(display_name="MODEL", tooltip="o"), io.Custom("MINE").Output()],
                is_output_node=True,
            )

    info = Node.GET_NODE_INFO_V1()
    assert info["input"]["required"] == {
        "model": ("MODEL", {"tooltip": "t"}),
        "c": ("COMBO", {"default": "y", "multiselect": False, "options": ["x", "y"]}),
    }
    number = {"advanced": True, "default": 1.0, "min": 0.0, "max": 2.0, "step": 0.1}
    assert info["input"]["optional"] == {"f": ("FLOAT", number)}
    assert info["input"]["hidden"] == {"prompt": ("PROMPT",), "extra_pnginfo": ("EXTRA_PNGINFO",)}
    assert info["output"] == ["MODEL", "MINE"]
    assert info["output_name"] == ["MODEL", "MINE"]
    assert info["output_node"] is True
