"""The map of blocks, and the addresses that the page and the nodes must read alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attention_patchbay.ldm_patched.patches.addressing.address import AddressError, parse
from attention_patchbay.ldm_patched.patches.addressing.blocks import check_address
from attention_patchbay.ldm_patched.patches.reading.block_map import MapBlock, block_map, chosen, rows, text
from attention_patchbay.nodes.demo import LoadDemoModel

from .models import BLOCKS, patcher
from .test_contracts import Flux, Silent, model

SHARED = json.loads((Path(__file__).parents[2] / "data" / "addresses.json").read_text())


CASES = [("blocks", *case) for case in SHARED["cases"]]
CASES += [("transformer", *case) for case in SHARED["transformer cases"]]


@pytest.mark.parametrize(("model", "address", "names"), CASES)
def test_the_page_and_the_nodes_read_addresses_alike(model: str, address: str, names: list[str]) -> None:
    blocks = [MapBlock(room, number, depth, 8, 40, 1) for room, number, depth in SHARED[model]]
    assert chosen(parse(address), blocks) == names


@pytest.mark.parametrize("address", SHARED["wrong"])
def test_the_page_and_the_nodes_refuse_alike(address: str) -> None:
    with pytest.raises(AddressError):
        parse(address)


def test_it_holds_every_block_with_its_depth() -> None:
    found = block_map(patcher())
    assert {block.name for block in found if block.depth} == {name.partition(".")[0] for name in BLOCKS}
    assert {block.name: block.depth for block in found}["input:3"] == 2
    rooms = [block.type for block in found]
    assert rooms == sorted(rooms, key=("input", "middle", "output").index)


def test_tokens_grow_from_half_to_half() -> None:
    found = {block.name: block for block in block_map(LoadDemoModel.execute().result[0])}
    factors = [found[name].factor for name in ("input:1", "input:3", "middle", "output:0", "output:3", "output:5")]
    assert factors == [1, 2, 4, 4, 2, 1]
    assert found["input:3"].grid((17, 32)) == (9, 16) and found["input:3"].grid(None) is None


def test_other_families_have_their_own_rooms() -> None:
    assert [block.name for block in block_map(model(Flux()))] == ["double:0", "double:1", "single:0"]
    assert block_map(model(Flux()))[0].grid((64, 64)) is None
    assert block_map(model(Silent())) == [] and "only the address 'all'" in text(parse("all"), [])


def test_text_and_rows_tell_what_is_chosen() -> None:
    found = block_map(patcher())
    lines = text(parse("middle, input:3.1"), found, (8, 8)).split("\n")
    assert [line.split()[0] for line in lines if line.endswith("yes")] == ["input:3", "middle"]
    assert json.loads(json.dumps(rows(found, (8, 8))))[1]["grid"] == [8, 8]


def test_an_address_of_whole_blocks_is_no_error() -> None:
    check_address(parse("input:0"), patcher())
    check_address(parse("all"), model(Silent()))
    for address in ("input:0 self", "input:40", "double:0"):
        with pytest.raises(AddressError):
            check_address(parse(address), patcher())
