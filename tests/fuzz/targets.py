"""What reads data from strangers: each target takes bytes and ends in a result or in an error of its own, soon."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attention_patchbay.headless.api.folders import Folders, inside
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.headless.client.answers import as_dict, outputs_of, place_in, sizes_of
from attention_patchbay.headless.client.events import end_in_history, event_of
from attention_patchbay.headless.client.job import Result, refused
from attention_patchbay.headless.commands.check import findings_there
from attention_patchbay.headless.commands.diff import differences
from attention_patchbay.headless.engine import workflow
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.headless.engine.errors import Failure
from attention_patchbay.headless.engine.validate import validate
from attention_patchbay.headless.nodes.pictures import read_picture as decoded
from attention_patchbay.headless.pages.convert import is_page_format, to_api, to_page
from attention_patchbay.headless.pages.node_infos import node_infos
from attention_patchbay.headless.pages.workflow_file import metadata, parse_json
from attention_patchbay.headless.sweep.axes import parse_axis
from attention_patchbay.headless.sweep.cells import Cell, listed
from attention_patchbay.headless.sweep.runner import backends_of, pictures
from attention_patchbay.headless.sweep.store import opened
from attention_patchbay.ldm_patched.files.checkpoint import Checkpoint, CheckpointError
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.schedule import parse_curve
from attention_patchbay.ldm_patched.patches.methods.capture import parse_heads
from attention_patchbay.ldm_patched.patches.methods.point_capture import parse_points
from attention_patchbay.ldm_patched.patches.reading.presets import from_json
from attention_patchbay.ldm_patched.patches.routing.rules import parse_rules

NODES = catalog()
INFOS = {name: cls.GET_NODE_INFO_V1() for name, cls in NODES.items()}
FOLDER = Path(tempfile.mkdtemp())
EXAMPLES = Path(__file__).parents[2] / "example_workflows" / "api"
PROMPTS = [json.loads((EXAMPLES / name).read_text()) for name in ("demo.json", "regional_prompt.json")]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def read_workflow(data: bytes) -> None:
    """Read, convert and check a workflow, and compare it with itself."""
    value: Any = parse_json(data, "input")
    prompt = to_api(value, INFOS) if is_page_format(value) else workflow.check(value)
    with entered(Session()):
        validate(prompt, NODES)
    to_page(prompt, INFOS)
    assert differences(prompt, prompt) == []


def read_nodes(data: bytes) -> None:
    """Take what a server says of its nodes, and convert and check workflows by it."""
    infos = node_infos(parse_json(data, "input"), "input")
    for prompt in PROMPTS:
        with contextlib.suppress(workflow.PromptError):
            to_api(to_page(prompt, infos), infos)
        with contextlib.suppress(workflow.PromptError):
            findings_there(copy.deepcopy(prompt), infos, Folders(FOLDER, FOLDER, FOLDER))


def read_header(data: bytes) -> None:
    """Open a model file."""
    path = FOLDER / "a.safetensors"
    path.write_bytes(data)
    file = Checkpoint(path)
    for key in file:
        file[key].sum()


def read_picture(data: bytes) -> None:
    """Take the workflow out of a picture."""
    json.dumps(metadata(data, "input"))


def read_pixels(data: bytes) -> None:
    """Decode a picture."""
    path = FOLDER / "pixels"
    path.write_bytes(data)
    image, mask = decoded(path)
    assert image.ndim == 4 and len(mask) == len(image)


def read_message(data: bytes) -> None:
    """Take what a websocket tells, as text and as bytes."""
    event_of(_text(data), "job")
    event_of(data, "job")


def read_answer(data: bytes) -> None:
    """Take what a server says of a job, of its queue and of a workflow that it refuses."""
    value: Any = parse_json(data, "input")
    entry = as_dict(value)
    result = Result("job", outputs_of(entry))
    _ = list(result.images()), list(result.texts()), pictures(result.outputs), backends_of(result.outputs)
    assert end_in_history(entry).status and str(refused(value))
    _ = place_in(value, "job"), sizes_of(value)


def read_cells(data: bytes) -> None:
    """Read cells from a list, and a sweep whose files hold anything."""
    path = FOLDER / "cells.csv"
    path.write_bytes(data)
    with contextlib.suppress(Failure):
        listed(path)
    cell = Cell({"a.b": 1}, {"1": {}}, True)
    (FOLDER / "sweep" / "cells").mkdir(parents=True, exist_ok=True)
    (FOLDER / "sweep" / "cells" / f"{cell.id}.json").write_bytes(data)
    with opened(FOLDER / "sweep", [cell]) as store:
        store.tables()


TARGETS: dict[str, Callable[[bytes], Any]] = {
    "workflow": read_workflow,
    "nodes": read_nodes,
    "header": read_header,
    "picture": read_picture,
    "pixels": read_pixels,
    "message": read_message,
    "answer": read_answer,
    "cells": read_cells,
    "address": lambda data: parse(_text(data)),
    "rules": lambda data: parse_rules(_text(data)),
    "curve": lambda data: parse_curve(_text(data)),
    "preset": lambda data: from_json(_text(data)),
    "points": lambda data: parse_points(_text(data)),
    "heads": lambda data: parse_heads(_text(data)),
    "axis": lambda data: parse_axis(_text(data)),
    "name": lambda data: inside(FOLDER, _text(data)),
}
# Errors that say what is wrong; anything else is a bug.
REFUSALS = (ValueError, CheckpointError, workflow.PromptError, Failure)


def try_one(target: str, data: bytes) -> bool:
    """Give data to a target; tell whether it was taken."""
    try:
        TARGETS[target](data)
    except REFUSALS as error:
        assert str(error), "an error without words"
        return False
    return True
