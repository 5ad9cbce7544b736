from __future__ import annotations

import pytest
import torch

VIDEO = {"activations_shape": [6, 4, 8, 10]}  # two videos of three frames


def test_a_layer_gets_the_picture_or_one_tile_of_it() -> None:
    assert piece_grid(torch.zeros(6, 80, 2), VIDEO) == (8, 10)
    assert piece_grid(torch.zeros(24, 20, 2), {**VIDEO, PIECE: (4, 5)}) == (4, 5)


def test_attention_over_time_has_no_grid() -> None:
    assert piece_grid(torch.zeros(160, 3, 2), VIDEO) is None


@pytest.mark.parametrize("piece", [{}, {PIECE: (4, 5)}])
def test_cut_tokens_are_refused_with_the_way_out(piece: dict) -> None:
    with pytest.raises(ValueError, match="10 tokens are no 8x10 picture.*behind that one"):
        piece_grid(torch.zeros(24, 10, 2), {**VIDEO, **piece})
