"""What ComfyUI can do, found by trying. Its modules are handed in: `_comfyui.py` is the one that imports them."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..ldm_patched.patches.engine.capabilities import Capabilities
from ..ldm_patched.patches.engine.router import SLOT


def probed(attention: Any, model_base: Any, samplers: Any, prefetch: Any) -> Capabilities:
    """Return what a ComfyUI of these modules can do; what they do not have, or what raises, it cannot."""
    return Capabilities(
        "ComfyUI",
        _finds(_asks_override, attention),
        _finds(_hands_containers, attention),
        _finds(_runs_preferred, attention),
        hasattr(prefetch, "pause_malloc_graph"),
        tuple(functions(attention)),
        _arguments(model_base, "BaseModel", "apply_model"),
        _arguments(samplers, "CFGGuider", "outer_sample"),
    )


def functions(attention: Any) -> dict[str, Any]:
    """Return ComfyUI's registered attention functions by name."""
    return dict(getattr(attention, "REGISTERED_ATTENTION_FUNCTIONS", {}))


def _finds(probe: Any, attention: Any) -> bool:
    try:
        return bool(probe(attention))
    except Exception:  # any failure of a call that ought to work means that it does not
        return False


class _Asked:
    """An override that notes what it was called with."""

    plain: tuple[Any, ...] = ()
    contained: tuple[Any, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        self.plain = args
        return torch.zeros(1)

    def container_function(self, *args: Any, **kwargs: Any) -> Tensor:
        self.contained = args
        return torch.zeros(1)


def _own(*args: Any, **kwargs: Any) -> str:
    return "own"


def _asks_override(attention: Any) -> bool:
    asked, x = _Asked(), torch.zeros(1, 1, 1)
    attention.wrap_attn(_own)(x, x, x, 1, transformer_options={SLOT: asked})
    function, *given = asked.plain
    return function() == "own" and all(one is x for one in given[:3]) and given[3] == 1


def _hands_containers(attention: Any) -> bool:
    asked, contained = _Asked(), [attention.AttentionTensorContainer(torch.zeros(1, 1, 1)) for _ in range(3)]
    attention.wrap_attn(_own)(*contained, 1, transformer_options={SLOT: asked})
    return [id(one) for one in asked.contained[:3]] == [id(one) for one in contained]


def _runs_preferred(attention: Any) -> bool:
    x, preferred = torch.zeros(1, 1, 1), SimpleNamespace(function=lambda *args, **kwargs: "preferred")
    return bool(attention.wrap_attn(_own)(x, x, x, 1, transformer_options={}, preferred_attention=preferred) != "own")


def _arguments(module: Any, cls: str, name: str) -> tuple[str, ...]:
    method = getattr(getattr(module, cls, None), name, None)
    return () if method is None else tuple(inspect.signature(method).parameters)[1:]
