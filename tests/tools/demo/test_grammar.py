"""Captions, tokens, pictures and the judge agree with each other."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from attention_patchbay.ldm_patched.demo import CLIP, CONTEXT_LENGTH, SIZE
from attention_patchbay.ldm_patched.demo.captions import COLOURS, PLACES, SHAPES, Thing, read, write
from attention_patchbay.ldm_patched.demo.tokenizer import END, START, UNKNOWN, VOCABULARY, DemoTokenizer, pad
from attention_patchbay.tools.demo.draws import complete, draw_captions, draw_things
from attention_patchbay.tools.demo.judge import components, judge, look
from attention_patchbay.tools.demo.picture import RGB, draw


def test_a_caption_reads_as_it_was_written():
    assert read("a red circle on the left and a blue square on the right") == (
        Thing("circle", "red", "left"),
        Thing("square", "blue", "right"),
    )
    for caption in draw_captions(200, seed=1):
        assert write(read(caption)) == caption


def test_captions_leave_attributes_open():
    captions = draw_captions(200, seed=1)
    assert any(thing.colour is None for caption in captions for thing in read(caption))
    assert any(thing.place is None for caption in captions for thing in read(caption))
    assert len(set(captions)) > 150


@pytest.mark.parametrize(
    "caption", ["", "a pink circle", "red circle", "a circle on the top", "a circle and a cross and a square", "a red"]
)
def test_the_grammar_is_closed(caption):
    with pytest.raises(ValueError):
        read(caption)


def test_completing_keeps_what_is_said():
    rng = random.Random(0)
    for caption in draw_captions(100, seed=2):
        told = read(caption)
        full = complete(told, rng)
        for thing, whole in zip(told, full, strict=True):
            assert whole.colour and whole.place
            assert replace(whole, colour=thing.colour, place=thing.place) == thing


def test_the_judge_is_right_about_drawn_pictures():
    rng = random.Random(0)
    right = 0
    for caption in draw_captions(300, seed=3):
        told = read(caption)
        right += judge(told, draw(complete(told, rng), rng)[0])
    assert right >= 297


@pytest.mark.parametrize("attribute", ["colour", "shape", "place"])
def test_the_judge_refuses_one_wrong_attribute(attribute):
    rng = random.Random(0)
    values = {"colour": COLOURS, "shape": SHAPES, "place": tuple(PLACES)}[attribute]
    for _ in range(100):
        (thing,) = draw_things(rng, two=0.0)
        wrong = rng.choice([value for value in values if value != getattr(thing, attribute)])
        assert not judge((replace(thing, **{attribute: wrong}),), draw((thing,), rng)[0])


def test_the_judge_counts_objects_and_binds_attributes():
    rng = random.Random(0)
    pair = read("a red circle on the left and a blue square on the right")
    picture, masks = draw(pair, rng)
    assert judge(pair, picture) and judge(pair[::-1], picture)
    assert not judge(pair[:1], picture)
    assert not judge(read("a blue circle on the left and a red square on the right"), picture)
    assert not judge(read("a red circle on the right and a blue square on the left"), picture)
    assert not judge(pair, draw(pair[:1], rng)[0])
    assert masks.shape == (2, SIZE, SIZE)


def test_the_judge_sees_nothing_in_noise_or_an_empty_picture():
    rng = np.random.default_rng(0)
    assert look(np.full((SIZE, SIZE, 3), 0.95, dtype=np.float32)) == []
    assert look(rng.random((SIZE, SIZE, 3), dtype=np.float32)) == []


def test_components_are_four_connected():
    mask = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]], dtype=bool)
    assert sorted(part.sum() for part in components(mask)) == [1, 4]


def test_a_picture_shows_the_true_colour_inside_the_true_mask():
    rng = random.Random(4)
    for _ in range(50):
        things = draw_things(rng)
        picture, masks = draw(things, rng)
        assert picture.dtype == np.float32 and picture.min() >= 0.0 and picture.max() <= 1.0
        assert (masks.sum(0) <= 1.0).all()
        for thing, mask in zip(things, masks, strict=True):
            assert np.allclose(picture[mask == 1.0], RGB[thing.colour], atol=1e-6)


def test_tokens():
    tokenizer = DemoTokenizer.from_pretrained("anywhere", local_files_only=True)
    assert tokenizer("")["input_ids"] == [START, END]
    ids = tokenizer("A red, wobbly circle")["input_ids"]
    assert ids[0] == START and ids[-1] == END and ids[3] == UNKNOWN and len(ids) == 6
    assert tokenizer.decode(ids) == "a red circle"
    assert tokenizer.get_vocab() == VOCABULARY and len(VOCABULARY) == CLIP["vocab_size"]
    assert VOCABULARY["<end>"] == CLIP["eos_token_id"] == END


def test_every_caption_is_known_and_fits():
    tokenizer = DemoTokenizer()
    for caption in draw_captions(100, seed=5):
        ids = tokenizer(caption)["input_ids"]
        assert UNKNOWN not in ids and tokenizer.decode(ids) == caption
        assert len(pad(ids)) == CONTEXT_LENGTH and set(pad(ids)[len(ids) :]) == {END}
    with pytest.raises(ValueError, match="80 tokens"):
        pad([END] * 80)
