"""Make a node of a function: the decorator says what it takes and gives, the docstring what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..api import comfy_io as io

Inputs = Sequence[io.Input] | Callable[[], Sequence[io.Input]]  # a function where they depend on the folders
Function = Callable[..., Any]
Decorator = Callable[[Function], type[io.ComfyNode]]


class Nodes(list[type[io.ComfyNode]]):
    """The nodes of a file, in their order; `category` is where the page lists them."""

    def __init__(self, category: str) -> None:
        super().__init__()
        self.category = category

    def add(
        self,
        id: str,
        title: str,
        inputs: Inputs,
        *outputs: Any,
        category: str | None = None,
        methods: Mapping[str, Function] | None = None,
        reads: Mapping[str, str] | None = None,
        stored: bool = False,
        **schema: Any,
    ) -> Decorator:
        """Return a decorator that makes a node of a function and lists it.

        The function gets the inputs by name and returns the only output, a tuple of several, or a NodeOutput. An output
        is a type (`io.Image`) or an `Output` of one; `methods` are static ones of the node beside `execute`. What
        `reads` and `stored` are, `ComfyNode` says.
        """

        def declare(function: Function) -> type[io.ComfyNode]:
            description = (function.__doc__ or "").partition("\n")[0]

            def define_schema(cls: type[io.ComfyNode], /) -> io.Schema:
                return io.Schema(
                    node_id=id,
                    display_name=title,
                    category=category or self.category,
                    description=description,
                    inputs=list(inputs() if callable(inputs) else inputs),
                    outputs=[out if isinstance(out, io.Output) else out.Output() for out in outputs],
                    **schema,
                )

            def execute(cls: type[io.ComfyNode], /, **values: Any) -> io.NodeOutput:
                given = function(**values)
                if isinstance(given, io.NodeOutput):
                    return given
                return io.NodeOutput(*(given if isinstance(given, tuple) else (given,)))

            own = {name: staticmethod(method) for name, method in (methods or {}).items()}
            made = {"define_schema": classmethod(define_schema), "execute": classmethod(execute)}
            about = {"__doc__": function.__doc__, "__module__": function.__module__}
            kept = {"reads": reads or {}, "stored": stored}
            self.append(type(function.__name__, (io.ComfyNode,), {**made, **own, **about, **kept}))
            return self[-1]

        return declare
