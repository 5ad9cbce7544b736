"""A model together with everything a graph has attached to it, none of which changes the model until it runs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import model_management
from .model_hooks import ModelHooks
from .ops import CastWeight
from .patcher_extension import CallbacksMP, Function, Registry, copy_containers, copy_nested_dicts, flatten
from .weight_patches import WeightPatch, calculate_weight

Device = torch.device | str


class ModelPatcher(ModelHooks):
    """A handle on a shared model: options, patches, wrappers and callbacks that are this handle's own.

    `clone` copies every container and shares what is in them, so two branches of a graph never see each other's
    changes. The model itself is changed only between `patch_model` and `unpatch_model`, by one handle at a time.
    """

    def __init__(self, model: nn.Module, load_device: Device, offload_device: Device, size: int = 0) -> None:
        self.model: Any = model
        self.load_device = torch.device(load_device)
        self.offload_device = torch.device(offload_device)
        self.size = size
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.patches: dict[str, list[WeightPatch]] = {}
        self.patches_uuid = uuid.uuid4()
        self.object_patches: dict[str, Any] = {}
        self.attachments: dict[str, Any] = {}
        self.callbacks: Registry = {}
        self.wrappers: Registry = {}
        self.parent: ModelPatcher | None = None
        self.backup: dict[str, nn.Parameter] = {}
        self.object_patches_backup: dict[str, Any] = {}
        self.unhooked: dict[str, nn.Parameter] = {}

    # Identity

    def clone(self) -> ModelPatcher:
        """Return a handle on the same model with its own copy of every container."""
        other = type(self)(self.model, self.load_device, self.offload_device, self.size)
        other.model_options = copy_nested_dicts(self.model_options)
        other.patches = copy_nested_dicts(self.patches)
        other.patches_uuid = self.patches_uuid
        other.object_patches = dict(self.object_patches)
        other.attachments = {key: _clone_attachment(value) for key, value in self.attachments.items()}
        other.callbacks = copy_nested_dicts(self.callbacks)
        other.wrappers = copy_nested_dicts(self.wrappers)
        other.parent = self
        for callback in self.get_all_callbacks(CallbacksMP.ON_CLONE):
            callback(self, other)
        return other

    def is_clone(self, other: object) -> bool:
        """Return whether another handle is on the same model."""
        return getattr(other, "model", None) is self.model

    def clone_has_same_weights(self, clone: ModelPatcher) -> bool:
        """Return whether another handle would give the model the same weights."""
        return self.is_clone(clone) and self.patches_uuid == clone.patches_uuid

    def model_size(self) -> int:
        """Return the bytes of the model's parameters and buffers."""
        if self.size <= 0:
            tensors = [*self.model.parameters(), *self.model.buffers()]
            self.size = sum(t.numel() * t.element_size() for t in tensors)
        return self.size

    def model_dtype(self) -> torch.dtype:
        """Return the dtype the model's weights are kept in."""
        get_dtype = getattr(self.model, "get_dtype", None)
        dtype: torch.dtype = get_dtype() if get_dtype is not None else next(self.model.parameters()).dtype
        return dtype

    def current_loaded_device(self) -> torch.device:
        """Return the device the weights are on now."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def memory_required(self, input_shape: list[int]) -> float:
        """Estimate the bytes one call with a latent of this shape needs."""
        size: float = self.model.memory_required(input_shape)
        return size

    def get_free_memory(self, device: torch.device) -> float:
        """Return the bytes free for a batch on a device."""
        return cast(float, model_management.get_free_memory(device))

    # Objects and weights

    def add_object_patch(self, name: str, obj: Any) -> None:
        """Replace an attribute of the model, addressed with dots, while it runs."""
        self.object_patches[name] = obj

    def get_model_object(self, name: str) -> Any:
        """Return an attribute of the model as this handle will run it."""
        if name in self.object_patches:
            return self.object_patches[name]
        owner = self._owner()
        if owner is not None and name in owner.object_patches_backup:
            return owner.object_patches_backup[name]
        return get_attr(self.model, name)

    def add_patches(
        self, patches: Mapping[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        """Add weight patches by state-dict key or `(key, offset, function)`; return the keys the model has."""
        known = self.model.state_dict().keys()
        added = []
        for address, value in patches.items():
            key, offset, function = (address, None, None) if isinstance(address, str) else (*address, None)[:3]
            if key in known:
                patch = WeightPatch(strength_patch, value, strength_model, offset, function)
                self.patches.setdefault(key, []).append(patch)
                added.append(address)
        self.patches_uuid = uuid.uuid4()
        return added

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list[Any]]:
        """Return, per key, the unpatched weight as `(weight, identity)` followed by this handle's patches."""
        owner = self._owner()
        backup = {**owner.unhooked, **owner.backup} if owner is not None else {}
        weights = self.model_state_dict(filter_prefix)
        return {
            key: [(self.full_weight(key, backup.get(key, weight)), _identity), *self.patches.get(key, [])]
            for key, weight in weights.items()
        }

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, Tensor]:
        """Return the model's current state dict, or the part of it under a prefix."""
        return {k: v for k, v in self.model.state_dict().items() if k.startswith(filter_prefix or "")}

    def full_weight(self, key: str, weight: Tensor) -> Tensor:
        """Return a weight as the numbers that it stands for: its layer knows what fp8 ones are multiplied by."""
        path, _, name = key.rpartition(".")
        layer = get_attr(self.model, path) if path else self.model
        return layer.full_weight(weight) if isinstance(layer, CastWeight) and name == "weight" else weight

    def _owner(self) -> ModelPatcher | None:
        """Return the handle whose patches are in the model now."""
        return getattr(self.model, "patched_by", None)

    def patch_model(self, device_to: Device | None = None, load_weights: bool = True) -> Any:
        """Put this handle's object and weight patches into the model and move it; another handle's are taken out."""
        owner = self._owner()
        if owner is not None:
            owner.unpatch_model()
        self.model.patched_by = self
        for name, value in self.object_patches.items():
            self.object_patches_backup[name] = set_attr(self.model, name, value)
        if load_weights:
            if device_to is not None:
                self.model.to(device_to)
            for key, patches in self.patches.items():
                self._patch_weight(key, patches)
            for callback in self.get_all_callbacks(CallbacksMP.ON_LOAD):
                callback(self, device_to, 0, False, True)
        return self.model

    def _patch_weight(self, key: str, patches: list[WeightPatch]) -> None:
        original = get_attr(self.model, key)
        self.backup[key] = original
        patched = calculate_weight(patches, self.full_weight(key, original), key)
        set_attr(self.model, key, nn.Parameter(patched, requires_grad=False))

    def hook_weights(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Put weights into the patched model in the place of its own, and those of an earlier call out again."""
        for key, own in self.unhooked.items():
            set_attr(self.model, key, own)
        self.unhooked.clear()
        for key, weight in weights.items():
            self.unhooked[key] = get_attr(self.model, key)
            set_attr(self.model, key, weight)

    def unpatch_model(self, device_to: Device | None = None, unpatch_weights: bool = True) -> None:
        """Take this handle's patches out again; every weight is the very tensor it was before."""
        if unpatch_weights:
            self.hook_weights({})
            for key, original in self.backup.items():
                set_attr(self.model, key, original)
            self.backup.clear()
        for name, original in self.object_patches_backup.items():
            set_attr(self.model, name, original)
        self.object_patches_backup.clear()
        if self._owner() is self and not self.backup:
            self.model.patched_by = None
        if device_to is not None:
            self.model.to(device_to)

    def detach(self, unpatch_all: bool = True) -> Any:
        """Take the patches out and move the model to the offload device."""
        if unpatch_all:
            self.unpatch_model(self.offload_device)
        for callback in self.get_all_callbacks(CallbacksMP.ON_DETACH):
            callback(self, unpatch_all)
        return self.model

    # A run

    def pre_run(self) -> None:
        """Tell the callbacks that sampling starts."""
        self.model.current_patcher = self
        for callback in self.get_all_callbacks(CallbacksMP.ON_PRE_RUN):
            callback(self)

    def prepare_state(self, timestep: Tensor, model_options: dict[str, Any]) -> None:
        """Tell the callbacks that a step's conditionings are about to be evaluated."""
        for callback in self.get_all_callbacks(CallbacksMP.ON_PREPARE_STATE):
            callback(self, timestep, model_options)

    def cleanup(self) -> None:
        """Tell the patches and the callbacks that sampling has ended, also when it failed."""
        for patch in self._patch_objects():
            if hasattr(patch, "cleanup"):
                patch.cleanup()
        self.model.current_patcher = None
        for callback in self.get_all_callbacks(CallbacksMP.ON_CLEANUP):
            callback(self)

    def model_patches_models(self) -> list[Any]:
        """Return the models that patch objects bring along."""
        return [model for patch in self._patch_objects() if hasattr(patch, "models") for model in patch.models()]

    def model_patches_to(self, target: Any) -> None:
        """Move patch objects that have a `to` method to a device or dtype."""
        for container in self._patch_containers():
            items = container.items() if isinstance(container, dict) else enumerate(container)
            for key, patch in list(items):
                if hasattr(patch, "to"):
                    container[key] = patch.to(target)

    def _patch_containers(self) -> list[Any]:
        options = self._transformer_options
        return [*options.get("patches", {}).values(), *options.get("patches_replace", {}).values()]

    def _patch_objects(self) -> list[Any]:
        containers = self._patch_containers()
        patches = [p for c in containers for p in (c.values() if isinstance(c, dict) else c)]
        wrapper = self.model_options.get("model_function_wrapper")
        return patches if wrapper is None else [*patches, wrapper]

    # Callbacks, wrappers, attachments

    def add_callback(self, call_type: str, callback: Function) -> None:
        """Register a callback without a key."""
        self.add_callback_with_key(call_type, None, callback)

    def add_callback_with_key(self, call_type: str, key: str | None, callback: Function) -> None:
        """Register a callback under a key."""
        self.callbacks.setdefault(call_type, {}).setdefault(key, []).append(callback)

    def remove_callbacks_with_key(self, call_type: str, key: str | None) -> None:
        """Remove the callbacks of one kind and key."""
        self.callbacks.get(call_type, {}).pop(key, None)

    def get_callbacks(self, call_type: str, key: str | None) -> list[Function]:
        """Return the callbacks of one kind and key."""
        return self.callbacks.get(call_type, {}).get(key, [])

    def get_all_callbacks(self, call_type: str) -> list[Function]:
        """Return the callbacks of one kind, all keys."""
        return flatten(self.callbacks.get(call_type, {}))

    def add_wrapper(self, wrapper_type: str, wrapper: Function) -> None:
        """Register a wrapper without a key."""
        self.add_wrapper_with_key(wrapper_type, None, wrapper)

    def add_wrapper_with_key(self, wrapper_type: str, key: str | None, wrapper: Function) -> None:
        """Register a wrapper under a key."""
        self.wrappers.setdefault(wrapper_type, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, wrapper_type: str, key: str | None) -> None:
        """Remove the wrappers of one kind and key."""
        self.wrappers.get(wrapper_type, {}).pop(key, None)

    def get_wrappers(self, wrapper_type: str, key: str | None) -> list[Function]:
        """Return the wrappers of one kind and key."""
        return self.wrappers.get(wrapper_type, {}).get(key, [])

    def get_all_wrappers(self, wrapper_type: str) -> list[Function]:
        """Return the wrappers of one kind, all keys."""
        return flatten(self.wrappers.get(wrapper_type, {}))

    def set_attachments(self, key: str, attachment: Any) -> None:
        """Keep an object with this handle and its clones."""
        self.attachments[key] = attachment

    def get_attachment(self, key: str) -> Any:
        """Return an attached object, or None."""
        return self.attachments.get(key)

    def remove_attachments(self, key: str) -> None:
        """Drop an attached object."""
        self.attachments.pop(key, None)


def get_attr(obj: Any, name: str) -> Any:
    """Return an attribute addressed with dots."""
    for part in name.split("."):
        obj = getattr(obj, part)
    return obj


def set_attr(obj: Any, name: str, value: Any) -> Any:
    """Set an attribute addressed with dots and return what was there."""
    path, _, last = name.rpartition(".")
    holder = get_attr(obj, path) if path else obj
    previous = getattr(holder, last)
    setattr(holder, last, value)
    return previous


def _identity(weight: Tensor, **kwargs: Any) -> Tensor:
    return weight


def _clone_attachment(value: Any) -> Any:
    clone = getattr(value, "on_model_patcher_clone", None)
    return clone() if clone is not None else copy_containers(value)
