"""What every attention function asks first: `transformer_options["optimized_attention_override"]`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

AttentionFunction = Callable[..., Tensor]


def wrap_attn(func: AttentionFunction) -> AttentionFunction:
    """Let the override of `transformer_options` take a call, and the call choose its own function.

    A call with `preferred_attention` runs that object's `.function`, unless it is None. The override comes before:
    it gets the unwrapped function that would run, then the call's own arguments. A call marked `_inside_attn_wrapper`
    goes straight through.
    """

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        preferred = kwargs.pop("preferred_attention", None)
        if "_inside_attn_wrapper" in kwargs:
            return func(*args, **kwargs)
        kwargs["_inside_attn_wrapper"] = True
        chosen = func if preferred is None else preferred.function or func
        options = kwargs.get("transformer_options")
        if options is not None:
            override = options.get("optimized_attention_override")
            if override is not None:
                return override(chosen, *args, **kwargs)
        return chosen(*args, **kwargs)

    return wrapper
