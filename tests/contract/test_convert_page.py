"""Convert ComfyUI's own templates, and compare with what its page sends of them."""

from __future__ import annotations

import copy
import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from attention_patchbay.headless.engine.validate import validate
from attention_patchbay.headless.engine.workflow import PromptError
from attention_patchbay.headless.pages.convert import to_api, to_page
from attention_patchbay.headless.pages.described import described
from attention_patchbay.headless.pages.page_widgets import inputs_of

from .comfyui_server import FRONTENDS, Server
from .pages import MARKS, PAGE_SECONDS, driven

pytestmark = MARKS
CHILD = Path(__file__).with_name("convert_child.py")
EVERY = int(os.environ.get("PATCHBAY_TEMPLATES_EVERY", "8"))
MADE = {"refresh", "image"}  # a button and a view that the page makes and that no class declares
DRAWN = {"Load3D"}  # sends a picture that the page draws at that moment

Prompt = dict[str, tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module", params=FRONTENDS or [None], ids=lambda folder: Path(folder or "installed").name)
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any]]:
    frontend = ["--front-end-root", request.param] if request.param else []
    folder = tmp_path_factory.mktemp("convert")
    with Server(folder / "base", *frontend) as server:
        infos = server.get("/object_info")
        found = driven("convert_child.py", folder, server.url, str(EVERY), seconds=2 * PAGE_SECONDS)
        for entry in found.values():
            entry["answer"] = server.post_prompt(entry["sent"])[1]
            for path, body in (("/queue", b'{"clear": true}'), ("/interrupt", b"{}")):  # what it took need not run
                urllib.request.urlopen(urllib.request.Request(server.url + path, body), timeout=30).close()
    known = {
        name: entry for name, entry in found.items() if all(n["class_type"] in infos for n in entry["sent"].values())
    }
    assert len(known) * EVERY > 200  # the others have nodes that call services
    return infos, known


def bare(prompt: Mapping[str, Any]) -> Prompt:
    return {id: (node["class_type"], node["inputs"]) for id, node in prompt.items() if node["class_type"] not in DRAWN}


def test_what_the_page_saves_is_converted_as_it_sends_it(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    infos, known = results
    for name, entry in known.items():
        found, sent = bare(to_api(entry["saved"], infos)), bare(entry["sent"])
        assert {id: sent[id] for id in found} == found, name
        alive = {value[0] for _, inputs in found.values() for value in inputs.values() if isinstance(value, list)}
        assert not alive & (sent.keys() - found.keys()), name


def test_a_list_of_values_is_enough(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    infos, known = results
    for name, entry in known.items():
        found, sent = bare(to_api(nameless(entry["saved"]), infos)), bare(entry["sent"])
        for id, (type, inputs) in found.items():
            made = {input for input in sent[id][1] if input not in inputs}
            assert made <= MADE and {**sent[id][1], **inputs} == sent[id][1], (name, id, type)


def nameless(workflow: dict[str, Any]) -> dict[str, Any]:
    """Return a workflow as pages before 1.49 kept it: without the names of values."""
    workflow = copy.deepcopy(workflow)
    for graph in (workflow, *(workflow.get("definitions") or {}).get("subgraphs", [])):
        for node in graph["nodes"]:
            if node["type"] not in {part["id"] for part in (workflow.get("definitions") or {}).get("subgraphs", [])}:
                node.pop("widgets_values_named", None)
    return workflow


def test_templates_as_they_are_lead_to_the_same_nodes(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    infos, known = results
    same = 0
    for name, entry in known.items():
        version = entry["saved"]["extra"]["frontendVersion"]
        file = {**entry["file"], "extra": {**(entry["file"].get("extra") or {}), "frontendVersion": version}}
        found, sent = to_api(file, infos), entry["sent"]
        if found.keys() != sent.keys():
            continue  # the page gave nodes with the same number new ones
        same += 1
        for id, (type, inputs) in bare(sent).items():
            declared = {input for input, _ in inputs_of(infos[type])}
            wanted = {input: value for input, value in inputs.items() if input.split(".")[0] in declared}
            ours = {input: value for input, value in found[id]["inputs"].items() if input.split(".")[0] in declared}
            assert ours == wanted, (name, id, type)
    assert same > 0.9 * len(known)


def test_the_way_back_leads_to_the_same_workflow(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    infos, known = results
    for name, entry in known.items():
        sent = entry["sent"]
        numbers = {id: str(number) for number, id in enumerate(sent, 1)}
        page = to_page(sent, infos) | {"extra": entry["saved"]["extra"]}
        found = bare(to_api(page, infos))
        for id, (type, inputs) in bare(sent).items():
            links = {input: value for input, value in inputs.items() if isinstance(value, list)}
            renumbered = {input: [numbers[value[0]], value[1]] for input, value in links.items()}
            assert found[numbers[id]] == (type, {**inputs, **renumbered}), (name, id, type)


def test_what_the_server_refuses_is_found_without_it(results: tuple[dict[str, Any], dict[str, Any]]) -> None:
    infos, known = results
    nodes, refused = described(infos), 0
    for name, entry in known.items():
        answer = entry["answer"].get("node_errors") or {}
        theirs = {(id, error["type"], place(error)) for id, node in answer.items() for error in node["errors"]}
        theirs = {error for error in theirs if error[1] != "custom_validation_failed" and "." not in str(error[2])}
        ours: set[tuple[str, str, Any]] = set()
        try:
            validate(copy.deepcopy(entry["sent"]), nodes, strict=False)
        except PromptError as found:
            ours = {(id, e["type"], place(e)) for id, node in found.node_errors.items() for e in node["errors"]}
        assert ours == theirs, name
        refused += bool(theirs)
    assert refused > 0.3 * len(known)


def place(error: Mapping[str, Any]) -> Any:
    return (error.get("extra_info") or {}).get("input_name")
