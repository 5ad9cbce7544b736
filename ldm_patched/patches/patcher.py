"""The model patcher, ComfyUI's or this library's: what is used of it here, and what its functions get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypedDict

from torch import Tensor

Patch = Callable[..., Any]  # each slot calls its patches in a way of its own
TransformerOptions = dict[str, Any]  # of a call of the model; nodes keep anything in them


class CfgArgs(TypedDict):
    """What a function of the combined prediction gets; latents are (b, c, h, w)."""

    model: Any
    model_options: dict[str, Any]
    input: Tensor
    sigma: Tensor
    cond: Any
    uncond: Any
    cond_denoised: Tensor
    uncond_denoised: Tensor
    denoised: Tensor


class Patcher(Protocol):
    """A handle on a model, with patches of its own: the MODEL of nodes."""

    model_options: dict[str, Any]
    wrappers: dict[str, dict[Any, list[Patch]]]  # by moment and key
    object_patches: dict[str, Any]  # by the path of what they replace in the model

    @property
    def model(self) -> Any:
        """Return the model, a class of the host's."""

    def clone(self) -> Patcher:
        """Return a handle on the same model with its own copy of every container."""

    def get_model_object(self, name: str, /) -> Any:
        """Return an attribute of the model as this handle will run it."""

    def add_object_patch(self, name: str, value: Any, /) -> None:
        """Put something in the place of an attribute of the model."""

    def set_model_patch(self, patch: Patch, slot: str, /) -> None:
        """Add a patch to a list."""

    def set_model_patch_replace(
        self, patch: Patch, slot: str, type: str, number: int, index: int | None = None, /
    ) -> None:
        """Put a patch in the place of the attention of a block."""

    def set_model_sampler_post_cfg_function(self, function: Patch, /) -> None:
        """Add a function that changes the denoised latent after guidance."""

    def add_wrapper_with_key(self, moment: str, key: str, wrapper: Patch, /) -> None:
        """Register a wrapper under a key."""

    def remove_wrappers_with_key(self, moment: str, key: str, /) -> None:
        """Remove the wrappers of a moment and key."""


class Executor(Protocol):
    """What a wrapper goes on inward with."""

    @property
    def class_obj(self) -> Any:
        """Return the object whose method the wrapper stands around."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...
