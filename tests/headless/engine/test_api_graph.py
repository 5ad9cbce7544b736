from __future__ import annotations

from collections.abc import Iterator

import pytest
from attention_patchbay.headless.api.session import Session
from attention_patchbay.headless.engine.api_graph import Executor
from attention_patchbay.headless.engine.errors import NodeError
from attention_patchbay.headless.engine.workflow import PromptError
from attention_patchbay.ldm_patched.modules import model_management

from ..nodes_for_tests import CATALOG, Number, Outside, Show, number, workflow


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    Number.runs.clear()
    Show.runs.clear()
    Outside.version[0] = 1
    yield
    model_management.interrupt_current_processing(False)


def executor() -> Executor:
    return Executor(CATALOG, Session())


def test_a_workflow_runs_each_node_once_after_its_sources() -> None:
    names: list[str] = []
    run = executor().run(workflow(), on_node=names.append)
    assert Show.runs == [5]
    assert run.ui["4"]["text"] == ["5"]
    assert sorted(run.ran) == ["1", "2", "3", "4"]
    assert "node 2 Number (Second)" in names


def test_an_unchanged_node_is_not_run_again() -> None:
    host = executor()
    host.run(workflow())
    run = host.run(workflow())
    assert run.ran == []
    assert run.ui["4"]["text"] == ["5"]
    assert Number.runs == [2, 3]
    run = host.run(workflow(n2=number(value=4)))
    assert Number.runs == [2, 3, 4]
    assert run.cached == ["1"]
    assert run.ui["4"]["text"] == ["6"]


def test_equal_nodes_share_a_result() -> None:
    run = executor().run(workflow(n2=number(value=2)))
    assert Number.runs == [2]
    assert run.ui["4"]["text"] == ["4"]


def test_a_change_outside_the_workflow_runs_the_node_again() -> None:
    host = executor()
    prompt = workflow(n1={"class_type": "Outside", "inputs": {}})
    assert host.run(prompt).ui["4"]["text"] == ["4"]
    assert host.run(prompt).ran == []
    Outside.version[0] = 2
    assert host.run(prompt).ui["4"]["text"] == ["5"]


def test_hidden_values_reach_the_node_and_do_not_stay_on_it() -> None:
    run = executor().run(workflow())
    assert run.ui["4"]["prompt"][0]["1"]["inputs"] == {"value": 2}
    assert Show.hidden is None


def test_a_failing_node_is_named_and_what_ran_before_is_kept() -> None:
    host = executor()
    with pytest.raises(NodeError, match="node 4 Show: thirteen") as caught:
        host.run(workflow(n1=number(value=10)))
    assert isinstance(caught.value.__cause__, RuntimeError)
    run = host.run(workflow(n1=number(value=10), n4={"class_type": "Show", "inputs": {"value": ["1", 0]}}))
    assert run.cached == ["1"]


def test_nothing_runs_when_the_workflow_is_wrong() -> None:
    with pytest.raises(PromptError):
        executor().run(workflow(n2=number(value=-1)))
    assert Number.runs == []


def test_an_interrupt_stops_before_the_next_node() -> None:
    def interrupt(name: str) -> None:
        model_management.interrupt_current_processing(True)

    with pytest.raises(model_management.InterruptProcessingException):
        executor().run(workflow(), on_node=interrupt)
    assert len(Number.runs) == 1
    assert Show.runs == []
