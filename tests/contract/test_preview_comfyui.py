"""The picture so far, beside the maps of each step, is ComfyUI's own cheap preview, of every picture and frame."""

from __future__ import annotations

from pathlib import Path

import pytest

from .children import result_of

pytestmark = pytest.mark.comfyui


def test_every_latent_format_looks_as_in_comfyui(tmp_path: Path) -> None:
    found = result_of("preview_child.py", tmp_path)
    assert found.pop("unlike") is None
    known = {name: seen for name, seen in found.items() if seen is not None}
    assert {"SD15", "SDXL", "Flux", "Wan21"} <= known.keys() and len(known) > len(found) - 3
    for name, (latent, pictures, apart) in known.items():
        assert apart <= 1, name
        count = latent[0] * (latent[2] if len(latent) == 5 else 1)
        assert pictures[0] == count and pictures[-1] == 3, name
