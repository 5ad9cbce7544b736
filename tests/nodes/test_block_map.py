from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError
from attention_patchbay.nodes.block_map import BlockMap

from .test_report import MIDDLE, patched


def test_it_gives_the_address_and_the_map(model: Any) -> None:
    output = BlockMap.execute(model=model, blocks="middle self", latent={"samples": torch.zeros(1, 4, 8, 8)})
    address, text, _ = output.result
    assert address == "middle self" and text.split("\n")[0].startswith("block")
    assert output.ui is not None and output.ui["chosen"] == ["middle"]
    assert {row["name"] for row in output.ui["map"] if row["depth"]} == {"input:1", "middle", "output:0", "output:1"}
    assert output.ui["map"][1]["grid"] == (8, 8)


def test_blocks_that_the_model_lacks_are_refused(model: Any) -> None:
    assert BlockMap.validate_inputs(blocks="input:7") is True
    assert "cannot read" in str(BlockMap.validate_inputs(blocks="4"))
    with pytest.raises(AddressError, match="this model has no block 'input:7'"):
        BlockMap.execute(model=model, blocks="input:7")


def test_a_run_of_its_model_is_told_by_a_map_behind_the_sampler(model: Any, run: Callable) -> None:
    _, _, watched = BlockMap.execute(model=patched(model, MIDDLE), blocks="all", measure_change=True).result
    output = BlockMap.execute(model=watched, blocks="all", latent={"samples": run(watched)})
    assert output.ui is not None
    values = {row["name"]: row for row in output.ui["values"]}
    assert {name: row["calls"] for name, row in values.items()} == dict.fromkeys(values, 2 * 3)  # kinds, steps
    assert values["middle"]["change"] > 0.0 == values["input:1"]["change"]


def test_measuring_changes_no_picture_and_a_map_that_measures_nothing_touches_no_block(
    model: Any, run: Callable
) -> None:
    plain = patched(model, MIDDLE)
    *_, watched = BlockMap.execute(model=plain, blocks="all").result
    *_, measured = BlockMap.execute(model=plain, blocks="all", measure_change=True).result
    assert not watched.object_patches and measured.object_patches
    assert torch.equal(run(watched), run(plain)) and torch.equal(run(measured), run(plain))
