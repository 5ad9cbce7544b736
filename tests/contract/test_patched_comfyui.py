"""Latents behind core nodes that change a model or its sampling are ComfyUI's."""

from __future__ import annotations

from pathlib import Path

import pytest

from .children import result_of

SAME = {"merged 1.0"}  # nothing is mixed in
ROUNDING = 2e-6  # merging queries of a small model changes little more than that


@pytest.mark.comfyui
def test_latents_behind_core_nodes_are_those_of_comfyui(tmp_path: Path) -> None:
    found = result_of("patched_child.py", tmp_path, 300)
    assert len(found) > 25
    assert {what: apart for what, (apart, _) in found.items() if not apart < 1e-4} == {}
    assert {what for what, (_, changed) in found.items() if not changed > ROUNDING} == SAME


@pytest.mark.comfyui
def test_files_that_steer_give_the_latents_of_comfyui(tmp_path: Path) -> None:
    found = result_of("controls_child.py", tmp_path, 400)
    assert len(found) > 12
    assert {what: apart for what, (apart, _) in found.items() if not apart < 1e-4} == {}
    assert all(changed > 1e-4 for _, changed in found.values())


@pytest.mark.comfyui
def test_small_vaes_hypernetworks_and_embeddings_are_those_of_comfyui(tmp_path: Path) -> None:
    found = result_of("files_child.py", tmp_path, 300)
    assert len(found) > 10
    assert {what: apart for what, (apart, _) in found.items() if not apart < 1e-4} == {}
    assert all(changed > 1e-4 for _, changed in found.values())
