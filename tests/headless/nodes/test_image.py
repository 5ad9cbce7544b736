from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_patchbay.headless.api.folders import Folders
from attention_patchbay.headless.api.session import Session, entered
from attention_patchbay.headless.engine.api_graph import Executor
from attention_patchbay.headless.engine.workflow import PromptError, check
from attention_patchbay.headless.nodes import image as image_nodes
from PIL import Image

CATALOG = {cls.GET_SCHEMA().node_id: cls for cls in image_nodes.NODES}


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(Folders(tmp_path / "models", tmp_path / "input", tmp_path / "output", tmp_path / "temp"))
    session.folders.input.mkdir()
    with entered(session):
        yield session


def workflow(image: str, prefix: str = "copy") -> Any:
    load = {"class_type": "LoadImage", "inputs": {"image": image}}
    return check(
        {"1": load, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}}}
    )


def test_a_picture_goes_through_load_and_save_unchanged_with_the_workflow_inside(session: Session) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(session.folders.input / "a.png")
    prompt = workflow("a.png", "sub/copy")
    run = Executor(CATALOG, session).run(prompt, extra_pnginfo={"workflow": {"nodes": [1]}})
    assert run.ui["2"]["images"] == [{"filename": "copy_00001_.png", "subfolder": "sub", "type": "output"}]
    with Image.open(session.folders.output / "sub/copy_00001_.png") as saved:
        assert np.array_equal(np.asarray(saved), pixels)
        assert json.loads(saved.text["prompt"]) == prompt
        assert json.loads(saved.text["workflow"]) == {"nodes": [1]}


def test_numbers_go_on(session: Session) -> None:
    images = torch.rand(3, 4, 4, 3)
    for _ in range(2):
        image_nodes.save(images, session.folders.output, "x", "output", {})
    assert len(list(session.folders.output.iterdir())) == 6
    path = session.folders.output / "plain"
    path.touch()
    assert (session.folders.output / "x_00001_.png").stat().st_mode == path.stat().st_mode
    assert (session.folders.output / "x_00006_.png").is_file()


def test_two_runs_that_look_at_a_folder_at_once_lose_no_picture(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = session.folders.output
    monkeypatch.setattr(image_nodes, "numbered", lambda *given: (folder, "x", 1))
    found = [image_nodes.save(torch.rand(3, 4, 4, 3), folder, "x", "output", {}) for _ in range(2)]
    names = [entry["filename"] for entries in found for entry in entries]
    assert names == [f"x_{number:05}_.png" for number in range(1, 7)]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_previews_lie_where_nobody_else_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = Folders()
    assert folders == Folders() and folders.temp.name != "patchbay"
    with entered(Session(Folders(temp=tmp_path / "own"))):
        image_nodes.PreviewImage.execute(torch.rand(1, 4, 4, 3))
    assert (tmp_path / "own").stat().st_mode & 0o077 == 0 and len(list((tmp_path / "own").iterdir())) == 1


def test_transparency_becomes_the_mask(session: Session) -> None:
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0, 0, 3] = 255
    Image.fromarray(rgba).save(session.folders.input / "t.png")
    image, mask = image_nodes.LoadImage.execute("t.png").args
    assert image.shape == (1, 2, 2, 3)
    assert mask.tolist() == [[[0.0, 1.0], [1.0, 1.0]]]
    Image.fromarray(rgba[..., :3]).save(session.folders.input / "o.png")
    assert image_nodes.LoadImage.execute("o.png").args[1].shape == (1, 64, 64)


def test_a_new_picture_under_the_same_name_is_loaded_again(session: Session) -> None:
    host = Executor(CATALOG, session)
    Image.new("RGB", (4, 4), "red").save(session.folders.input / "a.png")
    host.run(workflow("a.png"))
    assert host.run(workflow("a.png")).ran == []
    Image.new("RGB", (40, 40), "blue").save(session.folders.input / "a.png")
    assert host.run(workflow("a.png")).ran == ["1", "2"]


@pytest.mark.parametrize("name", ["missing.png", "../secret.png", "/etc/passwd"])
def test_a_picture_that_is_not_in_the_folder_is_refused_before_running(session: Session, name: str) -> None:
    with pytest.raises(PromptError) as caught:
        Executor(CATALOG, session).run(workflow(name))
    assert caught.value.node_errors["1"]["errors"][0]["type"] == "custom_validation_failed"


def test_a_prefix_that_leads_out_of_the_output_folder_is_refused(session: Session) -> None:
    with pytest.raises(ValueError, match="leads out of"):
        image_nodes.save(torch.rand(1, 4, 4, 3), session.folders.output, "../x", "output", {})


def test_an_interrupted_save_leaves_no_file(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    session.folders.output.mkdir()
    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        image_nodes.save(torch.zeros(1, 2, 2, 3), session.folders.output, "x", "output", {})
    assert list(session.folders.output.iterdir()) == []
