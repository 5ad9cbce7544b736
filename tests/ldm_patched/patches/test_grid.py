from __future__ import annotations

import pytest
from attention_patchbay.ldm_patched.patches.engine.site import Site

VIDEO = {"activations_shape": [6, 4, 8, 10]}  # two videos of three frames


def test_a_layer_gets_the_picture_or_one_tile_of_it() -> None:
    assert Site(VIDEO, batch=6, tokens=80).area == (8, 10)
    assert Site(VIDEO, batch=24, tokens=20, piece=(4, 5)).area == (4, 5)


def test_attention_over_time_has_no_grid() -> None:
    assert Site(VIDEO, batch=160, tokens=3).area is None


@pytest.mark.parametrize("piece", [None, (4, 5)])
def test_cut_tokens_are_refused_with_the_way_out(piece: tuple[int, int] | None) -> None:
    with pytest.raises(ValueError, match="10 tokens are no 8x10 picture.*put this one after the other"):
        Site(VIDEO, batch=24, tokens=10, piece=piece).area  # noqa: B018
