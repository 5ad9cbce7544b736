from __future__ import annotations

import torch
from attention_patchbay.ldm_patched.ldm.modules.backends.registry import AttentionCall
from attention_patchbay.ldm_patched.patches.reading.tuning_chart import BARS, BEST, INEXACT, NAMES, OTHER, WIDTH, chart
from attention_patchbay.ldm_patched.patches.routing.tuning import Timing, Tuned

CALL = AttentionCall(2, 8, 8, 64, 64, 40, torch.float32, "cpu")
TUNED = [
    Tuned(CALL, (Timing("split", 0.001, 0.5), Timing("pytorch", 0.002, 1e-6), Timing("sub_quad", 0.004, 1e-6))),
    Tuned(CALL, (Timing("pytorch", 0.003, 1e-6),)),
]


def pixels(picture: torch.Tensor, colour: tuple[int, int, int], row: int) -> int:
    """Return how many pixels of the bar in a row have a colour."""
    bar = (picture[0, 12 + 20 * row + 8] * 255).round()
    return int((bar == torch.tensor(colour, dtype=torch.float32)).all(-1).sum())


def test_bars_are_as_long_as_the_times_and_coloured_by_what_they_are() -> None:
    picture = chart(TUNED, 0.01)
    assert picture.shape == (1, 24 + 20 * 8, WIDTH, 3) and picture.min() >= 0.0 and picture.max() == 1.0
    drawn = [pixels(picture, INEXACT, 1), pixels(picture, BEST, 2), pixels(picture, OTHER, 3), pixels(picture, BEST, 6)]
    wanted = (BARS / 4, BARS / 2, BARS, BARS)
    assert all(abs(found - length) <= 2 for found, length in zip(drawn, wanted, strict=True))
    assert pixels(picture[:, :, :NAMES], BEST, 2) == 0


def test_nothing_measured_gives_an_empty_picture() -> None:
    assert (chart([], 0.01) == 1.0).all()
