"""Upscale models, GLIGEN, and patches of guidance and network give what they give in ComfyUI."""

from __future__ import annotations

from pathlib import Path

import pytest

from .children import result_of


@pytest.mark.comfyui
def test_everyday_models_give_what_they_give_in_comfyui(tmp_path: Path) -> None:
    differences = result_of("everyday_child.py", tmp_path, 300)
    assert len(differences) > 30
    assert {what: found for what, found in differences.items() if not found < 2e-5} == {}
