"""Methods for the positive prompt act on it and on no other, under every guider of a real ComfyUI."""

from __future__ import annotations

from typing import Any

import pytest

from .. import sided
from .children import result_of

pytestmark = pytest.mark.comfyui
GUIDERS = ("CFG", "SAG", "PerpNeg", "PerpNegGuider", "DualCFG regular", "DualCFG nested", "DualModel")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return result_of("sides_child.py", tmp_path_factory.mktemp("sides"), 600)


@pytest.mark.parametrize("wording", sided.LENGTHS)
@pytest.mark.parametrize("guider", GUIDERS)
def test_a_method_acts_on_the_positive_prompt_alone(found: dict[str, Any], guider: str, wording: str) -> None:
    mine, plain = (found[f"{name}, other prompts {wording}"] for name in (guider, "CFG"))
    sided.check(mine["effects"])
    for side in sided.OFF:
        if side in mine and side in plain:
            assert mine[side] == pytest.approx(plain[side], abs=1e-5), side
    assert len(mine["notes"]) == (guider == "PerpNeg")  # its node has a prompt that the guider does not know
