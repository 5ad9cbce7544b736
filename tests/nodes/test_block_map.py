from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError
from attention_patchbay.nodes.block_map import BlockMap


def test_it_gives_the_address_and_the_map(model: Any) -> None:
    output = BlockMap.execute(model=model, blocks="middle self", latent={"samples": torch.zeros(1, 4, 8, 8)})
    address, text = output.result
    assert address == "middle self" and text.split("\n")[0].startswith("block")
    assert output.ui is not None and output.ui["chosen"] == ["middle"]
    assert {row["name"] for row in output.ui["map"] if row["depth"]} == {"input:1", "middle", "output:0", "output:1"}
    assert output.ui["map"][1]["grid"] == (8, 8)


def test_blocks_that_the_model_lacks_are_refused(model: Any) -> None:
    assert BlockMap.validate_inputs(blocks="input:7") is True
    assert "cannot read" in str(BlockMap.validate_inputs(blocks="4"))
    with pytest.raises(AddressError, match="this model has no block 'input:7'"):
        BlockMap.execute(model=model, blocks="input:7")
