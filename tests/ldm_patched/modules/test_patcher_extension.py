"""Wrappers nest outside in, and option dicts are copied and merged without sharing."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any

from attention_patchbay.ldm_patched.modules import patcher_extension as ext


def test_wrappers_run_outermost_first_and_can_change_everything() -> None:
    log: list[str] = []

    def wrapper(name: str) -> Any:
        def run(executor: ext.WrapperExecutor, x: int, scale: int = 1) -> int:
            log.append(f"{name} in {x} {executor.class_obj}")
            result = executor(x + 1, scale=scale)
            log.append(f"{name} out {result}")
            return result * 10

        return run

    executor = ext.WrapperExecutor.new_class_executor(lambda x, scale: x * scale, "owner", [wrapper("a"), wrapper("b")])
    assert executor.execute(1, scale=5) == 1500
    assert log == ["a in 1 owner", "b in 2 owner", "b out 15", "a out 150"]


def test_a_wrapper_may_call_inward_twice_or_never() -> None:
    def twice(executor: ext.WrapperExecutor, x: int) -> int:
        return executor(x) + executor(x + 1)

    assert ext.WrapperExecutor.new_executor(lambda x: x * x, [twice, twice]).execute(1) == 1 + 4 + 4 + 9
    assert ext.WrapperExecutor.new_executor(lambda x: x, [lambda executor, x: "skipped"]).execute(1) == "skipped"
    assert ext.WrapperExecutor.new_executor(lambda x: x, []).execute(1) == 1


def test_option_functions_register_under_a_key() -> None:
    model_options: dict[str, Any] = {}
    ext.add_wrapper(ext.WrappersMP.APPLY_MODEL, print, model_options, is_model_options=True)
    ext.add_wrapper_with_key(ext.WrappersMP.APPLY_MODEL, "k", len, model_options, is_model_options=True)
    ext.add_callback_with_key(ext.CallbacksMP.ON_PRE_RUN, "k", max, model_options["transformer_options"])
    ext.add_callback(ext.CallbacksMP.ON_PRE_RUN, min, model_options["transformer_options"])
    options = model_options["transformer_options"]
    assert ext.get_all_wrappers(ext.WrappersMP.APPLY_MODEL, options) == [print, len]
    assert ext.get_wrappers_with_key(ext.WrappersMP.APPLY_MODEL, "k", model_options, is_model_options=True) == [len]
    assert ext.get_all_callbacks(ext.CallbacksMP.ON_PRE_RUN, options) == [max, min]
    assert ext.get_callbacks_with_key(ext.CallbacksMP.ON_PRE_RUN, None, options) == [min]
    assert ext.get_all_wrappers(ext.WrappersMP.OUTER_SAMPLE, None) == []


def test_copies_share_no_container() -> None:
    original = {"a": {"b": [1, {"c": [2]}]}, "s": {1}, "f": print, "t": (1, [2])}
    copy = ext.copy_nested_dicts(original)
    assert copy == original
    copy["a"]["b"][1]["c"].append(3)
    copy["s"].add(2)
    assert original == {"a": {"b": [1, {"c": [2]}]}, "s": {1}, "f": print, "t": (1, [2])}


def test_subclasses_of_containers_are_copied_as_what_they_are() -> None:
    original = {"counts": defaultdict(list, a=[1]), "ordered": OrderedDict(b=2)}
    copy = ext.copy_nested_dicts(original)
    copy["counts"]["a"].append(2)
    copy["counts"]["new"].append(3)
    assert original["counts"] == {"a": [1]} and copy["counts"] == {"a": [1, 2], "new": [3]}
    assert type(copy["ordered"]) is OrderedDict and copy["ordered"] is not original["ordered"]


def test_merging_appends_lists_and_replaces_values() -> None:
    base = {"patches": {"x": [1], "y": [2]}, "override": "old"}
    other = {"patches": {"x": [3], "z": [4]}, "override": "new"}
    merged = ext.merge_nested_dicts(base, other)
    assert merged == {"patches": {"x": [1, 3], "y": [2], "z": [4]}, "override": "new"}
    merged["patches"]["z"].append(5)
    assert other["patches"]["z"] == [4]
    assert base == {"patches": {"x": [1], "y": [2]}, "override": "old"}
    assert ext.merge_nested_dicts(base, other, copy_dict1=False) is base
    assert base["patches"]["x"] == [1, 3]
