from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from attention_patchbay.headless.api.session import Session
from attention_patchbay.headless.engine.api_graph import Executor
from attention_patchbay.headless.engine.validate import validate, validate_outputs
from attention_patchbay.headless.engine.workflow import PromptError, assign, check
from attention_patchbay.headless.pages.workflow_file import load
from hypothesis import given, settings
from hypothesis import strategies as st

from ..nodes_for_tests import CATALOG, number, workflow


def refused(prompt: Any) -> PromptError:
    with pytest.raises(PromptError) as caught:
        validate(check(prompt), CATALOG)
    return caught.value


def test_a_good_workflow_gives_the_running_order() -> None:
    order = validate(workflow(), CATALOG)
    assert sorted(order) == ["1", "2", "3", "4"]
    assert order.index("3") > max(order.index("1"), order.index("2"))
    assert order[-1] == "4"


def test_nodes_that_no_output_needs_are_left_out() -> None:
    spare = {"class_type": "Number", "inputs": {"value": 99}}
    assert "9" not in validate(workflow(n9=spare), CATALOG)


@pytest.mark.parametrize(
    ("node", "type", "details"),
    [
        (number(), "required_input_missing", "value, for example 1"),
        (number(value="x"), "invalid_input_type", "value, 'x'"),
        (number(value=None), "invalid_input_type", "NoneType"),
        (number(value={"a": 1}), "invalid_input_type", "dict"),
        (number(value=1, factor=float("nan")), "invalid_input_type", "finite"),
        (number(value=1, factor=float("inf")), "invalid_input_type", "finite"),
        (number(value=1e400), "invalid_input_type", "value"),
        (number(value=-1), "value_smaller_than_min", "value"),
        (number(value=11), "value_bigger_than_max", "value"),
        (number(value=1, mode="negate"), "value_not_in_list", "did you mean negated?"),
        (number(value=1, mode=["1"]), "bad_linked_input", "mode"),
        (number(value=["7", 0]), "bad_linked_input", "value: 7"),
        (number(value=["3", 4]), "bad_linked_input", "output 4 of node 3 Add, which has 1"),
        (number(value=["3", True]), "bad_linked_input", "value"),
        (number(value=["5", 0]), "return_type_mismatch", "received_type(STRING) mismatch input_type(INT)"),
        (number(value=1, valeu=2), "unknown_input", "did you mean value?"),
    ],
)
def test_a_bad_input_is_refused_with_its_node_and_the_fix(node: Any, type: str, details: str) -> None:
    text = {"class_type": "Text", "inputs": {"text": "hello"}}
    nodes = {"1": number(value=1), "2": node, "3": {"class_type": "Add", "inputs": {"a": 1, "b": 2}}, "5": text}
    error = refused({**nodes, "6": {"class_type": "Show", "inputs": {"value": ["2", 0]}}})
    assert error.error["type"] == "prompt_outputs_failed_validation"
    (found,) = error.node_errors["2"]["errors"]
    assert found["type"] == type
    assert details in found["details"]
    assert set(found) == {"type", "message", "details", "extra_info"}
    assert error.node_errors["2"]["class_type"] == "Number"
    assert "node 2 Number" in str(error)


def test_every_error_is_reported_at_once() -> None:
    error = refused(workflow(n1=number(value=-1), n2=number(value=99, mode="x")))
    assert set(error.node_errors) == {"1", "2"}
    assert len(error.node_errors["2"]["errors"]) == 2


def test_a_node_may_refuse_its_values_itself() -> None:
    bad = {"class_type": "Text", "inputs": {"text": "LOUD"}}
    entry = {"class_type": "Show", "inputs": {"value": ["5", 0]}}
    found = refused(workflow(n5=bad, n6=entry)).node_errors["5"]["errors"][0]
    assert found["type"] == "custom_validation_failed"
    assert found["details"] == "text must not shout"


def test_what_a_page_wrote_for_itself_is_ignored() -> None:
    prompt = workflow(n1=number(value=1, upload="image", control_after_generate="fixed", speak_and_recognation=True))
    assert validate(prompt, CATALOG) == validate(workflow(), CATALOG)
    assert prompt["1"]["inputs"]["upload"] == "image"
    assert (
        refused(workflow(n1=number(value=1, upload=["2", 0]))).node_errors["1"]["errors"][0]["type"] == "unknown_input"
    )


def test_one_bad_output_does_not_refuse_the_good_ones() -> None:
    bad = {"n7": number(value=99), "n8": {"class_type": "Show", "inputs": {"value": ["7", 0]}}}
    order, errors = validate_outputs(workflow(**bad), CATALOG)
    assert sorted(order) == ["1", "2", "3", "4"] and list(errors) == ["7"]
    assert refused(workflow(**bad)).node_errors.keys() == {"7"}
    with pytest.raises(PromptError):
        validate_outputs({"7": number(value=99), "8": {"class_type": "Show", "inputs": {"value": ["7", 0]}}}, CATALOG)
    run = Executor(CATALOG, Session()).run(workflow(**bad))
    assert list(run.refused) == ["7"] and set(run.ui) == {"4"}


LONG = "x" * 10**6


SHOW = {"class_type": "Show", "inputs": {"value": ["1", 0]}}


@pytest.mark.parametrize(
    "prompt",
    [
        {LONG: number(value=99), "2": {"class_type": "Show", "inputs": {"value": [LONG, 0]}}},
        {"1": {"class_type": LONG, "inputs": {}}},
        {"1": {"class_type": "Show", "inputs": {"value": [LONG, 0]}}},
        {"1": number(value=LONG), "2": SHOW},
        {"1": number(value=1, mode=LONG), "2": SHOW},
        {"1": number(**{"value": 1, f"value{LONG}": 1}), "2": SHOW},
        {"1": {**number(), "_meta": {"title": LONG}}, "2": SHOW},
        {LONG: 3},
    ],
)
def test_no_error_is_longer_than_a_page(prompt: Any) -> None:
    try:
        validate(check(prompt), CATALOG)
    except PromptError as error:
        assert len(str(error)) < 5000
        texts = [entry for node in error.node_errors.values() for entry in node["errors"]]
        assert all(len(json.dumps(entry)) < 10_000 for entry in texts)


def test_values_are_converted_and_unwrapped() -> None:
    prompt = workflow(n1=number(value="3"), n2=number(value={"__value__": 2.0}))
    validate(prompt, CATALOG)
    assert prompt["1"]["inputs"]["value"] == 3
    assert prompt["2"]["inputs"]["value"] == 2
    assert isinstance(prompt["2"]["inputs"]["value"], int)


def test_an_unknown_node_is_named_with_the_nearest_one() -> None:
    error = refused(workflow(n2={"class_type": "Numbre", "inputs": {}}))
    assert error.error["type"] == "missing_node_type"
    assert error.error["extra_info"]["node_id"] == "2"
    assert "did you mean Number?" in str(error)


@pytest.mark.parametrize("class_type", [None, 3, ["Number"]])
def test_a_node_without_a_class_is_refused(class_type: Any) -> None:
    assert refused(workflow(n2={"class_type": class_type, "inputs": {}})).error["type"] == "missing_node_type"


def test_a_workflow_without_outputs_is_refused() -> None:
    assert refused({"1": number(value=1)}).error["type"] == "prompt_no_outputs"


def test_a_cycle_is_named() -> None:
    loop = {"class_type": "Add", "inputs": {"a": ["3", 0], "b": 1}}
    back = {"class_type": "Add", "inputs": {"a": ["5", 0], "b": 1}}
    error = refused(workflow(n3=back, n5=loop))
    assert error.error["type"] == "dependency_cycle"
    assert error.error["extra_info"]["cycle_nodes"] == ["3", "5", "3"]
    assert "3 -> 5 -> 3" in str(error)


def test_a_node_linked_to_itself_is_a_cycle() -> None:
    itself = {"class_type": "Add", "inputs": {"a": ["3", 0], "b": 1}}
    assert refused(workflow(n3=itself)).error["extra_info"]["cycle_nodes"] == ["3", "3"]


def test_a_chain_of_thousands_of_nodes_is_no_problem() -> None:
    nodes = {str(i): {"class_type": "Add", "inputs": {"a": [str(i - 1), 0], "b": 1}} for i in range(1, 5000)}
    nodes["0"] = number(value=1)
    nodes["end"] = {"class_type": "Show", "inputs": {"value": ["4999", 0]}}
    assert len(validate(check(nodes), CATALOG)) == 5001


# Files and settings


def test_a_text_is_set_as_it_is_written() -> None:
    prompt = workflow(n5={"class_type": "Text", "inputs": {"text": ""}})
    for text, value in (("1.50", "1.50"), ("true", "true"), ('"a"', "a"), ("null", "null"), ("[1]", "[1]"), ("x", "x")):
        assign(prompt, [f"5.text={text}"], {"Text": {"text": "STRING"}}.get)
        assert prompt["5"]["inputs"]["text"] == value
    assign(prompt, ["1.value=7"], {}.get)
    assert prompt["1"]["inputs"]["value"] == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100000, "is not JSON"),
        ("[]", "This is not a workflow"),
        ("{}", "This is not a workflow"),
        ('"text"', "This is not a workflow"),
        ('{"1": 2}', "node '1' is not an object"),
        ('{"1": {"class_type": "Number", "inputs": []}}', "is not an object"),
        ('{"nodes": [], "links": []}', "This is not a workflow"),  # the page's own, empty
    ],
)
def test_a_file_that_is_no_workflow_is_refused(tmp_path: Any, content: str, message: str) -> None:
    path = tmp_path / "workflow.json"
    path.write_text(content)
    with pytest.raises(PromptError) as caught:
        load(path, dict)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Any) -> None:
    with pytest.raises(PromptError, match=r"No such workflow file: .*nothing\.json"):
        load(tmp_path / "nothing.json", dict)


def test_the_entry_around_a_workflow_is_taken_off(tmp_path: Any) -> None:
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps({"prompt": workflow(), "client_id": "x"}))
    assert load(path, dict) == workflow()


def test_inputs_are_set_by_id_class_and_title() -> None:
    prompt = workflow()
    assign(prompt, ["1.value=7", "Second.value=8", "Add.b=text", "4.value=[1, 2]"])
    assert prompt["1"]["inputs"]["value"] == 7
    assert prompt["2"]["inputs"]["value"] == 8
    assert prompt["3"]["inputs"]["b"] == "text"
    assert prompt["4"]["inputs"]["value"] == [1, 2]


def test_an_input_that_a_class_has_not_is_refused_and_its_inputs_are_named() -> None:
    prompt = workflow(n5={"class_type": "Elsewhere", "inputs": {}}, n6={"class_type": "None", "inputs": {"own": 1}})
    types = {"Number": {"value": "INT", "factor": "FLOAT"}, "None": {}}.get
    for setting, why in (("1.nope=1", "Number has no input 'nope'; it has value, factor"), ("6.a=1", "it has none")):
        with pytest.raises(PromptError, match=re.escape(f"--set {setting} cannot be applied: ") + f".*{why}"):
            assign(prompt, [setting], types)
    assign(prompt, ["1.factor=2", "5.any=3", "6.own=4"], types)  # unknown classes, and what the page put there
    assert [prompt[id]["inputs"] for id in "156"] == [{"value": 2, "factor": 2}, {"any": 3}, {"own": 4}]


@pytest.mark.parametrize(
    ("setting", "message"),
    [("Number.value=1", "2 nodes match"), ("9.value=1", "no node has that id"), ("1.value", "NODE.input=value")],
)
def test_a_setting_that_fits_no_node_is_refused(setting: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        assign(workflow(), [setting])


def test_not_a_number_stays_text() -> None:
    prompt = workflow()
    assign(prompt, ["1.value=NaN", "2.value=1e999"])
    assert prompt["1"]["inputs"]["value"] == "NaN"
    assert prompt["2"]["inputs"]["value"] == "1e999"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
ids = st.sampled_from(["1", "2", "3", "4", "5"])
links = st.tuples(ids, st.integers(-1, 2)).map(list)
nodes = st.fixed_dictionaries(
    {
        "class_type": st.sampled_from([*CATALOG, "Nothing"]) | json_values,
        "inputs": st.dictionaries(
            st.sampled_from(["value", "a", "b", "text", "mode"]), links | json_values, max_size=3
        ),
    }
)


@settings(max_examples=300)
@given(st.dictionaries(ids, nodes | json_values, max_size=5) | json_values)
def test_any_json_is_a_workflow_or_a_prompt_error(data: Any) -> None:
    start = time.perf_counter()
    try:
        order = validate(check(data), CATALOG)
    except PromptError as error:
        assert str(error)
        json.dumps({"error": error.error, "node_errors": error.node_errors}, default=repr)
    else:
        assert order
    assert time.perf_counter() - start < 1.0
