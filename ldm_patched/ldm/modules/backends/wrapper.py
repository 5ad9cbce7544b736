"""The hook in front of every attention function: `transformer_options["optimized_attention_override"]`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

AttentionFunction = Callable[..., Tensor]


def wrap_attn(func: AttentionFunction) -> AttentionFunction:
    """Let the override of `transformer_options` take a call; one marked `_inside_attn_wrapper` goes straight through.

    The override gets the unwrapped function first, then the call's own arguments.
    """

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        if "_inside_attn_wrapper" in kwargs:
            return func(*args, **kwargs)
        kwargs["_inside_attn_wrapper"] = True
        options = kwargs.get("transformer_options")
        if options is not None:
            override = options.get("optimized_attention_override")
            if override is not None:
                return override(func, *args, **kwargs)
        return func(*args, **kwargs)

    return wrapper
