from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.engine.attach import attach
from attention_patchbay.ldm_patched.patches.engine.capabilities import CALL, SAMPLE, Capabilities
from attention_patchbay.ldm_patched.patches.engine.host import Host
from attention_patchbay.ldm_patched.patches.engine.router import SLOT
from attention_patchbay.ldm_patched.patches.methods.attention_patch import AttentionPatch
from attention_patchbay.ldm_patched.patches.routing.rule import Rule
from attention_patchbay.nodes._capabilities import probed


class Container:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def asking(func: Any) -> Any:
    """Wrap as ComfyUI 0.33 does."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        override = kwargs.get("transformer_options", {}).get(SLOT)
        if override is None:
            return func(*args, **kwargs)
        contained = isinstance(args[0], Container)
        return override.container_function(*args, **kwargs) if contained else override(func, *args, **kwargs)

    return wrapper


def preferring(func: Any) -> Any:
    """Wrap as ComfyUI from 0.40 on does."""

    def wrapper(*args: Any, preferred_attention: Any = None, **kwargs: Any) -> Any:
        if preferred_attention is not None and SLOT not in kwargs["transformer_options"]:
            return preferred_attention.function(*args, **kwargs)
        return asking(func)(*args, **kwargs)

    return wrapper


def changed(func: Any) -> Any:
    """Wrap as a ComfyUI to come may: the override gets a call in one object."""
    return lambda *args, transformer_options, **kwargs: transformer_options[SLOT]((func, args))


class BaseModel:
    def apply_model(
        self, x: Any, t: Any, c_concat: Any, c_crossattn: Any, control: Any, transformer_options: Any, **kwargs: Any
    ) -> None: ...


class CFGGuider:
    def outer_sample(
        self,
        noise: Any,
        latent_image: Any,
        sampler: Any,
        sigmas: Any,
        denoise_mask: Any = None,
        callback: Any = None,
        seed: Any = None,
    ) -> None: ...


NEWEST = (
    SimpleNamespace(
        wrap_attn=preferring, AttentionTensorContainer=Container, REGISTERED_ATTENTION_FUNCTIONS={"pytorch": None}
    ),
    SimpleNamespace(BaseModel=BaseModel),
    SimpleNamespace(CFGGuider=CFGGuider),
    SimpleNamespace(pause_malloc_graph=None),
)


def test_the_newest_core_can_all_of_it() -> None:
    found = probed(*NEWEST)
    assert found.override and found.containers and found.preferences and found.compiler
    assert found.call[: len(CALL)] == CALL and found.sample[: len(SAMPLE)] == SAMPLE
    line = "On ComfyUI: override yes, containers yes, preferences yes, memory compiler yes; functions pytorch."
    assert str(found) == line
    assert found.refusal(rule=True) is None


def test_an_older_core_has_no_preferences_and_no_compiler() -> None:
    attention = SimpleNamespace(wrap_attn=asking, AttentionTensorContainer=Container)
    found = probed(attention, *NEWEST[1:3], SimpleNamespace())
    assert (found.override, found.containers, found.preferences, found.compiler) == (True, True, False, False)
    assert not probed(SimpleNamespace(wrap_attn=asking), *NEWEST[1:]).containers


def test_what_a_core_does_not_have_is_no_error_of_the_probe() -> None:
    nothing = SimpleNamespace()
    found = probed(nothing, nothing, nothing, nothing)
    assert not (found.override or found.containers or found.preferences or found.compiler or found.functions)
    assert not probed(SimpleNamespace(wrap_attn=changed), *NEWEST[1:]).override


def attached(able: Capabilities, method: Any, model: Any) -> Any:
    return attach(model, method, Host(able=lambda: able))


def test_what_is_missing_is_refused_in_words(model: Any) -> None:
    patch = AttentionPatch("attn1.out", "zero")
    deaf = Capabilities("ComfyUI", override=False)
    with pytest.raises(RuntimeError, match="attention of ComfyUI does not ask an override, so no rule can choose it"):
        attached(deaf, Rule("basic"), model)
    assert attached(deaf, patch, model) is not model  # patches are no override
    moved = Capabilities("ComfyUI", call=("x", "options"))
    for method in (patch, Rule("basic")):
        with pytest.raises(RuntimeError, match=r"hands a wrapper of each call of a model \(x, options\), and Attent"):
            attached(moved, method, model)
