"""Nodes made from the declarations of methods: schema, check and execution."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..ldm_patched.patches.addressing.refused import Refused
from ..ldm_patched.patches.engine.attach import attach
from ..ldm_patched.patches.engine.declaration import NODE, WIDGETS, Widget, check_inputs, inputs_of, made
from ..ldm_patched.patches.engine.method import Method
from ..ldm_patched.patches.patcher import Patcher
from ._host import HOST, io, refusal

CATEGORY = "model/patch/attention"
KINDS = {
    "FLOAT": "Float",
    "INT": "Int",
    "BOOLEAN": "Boolean",
    "STRING": "String",
    "COMBO": "Combo",
    "CLIP": "Clip",
    "CONDITIONING": "Conditioning",
    "LATENT": "Latent",
    "MASK": "Mask",
}


def own_run() -> dict[str, Any]:
    """Return what the schema of a node says that is shown what a run gives.

    Its copy under another id is no hit in the host's cache, whose results keep the id of the first.
    """
    # ComfyUI's caching.py (include_unique_id_in_input) does not see the hidden id of such a schema, and its
    # Schema.finalize adds to the list of hidden ones: each schema has a list of its own.
    return {"hidden": [io.Hidden.unique_id], "not_idempotent": True}


def socket(type: str) -> Any:
    """Return the host's namespace of a type of inputs and outputs."""
    return getattr(io, KINDS[type]) if type in KINDS else io.Custom(type)


def model(verb: str = "change") -> Any:
    """Return the input for the model."""
    return io.Model.Input("model", tooltip=f"The model to {verb}; the input itself stays as it is.")


def patched(gives: str) -> Any:
    """Return the output for the clone."""
    return io.Model.Output(display_name="MODEL", tooltip=f"A clone of the model {gives}.")


def shown(widget: Widget) -> io.Input:
    """Return the input of a widget or socket."""
    optional = {"optional": True} if widget.optional else {}
    found: io.Input = socket(widget.type).Input(widget.name, tooltip=widget.tip, **optional, **dict(widget.settings))
    return found


def schema(method: type[Method]) -> io.Schema:
    """Return the schema of a method's node."""
    said = method.declaration
    outputs = [socket(out.type).Output(display_name=out.name, tooltip=out.tip) for out in said.outputs]
    return io.Schema(
        node_id=said.node,
        display_name=said.title,
        category=CATEGORY,
        description=said.text,
        search_aliases=list(said.aliases),
        inputs=[model(said.verb), *map(shown, inputs_of(method))],
        outputs=[patched(said.gives), *outputs],
        **(own_run() if said.shows else {}),
    )


def named(method: type[Method]) -> list[str]:
    """Return the inputs of a method's node that are checked here: all with widgets, but for those left to the host.

    ComfyUI's execution.py (validate_inputs) leaves range and options of an input to the check that names it.
    """
    return [widget.name for widget in inputs_of(method) if widget.type in WIDGETS and not widget.by_host]


def own_id(node: type[io.ComfyNode]) -> str:
    """Return the id of the node that runs, in its workflow; empty outside of one."""
    return str(node.hidden.unique_id) if node.hidden else ""


def checking(names: list[str], check: Callable[[dict[str, Any]], Refused | None]) -> classmethod[Any, Any, Any]:
    """Return `validate_inputs` of a node, which names what it checks: `check` gives Refused or None for the values."""

    def validate_inputs(cls: Any, /, **widgets: Any) -> bool | str:
        refused = check(widgets)
        if refused is None:
            return True
        widget = next((name for name in refused.widgets if name in widgets), next(iter(widgets), ""))
        return refusal(str(refused), widget, widgets)

    # the host reads from the signature which inputs to pass, in the order of the workflow
    parameters = [inspect.Parameter("cls", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in names]
    validate_inputs.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return classmethod(validate_inputs)


def checking_text(name: str, read: Callable[[str], object]) -> classmethod[Any, Any, Any]:
    """Return `validate_inputs` of a node with a text that `read` reads, or raises Refused for."""

    def check(widgets: dict[str, Any]) -> Refused | None:
        try:
            read(widgets.get(name) or "")
        except Refused as error:
            return error
        return None

    return checking([name], check)


def node(method: type[Method]) -> type[io.ComfyNode]:
    """Return the node class of a method."""

    def define_schema(cls: Any) -> io.Schema:
        return schema(method)

    def execute(cls: Any, /, model: Patcher, **inputs: Any) -> io.NodeOutput:
        if method.declaration.shows:
            inputs[NODE] = own_id(cls)
        return io.NodeOutput(attach(model, made(method, inputs), HOST), *method.results(inputs))

    body = {
        "__doc__": method.__doc__,
        "__module__": __name__,
        "define_schema": classmethod(define_schema),
        "execute": classmethod(execute),
        "validate_inputs": checking(named(method), lambda widgets: check_inputs(method, widgets)),
    }
    return type(f"{method.__name__}Node", (io.ComfyNode,), body)
