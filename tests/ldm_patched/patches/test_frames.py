"""Ranges of frames: how they are read, what of each frame lies in them, and where they lie in a latent."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from attention_patchbay.ldm_patched.patches.addressing.families import FAMILIES
from attention_patchbay.ldm_patched.patches.addressing.frames import Frames, Range, parse_frames
from attention_patchbay.ldm_patched.patches.addressing.refused import Refused
from attention_patchbay.ldm_patched.patches.engine.timeline import EVOLVED, WINDOW, Timeline
from attention_patchbay.ldm_patched.patches.engine.tokens import tokens_of
from hypothesis import given
from hypothesis import strategies as st

READ = {
    "0-12": (Range(0, 12),),
    "7": (Range(7, 7),),
    " 25- ": (Range(25, None),),
    "0-50%": (Range(0, 50, True),),
    "12.5%-50%": (Range(12.5, 50, True),),
    "50%-": (Range(50, None, True),),
    "0 - 3, 9-": (Range(0, 3), Range(9, None)),
}


def weights(text: str, count: int) -> list[float]:
    found = parse_frames(text)
    assert found is not None
    return [round(weight, 6) for weight in found.weights(count).tolist()]


@pytest.mark.parametrize("text", READ)
def test_ranges_are_read(text: str) -> None:
    assert parse_frames(text) == Frames(READ[text], text=text.strip())
    assert parse_frames(f"{text} fade 2.5") == Frames(READ[text], 2.5, f"{text} fade 2.5".strip())


@pytest.mark.parametrize("text", ["", "  \n"])
def test_no_text_is_no_limit(text: str) -> None:
    assert parse_frames(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("first half", "cannot read 'first half'; write 0-50%"),
        ("0-5,", "cannot read ''"),
        ("-5", "cannot read '-5'"),
        ("50%", "percent sign on one end; write both"),
        ("10%-50", "percent sign on one end"),
        ("0-120%", "beyond 100%"),
        ("12-5", "holds no frame; write the first before the last"),
        ("50-50%", "holds no frame"),
        ("100%-", "holds no frame"),
        ("0-2.5", "no number of a frame"),
        ("0-5 fade", "cannot read '0-5 fade'"),
        ("1" * 10_001, "10000 at most"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as refused:
        parse_frames(text)
    assert refused.value.widgets == ("frames",)


def test_frames_are_counted_from_0_with_both_ends_and_percents_cut_a_frame() -> None:
    assert weights("1-2", 5) == [0, 1, 1, 0, 0]
    assert weights("0, 3-", 5) == [1, 0, 0, 1, 1]
    assert weights("0-50%", 5) == [1, 1, 0.5, 0, 0]
    assert weights("50%-", 5) == [0, 0, 0.5, 1, 1]
    assert weights("0-100%", 5) == [1] * 5 == weights("0-4", 5) == weights("0-", 5)
    assert weights("0-3, 2-", 5) == [1] * 5


def test_a_fade_is_a_ramp_around_the_edge_and_none_at_the_ends_of_the_video() -> None:
    """The mean of the ramp over each frame, by hand: from 0 at 3 to 1 at 5 for an edge at 4."""
    assert weights("4- fade 2", 8) == [0, 0, 0, 0.25, 0.75, 1, 1, 1]
    assert weights("0-3 fade 2", 8) == [1, 1, 1, 0.75, 0.25, 0, 0, 0]
    assert weights("0- fade 2", 3) == [1, 1, 1]


@given(st.integers(2, 40), st.integers(1, 38), st.floats(0.0, 20.0).map(lambda fade: round(fade, 2)))
def test_ranges_that_meet_add_up_to_the_whole(count: int, edge: int, fade: float) -> None:
    edge = min(edge, count - 1)
    first, last = (parse_frames(f"{text} fade {fade}") for text in (f"0-{edge - 1}", f"{edge}-"))
    assert first is not None and last is not None
    torch.testing.assert_close(first.weights(count) + last.weights(count), torch.ones(count))
    assert (first.weights(count).diff() <= 1e-6).all()


@given(st.text(alphabet="0123456789-%,. fade", max_size=24))
def test_any_text_is_read_or_refused_and_weights_lie_between_0_and_1(text: str) -> None:
    try:
        found = parse_frames(text)
    except Refused:
        return
    if found is not None and all(one.percent or max(one.first, one.last or 0) < 50 for one in found.ranges):
        weighted = found.weights(50)
        assert weighted.shape == (50,) and ((weighted >= 0) & (weighted <= 1)).all()


def test_frames_outside_of_the_video_and_a_picture_are_refused() -> None:
    for text in ("0-12", "12", "12-"):
        found = parse_frames(text)
        assert found is not None
        with pytest.raises(ValueError, match="there is no frame 12, the video has the frames 0-8; write those"):
            found.weights(9)
        with pytest.raises(ValueError, match="there is one picture and no video; leave frames empty"):
            found.weights(1)


# Frames of the video and of the latent


def test_the_first_frame_of_a_latent_stands_for_one_and_the_others_for_several() -> None:
    timeline = Timeline(3, 4)  # 0 | 1-4 | 5-8
    assert timeline.shown == 9 and "0-8" in timeline.about and "each other for 4" in timeline.about
    assert timeline.in_call(torch.arange(9.0)).tolist() == [0.0, 2.5, 6.5]
    assert timeline.in_call(torch.tensor([5.0, 6.0, 7.0])).tolist() == [5.0, 6.0, 7.0]
    pair = torch.tensor([[2.0], [4.0]])  # any other number is stretched, 4.5 frames each
    assert timeline.in_call(pair).flatten().tolist() == [2.0, 2.25, 4.0]
    assert timeline._replace(merged=2).in_call(torch.arange(9.0)).tolist() == [1.25, 6.5]


def test_a_context_window_has_its_own_frames() -> None:
    x, whole = torch.arange(6.0), Timeline(2)
    window = SimpleNamespace(index_list=[3, 4], total_frames=6)
    assert whole.in_window({WINDOW: window}).in_call(x).tolist() == [3.0, 4.0]
    window = SimpleNamespace(index_list=[4], total_frames=6, causal_anchor_index=3)
    assert whole.in_window({WINDOW: window}).in_call(x).tolist() == [3.0, 4.0]
    evolved = {"sub_idxs": [0, 5], "full_length": 6}
    assert whole.in_window({EVOLVED: evolved}).in_call(x).tolist() == [0.0, 5.0]
    assert whole.in_window({EVOLVED: {"sub_idxs": None, "full_length": 2}}) is whole
    with pytest.raises(ValueError, match="window of 1 frames was called with 2"):
        whole.in_window({WINDOW: SimpleNamespace(index_list=[4], total_frames=6)})


def test_the_latent_of_a_transformer_tells_its_frames() -> None:
    net = SimpleNamespace(patch_size=(2, 2, 2))
    found = tokens_of(net, FAMILIES["WanModel"], torch.zeros(1, 16, 5, 8, 12), {}, 4)
    assert found is not None and found.grid == (3, 4, 6) and found.time == Timeline(5, 4, 2)
    uneven = tokens_of(net, FAMILIES["MiniMaxH3Model"], torch.zeros(1, 16, 5, 8, 12), {}, 4)
    assert uneven is not None and uneven.time.ratio == 1
    picture = tokens_of(net, FAMILIES["Flux"], torch.zeros(1, 16, 8, 12), {}, 1)
    assert picture is not None and picture.time.shown == 1
