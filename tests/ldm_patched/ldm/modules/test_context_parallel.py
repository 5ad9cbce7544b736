"""Attention over several processes: exact, and no more traffic than there must be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHILD = Path(__file__).parent / "context_parallel_child.py"


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    world = request.param
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    children = [
        subprocess.Popen([sys.executable, str(CHILD), str(rank), str(world), str(folder)], env=environment)
        for rank in range(world)
    ]
    codes = [child.wait(timeout=120) for child in children]
    assert codes == [0] * world
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


CASES = ["plain", "uneven", "scale", "bool", "additive", "dead", "bf16", "cross"]


@pytest.mark.parametrize("function", ["attention_ring", "attention_all_to_all", "attention_over_ranks"])
@pytest.mark.parametrize("case", CASES)
def test_every_rank_gets_what_one_process_computes(ranks: list[dict[str, Any]], case: str, function: str) -> None:
    bound = 2e-2 if case == "bf16" else 1e-5
    assert max(rank["results"][case][function]["error"] for rank in ranks) < bound


def test_the_ring_sends_each_key_and_value_once_to_every_other_rank(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        plain = rank["results"]["plain"]["attention_ring"]
        assert plain["sent"] == (len(ranks) - 1) * plain["kv"]


def test_all_to_all_keeps_only_the_own_share_of_the_heads(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        plain = rank["results"]["plain"]["attention_all_to_all"]
        there_and_back = 2 * plain["q"] + plain["kv"]  # q and the result, k and v
        assert plain["sent"] == there_and_back * (len(ranks) - 1) / len(ranks)


def test_heads_that_cannot_be_shared_are_refused(ranks: list[dict[str, Any]]) -> None:
    assert all("9 heads cannot be shared" in rank["refused"] for rank in ranks)


@pytest.mark.parametrize("way", ["over ranks", "ring", "all to all"])
def test_a_step_of_a_unet_is_that_of_one_process(ranks: list[dict[str, Any]], way: str) -> None:
    for rank in ranks:
        assert rank["unet"][way]["error"] < 1e-5 and rank["unet"][way]["calls"] == 20  # ten blocks of two attentions
        assert rank["unet"][way]["sent"] > 0


def test_a_rule_in_front_hands_the_rest_on(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["ruled"]["error"] < 1e-5 and rank["ruled"]["calls"] == 18  # all but the two in the middle
