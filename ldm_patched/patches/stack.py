"""Composition of replace patches: every owner of one attention slot calls the next, the attention itself comes last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..ldm.modules.backends.dispatch import optimized_attention

Attend = Callable[..., Tensor]  # the attention function of the host
Inner = Callable[[Tensor, Tensor, Tensor], Tensor]


class Layer(Protocol):
    """One owner of the slot: gets q, k, v and the call below it, gives what comes out of the attention."""

    def around(self, inner: Inner, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor: ...


@dataclass(frozen=True)
class Stack:
    """The replace patch of one slot: `layers` from the first attached (innermost) to the last.

    Inside them runs the foreign patch that was there before, or else the host's attention.
    """

    layers: tuple[Layer, ...]
    foreign: Callable[..., Tensor] | None = None
    attend: Attend = optimized_attention

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        """Run the slot on q, k, v (b, n, h * d); the override and the rules of the model hold inside."""
        return self._run(len(self.layers), q, k, v, extra_options)

    def _run(self, depth: int, q: Tensor, k: Tensor, v: Tensor, extra_options: Mapping[str, Any]) -> Tensor:
        if depth:

            def inner(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                return self._run(depth - 1, q, k, v, extra_options)

            return self.layers[depth - 1].around(inner, q, k, v, extra_options)
        if self.foreign is not None:
            return self.foreign(q, k, v, extra_options)
        precision = extra_options.get("attn_precision")
        return self.attend(
            q, k, v, extra_options["n_heads"], attn_precision=precision, transformer_options=extra_options
        )


def push(existing: Mapping[Any, Any], address: tuple[str, int, int], layer: Layer, attend: Attend) -> Stack:
    """Return the stack for a slot after `layer` was put on what `existing` (address -> patch) runs there now.

    The exact address (block, number, index) goes before (block, number), as the UNet looks them up.
    """
    current = existing.get(address, existing.get(address[:2]))
    if isinstance(current, Stack):
        return Stack((*current.layers, layer), current.foreign, current.attend)
    return Stack((layer,), current, attend)
