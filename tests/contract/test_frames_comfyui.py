"""Regions in some frames of a video, on tiny models of each video family in ComfyUI."""

from __future__ import annotations

from typing import Any

import pytest

from .children import result_of
from .tiny_families import FAMILIES

pytestmark = pytest.mark.comfyui
# Frames of the video for each frame of the latent but the first, as the VAE of the family has it
RATIOS = {name: 4 for name in FAMILIES if name.startswith("Wan")} | {"LTX-Video": 8, "Cosmos": 8, "Mochi": 6}
RATIOS |= dict.fromkeys(("HunyuanVideo", "HunyuanVideo 1.5", "CogVideoX", "Kandinsky 5", "Cosmos-Predict2"), 4)
RATIOS = {name: ratio for name, ratio in RATIOS.items() if name != "Wan Animate 2"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    result: dict[str, Any] = result_of("frames_child.py", tmp_path_factory.mktemp("frames"))
    return result


def test_every_video_family_was_tried(found: dict[str, Any]) -> None:
    assert found.keys() - {"lora", "windows", "svd", "picture"} == RATIOS.keys()


@pytest.mark.parametrize("name", RATIOS)
def test_each_frame_is_that_of_a_run_with_the_prompt_of_its_time(found: dict[str, Any], name: str) -> None:
    one = found[name]
    assert min(one["effect"]) > 1e-2
    assert max(one["first"], one["last"], one["masks"]) < 1e-6, one
    assert one["identity"] < 1e-5 and one["neutral"]


@pytest.mark.parametrize("name", RATIOS)
def test_frames_are_those_of_the_decoded_video_and_others_are_refused(found: dict[str, Any], name: str) -> None:
    one, last = found[name], RATIOS[name]
    told = f"decoded video, 0-{last}: of the 2 of the latent the first stands for one, each other for {last}."
    assert told in one["report"]
    assert f"there is no frame 99, the video has the frames 0-{last}" in one["refused"]


@pytest.mark.parametrize("name", RATIOS)
def test_words_have_a_map_of_each_frame(found: dict[str, Any], name: str) -> None:
    assert found[name]["maps"] and all(shape == [1, 2, 2] for shape in found[name]["maps"])


def test_a_lora_acts_in_the_frames_of_its_region_alone(found: dict[str, Any]) -> None:
    one = found["lora"]
    assert one["effect"] > 1e-2 and max(one["outside"], one["inside"]) < 1e-5, one


def test_context_windows_keep_the_frames_of_the_whole_video(found: dict[str, Any]) -> None:
    assert found["windows"]["effect"] > 1e-3 and max(found["windows"]["frames"]) < 1e-6


def test_stable_video_diffusion_has_its_frames_in_the_batch(found: dict[str, Any]) -> None:
    one = found["svd"]
    assert one["identity"] < 1e-4 and one["masks"] < 1e-6 and one["neutral"]
    assert one["effect"] > 1e-2 and one["always"] > 1e-2


def test_a_model_of_pictures_has_no_frames(found: dict[str, Any]) -> None:
    assert "frames 0-50%: there is one picture and no video; leave frames empty" in found["picture"]
