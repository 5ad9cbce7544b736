"""What reads data from strangers: each target takes bytes and ends in a result or in an error of its own, soon."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attention_patchbay.headless.api.folders import inside, numbered
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.headless.commands.diff import differences
from attention_patchbay.headless.engine import workflow
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.headless.engine.errors import Failure
from attention_patchbay.headless.engine.validate import validate
from attention_patchbay.headless.nodes.pictures import read_picture as decoded
from attention_patchbay.headless.pages.convert import is_page_format, to_api, to_page
from attention_patchbay.headless.pages.workflow_file import metadata, parse_json
from attention_patchbay.headless.sweep.axes import parse_axis
from attention_patchbay.headless.sweep.cells import Cell, listed
from attention_patchbay.headless.sweep.choices import FILE
from attention_patchbay.headless.sweep.report import Report, write_report
from attention_patchbay.headless.sweep.store import PLAN, Store, opened_again
from attention_patchbay.ldm_patched.files.checkpoint import CheckpointError
from attention_patchbay.ldm_patched.patches.addressing.address import parse
from attention_patchbay.ldm_patched.patches.addressing.blocks import check_address
from attention_patchbay.ldm_patched.patches.addressing.schedule import Schedule
from attention_patchbay.ldm_patched.patches.methods.capture import parse_heads
from attention_patchbay.ldm_patched.patches.methods.point_capture import parse_points
from attention_patchbay.ldm_patched.patches.reading.presets import from_json, to_json
from attention_patchbay.ldm_patched.patches.routing.rules import parse_rules, rules_text
from attention_patchbay.ldm_patched.patches.routing.tuning_store import TuningStore

from . import models, prompts, servers

NODES = catalog()
INFOS = {name: cls.GET_NODE_INFO_V1() for name, cls in NODES.items()}
FOLDER = Path(tempfile.mkdtemp())


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


# Workflows and pictures


def read_workflow(data: bytes) -> None:
    """Read, convert and check a workflow, and compare it with itself."""
    value: Any = parse_json(data, "input")
    prompt = to_api(value, INFOS) if is_page_format(value) else workflow.check(value)
    with entered(Session()):
        validate(prompt, NODES)
    to_page(prompt, INFOS)
    assert differences(prompt, prompt) == []


def read_picture(data: bytes) -> None:
    """Take the workflow out of a picture."""
    json.dumps(metadata(data, "input"))


def read_pixels(data: bytes) -> None:
    """Decode a picture."""
    path = FOLDER / "pixels"
    path.write_bytes(data)
    image, mask = decoded(path)
    assert image.ndim == 4 and len(mask) == len(image)


def read_name(data: bytes) -> None:
    """Look for a file of a workflow, and number one."""
    inside(FOLDER, _text(data))
    folder, _, number = numbered(FOLDER, _text(data), 8, 8)
    assert FOLDER.resolve() in (folder, *folder.parents) and number == 1


# Texts of widgets


def read_address(data: bytes) -> None:
    """Read an address, and look it up on a model."""
    address = parse(_text(data))
    assert parse(str(address)) == address
    check_address(address, models.model())


def read_rules(data: bytes) -> None:
    """Read rules, and write them as they are read."""
    rules = parse_rules(_text(data))
    assert parse_rules(rules_text(rules)) == rules


def read_curve(data: bytes) -> None:
    """Read a curve, and follow it."""
    schedule = Schedule(0.25, 0.75, _text(data))
    assert all(isinstance(schedule.weight(percent / 16), float) for percent in range(17))


def read_preset(data: bytes) -> None:
    """Read a preset, and write it as it is read."""
    preset = from_json(_text(data))
    assert from_json(to_json(preset)).patches == preset.patches


# Sweeps


def read_list(data: bytes) -> None:
    """Read the cells of a list."""
    path = FOLDER / "cells.csv"
    path.write_bytes(data)
    listed(path)


def read_sweep(data: bytes) -> None:
    """Read the folder of a sweep, each of whose files may hold anything."""
    cells, folder = [Cell({"a.b": number}, {"1": {"a": number}}, number == 0) for number in (0, 1)], FOLDER / "sweep"
    cells[1] = Cell(cells[1].choice, cells[1].prompt, False, cells[0].id)
    for cell in cells:
        (folder / "cells" / cell.id).mkdir(parents=True, exist_ok=True)
        (folder / "cells" / cell.id / "a.png").write_bytes(data)
        (folder / "cells" / f"{cell.id}.json").write_bytes(data)
        for kept in (folder / "cells").glob(f"{cell.id}.*.difference"):
            kept.write_bytes(data)
    store = Store(folder, cells)
    write_report(folder, store.tables())
    (folder / FILE).write_bytes(data)
    Report(store).write()
    (folder / PLAN).write_bytes(data)
    with contextlib.suppress(Failure):
        Store(folder, cells)
    (folder / PLAN).write_bytes(data)
    with contextlib.suppress(Failure), opened_again(folder) as again:
        Report(again).write()
    (folder / PLAN).unlink()


def read_tuning(data: bytes) -> None:
    """Read what was measured, and keep it."""
    path = FOLDER / "tuning.json"
    path.write_bytes(data)
    store = TuningStore(path, {})
    known = store.load()
    store.save(known.values())
    assert store.load() == known and all(one.best(1.0) or True for one in known.values())


TARGETS: dict[str, Callable[[bytes], Any]] = {
    "workflow": read_workflow,
    "picture": read_picture,
    "pixels": read_pixels,
    "name": read_name,
    "nodes": servers.read_nodes,
    "message": servers.read_message,
    "answer": servers.read_answer,
    "body": servers.read_body,
    "files": servers.read_files,
    "header": models.read_header,
    "folder": models.read_folder,
    "lora": models.read_lora,
    "shapes": models.read_shapes,
    "prompt": lambda data: prompts.read_prompt(_text(data)),
    "choices": lambda data: prompts.read_choices(_text(data)),
    "words": lambda data: prompts.read_words(_text(data)),
    "address": read_address,
    "rules": read_rules,
    "curve": read_curve,
    "preset": read_preset,
    "points": lambda data: parse_points(_text(data)),
    "heads": lambda data: parse_heads(_text(data)),
    "axis": lambda data: parse_axis(_text(data)),
    "list": read_list,
    "sweep": read_sweep,
    "tuning": read_tuning,
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
