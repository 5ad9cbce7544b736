"""Prompt Region: its mask, its chain and its frames."""

from __future__ import annotations

import torch

from .conftest import NODES

REGION = NODES["PatchbayRegion"]
PROMPT = [[torch.zeros(1, 5, 16), {}]]


def test_frames_are_read_and_none_are_always() -> None:
    given = {"conditioning": PROMPT, "mask": torch.ones(4, 4), "weight": 1.0}
    (chain,) = REGION.execute(**given).result
    (chain,) = REGION.execute(**given, regions=chain, frames="0-50% fade 2").result
    assert chain[0].frames is None and chain[0].mask.shape == (1, 4, 4)
    assert chain[1].frames is not None and chain[1].frames.weights(4).tolist() == [1.0, 0.75, 0.25, 0.0]


def test_wrong_frames_are_told_at_their_widget() -> None:
    assert REGION.validate_inputs(frames="") is True and REGION.validate_inputs(frames=None) is True
    answer = REGION.validate_inputs(frames="12-5")
    assert answer.widget == "frames" and "'12-5' holds no frame" in answer
