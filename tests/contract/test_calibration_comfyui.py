"""What one weight does on four families: as written it differs, by measured share it is the same."""

from __future__ import annotations

from typing import Any

import pytest
from attention_patchbay.ldm_patched.patches.methods.calibration import MEASURED, WRITTEN

from .children import result_of

pytestmark = pytest.mark.comfyui
JOINT = ("Flux", "Qwen-Image", "Z-Image")
FAMILIES = ("SDXL", *JOINT)
DRIFT = 0.15  # the share is that of the first step, and random networks change it by so much until the second


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = result_of("calibration_child.py", tmp_path_factory.mktemp("calibration"))
    return found


def gained(found: dict[str, Any]) -> float:
    """Return what the word gained of the attention, as a part of its share of the text's."""
    return float((found["acted"] - found["word"]) * found["text"] / found["word"])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_weight_gains_the_same_by_measured_share(results: dict[str, Any], name: str) -> None:
    found = results[name][MEASURED]["1.3"]
    assert found["calls"] and gained(found) == pytest.approx(0.3, rel=DRIFT)
    assert bool(found["notes"]) is (name in JOINT)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_weight_below_zero_takes_the_same_away(results: dict[str, Any], name: str) -> None:
    found = results[name][MEASURED]["-1"]
    assert found["acted"] * found["text"] / found["word"] == pytest.approx(-1.0, rel=DRIFT)


@pytest.mark.parametrize("name", FAMILIES)
def test_below_one_the_same_part_of_the_word_stays(results: dict[str, Any], name: str) -> None:
    found = results[name][MEASURED]["0.5"]
    assert found["acted"] / found["word"] == pytest.approx(0.5, rel=1e-5)


def test_as_written_it_gains_what_the_text_gets(results: dict[str, Any]) -> None:
    gains = {name: gained(results[name][WRITTEN]["1.3"]) for name in FAMILIES}
    assert gains["SDXL"] == pytest.approx(0.3, rel=1e-5)
    for name in JOINT:
        assert gains[name] == pytest.approx(0.3 * results[name][WRITTEN]["1.3"]["text"], rel=1e-5)
        assert gains[name] < 0.15
