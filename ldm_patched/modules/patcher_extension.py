"""Names and call order of the wrappers and callbacks a model patcher can carry."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

D = TypeVar("D", bound=dict[Any, Any])
Function = Callable[..., Any]  # each moment and slot calls its functions in a way of its own
Options = dict[str, Any]  # of a model, or of a call: they hold anything
Registry = dict[str, dict["str | None", list[Function]]]


class CallbacksMP:
    """Moments at which a patcher calls the functions registered with it."""

    ON_CLONE = "on_clone"
    ON_LOAD = "on_load_after"
    ON_DETACH = "on_detach_after"
    ON_CLEANUP = "on_cleanup"
    ON_PRE_RUN = "on_pre_run"
    ON_PREPARE_STATE = "on_prepare_state"


class WrappersMP:
    """Functions of the sampling path that a wrapper can stand around, outermost first."""

    OUTER_SAMPLE = "outer_sample"
    PREPARE_SAMPLING = "prepare_sampling"
    SAMPLER_SAMPLE = "sampler_sample"
    PREDICT_NOISE = "predict_noise"
    CALC_COND_BATCH = "calc_cond_batch"
    APPLY_MODEL = "apply_model"
    DIFFUSION_MODEL = "diffusion_model"


def _options(options: Options, is_model_options: bool) -> Options:
    inner: Options = options.setdefault("transformer_options", {}) if is_model_options else options
    return inner


def _add(
    family: str, call_type: str, key: str | None, function: Function, options: Options, is_model_options: bool
) -> None:
    registry: Registry = _options(options, is_model_options).setdefault(family, {})
    registry.setdefault(call_type, {}).setdefault(key, []).append(function)


def _get(
    family: str, call_type: str, options: Options | None, is_model_options: bool
) -> dict[str | None, list[Function]]:
    options = options or {}
    if is_model_options:
        options = options.get("transformer_options", {})
    registry: Registry = options.get(family, {})
    return registry.get(call_type, {})


def add_callback(
    call_type: str, callback: Function, transformer_options: Options, is_model_options: bool = False
) -> None:
    """Register a callback without a key in an options dict."""
    _add("callbacks", call_type, None, callback, transformer_options, is_model_options)


def add_callback_with_key(
    call_type: str, key: str | None, callback: Function, transformer_options: Options, is_model_options: bool = False
) -> None:
    """Register a callback under a key in an options dict."""
    _add("callbacks", call_type, key, callback, transformer_options, is_model_options)


def get_callbacks_with_key(
    call_type: str, key: str | None, transformer_options: Options | None, is_model_options: bool = False
) -> list[Function]:
    """Return the callbacks of one kind and key."""
    return list(_get("callbacks", call_type, transformer_options, is_model_options).get(key, []))


def get_all_callbacks(
    call_type: str, transformer_options: Options | None, is_model_options: bool = False
) -> list[Function]:
    """Return the callbacks of one kind, all keys, in insertion order."""
    return flatten(_get("callbacks", call_type, transformer_options, is_model_options))


def add_wrapper(
    wrapper_type: str, wrapper: Function, transformer_options: Options, is_model_options: bool = False
) -> None:
    """Register a wrapper without a key in an options dict."""
    _add("wrappers", wrapper_type, None, wrapper, transformer_options, is_model_options)


def add_wrapper_with_key(
    wrapper_type: str, key: str | None, wrapper: Function, transformer_options: Options, is_model_options: bool = False
) -> None:
    """Register a wrapper under a key in an options dict."""
    _add("wrappers", wrapper_type, key, wrapper, transformer_options, is_model_options)


def get_wrappers_with_key(
    wrapper_type: str, key: str | None, transformer_options: Options | None, is_model_options: bool = False
) -> list[Function]:
    """Return the wrappers of one kind and key."""
    return list(_get("wrappers", wrapper_type, transformer_options, is_model_options).get(key, []))


def get_all_wrappers(
    wrapper_type: str, transformer_options: Options | None, is_model_options: bool = False
) -> list[Function]:
    """Return the wrappers of one kind, all keys, in insertion order."""
    return flatten(_get("wrappers", wrapper_type, transformer_options, is_model_options))


def flatten(keyed: dict[str | None, list[Function]]) -> list[Function]:
    """Join the lists of every key in insertion order."""
    return [function for functions in keyed.values() for function in functions]


class WrapperExecutor:
    """Call a function through a list of wrappers, the first one outermost.

    A wrapper is called as `wrapper(executor, *args, **kwargs)` and goes on inward with `executor(*args, **kwargs)`;
    `executor.original` is the innermost function and `executor.class_obj` the object whose method it is, if any.
    """

    def __init__(self, original: Function, class_obj: object | None, wrappers: list[Function], idx: int = 0) -> None:
        self.original = original
        self.class_obj = class_obj
        self.wrappers = list(wrappers)
        self.idx = idx
        self.is_last = idx >= len(self.wrappers)

    @classmethod
    def new_executor(cls, original: Function, wrappers: list[Function], idx: int = 0) -> WrapperExecutor:
        """Build an executor around a plain function."""
        return cls(original, None, wrappers, idx)

    @classmethod
    def new_class_executor(
        cls, original: Function, class_obj: object, wrappers: list[Function], idx: int = 0
    ) -> WrapperExecutor:
        """Build an executor around a method of `class_obj`."""
        return cls(original, class_obj, wrappers, idx)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Go one wrapper further inward; this is what a wrapper calls."""
        return WrapperExecutor(self.original, self.class_obj, self.wrappers, self.idx + 1).execute(*args, **kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Start the chain at this executor's own position; wrappers call the executor itself instead."""
        if self.is_last:
            return self.original(*args, **kwargs)
        return self.wrappers[self.idx](self, *args, **kwargs)


def copy_nested_dicts(value: D) -> D:
    """Copy the dicts, lists and sets of a nested options dict and share everything else."""
    copied: D = copy_containers(value)
    return copied


def copy_containers(value: Any) -> Any:
    """Copy nested dicts, lists and sets, subclasses too; tensors, callables and other objects stay the same objects."""
    if isinstance(value, dict):
        copied_dict = copy.copy(value)
        copied_dict.update({key: copy_containers(item) for key, item in value.items()})
        return copied_dict
    if isinstance(value, list):
        copied_list = copy.copy(value)
        copied_list[:] = [copy_containers(item) for item in value]
        return copied_list
    return copy.copy(value) if isinstance(value, set) else value


def merge_nested_dicts(base: D, other: dict[Any, Any], copy_dict1: bool = True) -> D:
    """Merge `other` into `base`: dicts recurse, lists are appended, anything else replaces.

    Args:
        copy_dict1: merge into a copy of `base`; when false `base` itself is changed and returned.
    """
    merged = copy_nested_dicts(base) if copy_dict1 else base
    for key, value in other.items():
        if isinstance(value, dict):
            merged[key] = merge_nested_dicts(merged.get(key, {}), value)
        elif isinstance(value, list):
            merged[key] = merged.get(key, []) + value
        else:
            merged[key] = value
    return merged
