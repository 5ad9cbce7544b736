from __future__ import annotations

from pathlib import Path

import pytest
from attention_patchbay.headless.api.folders import DEMO_NAME, Folders, inside, numbered
from attention_patchbay.ldm_patched.demo import LORAS


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    for name in ("models/checkpoints/sub", "models/unet", "input", "output"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models/checkpoints/a.safetensors").touch()
    (tmp_path / "models/checkpoints/sub/b.ckpt").touch()
    (tmp_path / "models/checkpoints/notes.txt").touch()
    (tmp_path / "models/unet/c.safetensors").touch()
    (tmp_path / "input/picture.png").touch()
    (tmp_path / "secret.safetensors").touch()
    return Folders(tmp_path / "models", tmp_path / "input", tmp_path / "output", tmp_path / "temp")


def test_models_are_listed_by_their_names_in_workflows(folders: Folders) -> None:
    assert folders.model_names("checkpoints") == ["a.safetensors", DEMO_NAME, "sub/b.ckpt"]
    assert folders.model_names("diffusion_models") == ["c.safetensors"]
    assert folders.input_names() == ["picture.png"]
    assert folders.model("diffusion_models", "c.safetensors").name == "c.safetensors"
    assert folders.model("checkpoints", DEMO_NAME).name == "demo.safetensors"


def test_the_loras_of_the_demo_give_way_to_files_of_their_names(folders: Folders) -> None:
    (folders.models / "loras").mkdir()
    (folders.models / "loras" / "patchbay_demo_ring.safetensors").touch()
    assert folders.model_names("loras") == sorted(LORAS)
    assert folders.model("loras", "patchbay_demo_gold.safetensors") == LORAS["patchbay_demo_gold.safetensors"]
    assert folders.model("loras", "patchbay_demo_ring.safetensors").is_relative_to(folders.models)


def test_a_missing_file_names_where_it_was_searched(folders: Folders) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file 'x.safetensors' in .*checkpoints; .* --models"):
        folders.model("checkpoints", "x.safetensors")
    with pytest.raises(FileNotFoundError, match="--input"):
        folders.input_file("x.png")


@pytest.mark.parametrize("name", ["../secret.safetensors", "sub/../../../secret.safetensors", "/etc/passwd", "a\0b"])
def test_a_name_never_leads_out(folders: Folders, name: str) -> None:
    with pytest.raises(ValueError, match="leads out of|null"):
        folders.model("checkpoints", name)
    with pytest.raises(ValueError, match="leads out of|null"):
        folders.input_file(name)
    with pytest.raises(ValueError, match="leads out of|null"):
        numbered(folders.output, name, 1, 1)


def test_a_link_out_of_the_folder_is_refused(folders: Folders, tmp_path: Path) -> None:
    (folders.input / "link.png").symlink_to(tmp_path / "secret.safetensors")
    (folders.input / "shelf").symlink_to(tmp_path / "output", target_is_directory=True)
    (folders.output / "made.png").touch()
    assert folders.input_names() == ["picture.png"]
    with pytest.raises(ValueError, match="leads out of"):
        folders.input_file("link.png")


def test_a_name_inside_is_its_path(tmp_path: Path) -> None:
    assert inside(tmp_path, "a/b.png") == tmp_path.resolve() / "a/b.png"


def test_files_are_numbered_after_the_highest_there_is(tmp_path: Path) -> None:
    assert numbered(tmp_path, "demo", 4, 5) == (tmp_path.resolve(), "demo", 1)
    for name in ("demo_00004_.png", "demo_x_.png", "other_00009_.png", "demo_2_00007_.png"):
        (tmp_path / name).touch()
    assert numbered(tmp_path, "demo", 4, 5)[2] == 5
    assert numbered(tmp_path, "sub/demo", 4, 5) == (tmp_path.resolve() / "sub", "demo", 1)
    assert numbered(tmp_path, "%width%x%height%", 4, 5)[1] == "4x5"


@pytest.mark.parametrize("prefix", ["", ".", "a/.."])
def test_an_empty_prefix_is_refused(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(ValueError, match="is empty"):
        numbered(tmp_path, prefix, 1, 1)


@pytest.fixture
def elsewhere(folders: Folders, tmp_path: Path) -> Path:
    """Return a folder outside, to which links in the models folder lead."""
    place = tmp_path / "elsewhere"
    (place / "deep").mkdir(parents=True)
    for name in ("one.safetensors", "deep/two.sft", "blob", "private.txt"):
        (place / name).touch()
    checkpoints = folders.models / "checkpoints"
    (checkpoints / "link.safetensors").symlink_to(place / "one.safetensors")
    (checkpoints / "hub.safetensors").symlink_to(place / "blob")  # as a cache of Hugging Face's has them
    (checkpoints / "shelf").symlink_to(place, target_is_directory=True)
    (checkpoints / "gone.safetensors").symlink_to(place / "nothing")
    return place


def test_linked_models_and_folders_are_listed_and_found(folders: Folders, elsewhere: Path) -> None:
    names = folders.model_names("checkpoints")
    linked = ["hub.safetensors", "link.safetensors", "shelf/deep/two.sft", "shelf/one.safetensors"]
    assert [name for name in names if name in linked] == linked
    assert "gone.safetensors" not in names
    for name in linked:
        path = folders.model("checkpoints", name)
        assert path.is_file() and path == folders.models / "checkpoints" / name
    with pytest.raises(FileNotFoundError):
        folders.model("checkpoints", "gone.safetensors")


@pytest.mark.parametrize("name", ["shelf/../../../secret.safetensors", "shelf/deep/../../../../secret.safetensors"])
def test_a_name_does_not_climb_out_through_a_link(folders: Folders, elsewhere: Path, name: str) -> None:
    with pytest.raises(ValueError, match="leads out of"):
        folders.model("checkpoints", name)


def test_a_name_does_not_climb_from_where_a_link_leads(folders: Folders, elsewhere: Path) -> None:
    for name in ("shelf/../secret.safetensors", "shelf/private.txt"):
        with pytest.raises(FileNotFoundError):
            folders.model("checkpoints", name)


def test_links_in_a_circle_are_not_followed_for_ever(folders: Folders, elsewhere: Path) -> None:
    checkpoints = folders.models / "checkpoints"
    (checkpoints / "sub" / "up").symlink_to(checkpoints, target_is_directory=True)
    (elsewhere / "deep" / "self").symlink_to(elsewhere / "deep", target_is_directory=True)
    (elsewhere / "deep" / "back").symlink_to(elsewhere, target_is_directory=True)
    names = folders.model_names("checkpoints")
    assert names.count("sub/b.ckpt") == 1 and len(names) < 10


def test_a_linked_diffusers_folder_is_listed_and_found(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "other" / "sdxl").mkdir(parents=True)
    (tmp_path / "other" / "sdxl" / "model_index.json").touch()
    (folders.models / "diffusers").mkdir()
    (folders.models / "diffusers" / "mine").symlink_to(tmp_path / "other", target_is_directory=True)
    assert folders.diffusers_names() == ["mine/sdxl"]
    assert folders.diffusers("mine/sdxl") == folders.models / "diffusers" / "mine" / "sdxl"
    with pytest.raises(ValueError, match="leads out of"):
        folders.diffusers("../../other/sdxl")
